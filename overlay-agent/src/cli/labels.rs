//! `--label` and `--filter`: free text on networks and endpoints, and choosing by it.

use std::collections::BTreeMap;

use clap::Args;

/// Labels of something that is made.
#[derive(Debug, Args)]
pub(super) struct Labels {
    /// Free text; may be given several times
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(Labels { labels }: Labels) -> Self {
        labels.into_iter().collect()
    }
}

pub(super) fn label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label has the form KEY=VALUE"),
    }
}

/// As people read them.
pub(super) fn shown(labels: &BTreeMap<String, String>) -> String {
    let texts: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    super::output::or_dash((!texts.is_empty()).then(|| texts.join(", ")))
}

/// One condition of a `--filter`, for things with these fields besides labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    field: String,
    value: String,
}

impl Filter {
    /// A parser for `--filter FIELD=VALUE` that knows these fields, and `label=KEY` and `label=KEY=VALUE`.
    pub(super) fn parser(
        fields: &'static [&'static str],
    ) -> impl Fn(&str) -> Result<Self, String> + Clone + Send + Sync + 'static {
        move |text| match text.split_once('=') {
            Some((field, value)) if field == "label" || fields.contains(&field) => {
                Ok(Self { field: field.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("a filter has the form FIELD=VALUE, with one of {}, label", fields.join(", "))),
        }
    }

    /// Whether something fits, by its labels and the field that it has under a name: all conditions on labels, and of those
    /// on a field one, as with Docker. A name fits if it contains what is asked for.
    pub(super) fn all_fit(
        filters: &[Self],
        labels: &BTreeMap<String, String>,
        field: impl Fn(&str) -> String,
    ) -> bool {
        let fits = |filter: &Self| match filter.field.as_str() {
            "label" => filter.fits_label(labels),
            "name" => field("name").contains(&filter.value),
            other => field(other) == filter.value,
        };
        let of_same_field =
            |filter: &Self| filters.iter().filter(|other| other.field == filter.field).any(&fits);
        filters
            .iter()
            .all(|filter| if filter.field == "label" { fits(filter) } else { of_same_field(filter) })
    }

    fn fits_label(&self, labels: &BTreeMap<String, String>) -> bool {
        match self.value.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|there| there == value),
            None => labels.contains_key(&self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], true)]
    #[case(&["label=app"], true)]
    #[case(&["label=app=web"], true)]
    #[case(&["label=app=db"], false)]
    #[case(&["label=other"], false)]
    #[case(&["label=expr=a=b"], true)]
    #[case::all_labels(&["label=app", "label=other"], false)]
    #[case(&["name=one"], true)]
    #[case::part_of_a_name(&["name=on"], true)]
    #[case(&["name=two"], false)]
    #[case::one_of_two_names(&["name=two", "name=one"], true)]
    #[case::a_name_and_a_label(&["name=one", "label=other"], false)]
    #[case(&["node=one"], true)]
    #[case::no_part_of_another_field(&["node=on"], false)]
    fn something_fits_by_all_its_labels_and_one_value_of_each_field(
        #[case] texts: &[&str],
        #[case] fits: bool,
    ) {
        let labels = [("app", "web"), ("expr", "a=b")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let parse = Filter::parser(&["name", "node"]);
        let filters: Vec<Filter> = texts.iter().map(|text| parse(text).unwrap()).collect();
        assert_eq!(Filter::all_fit(&filters, &labels, |_| "one".to_owned()), fits);
    }

    #[rstest]
    fn anything_else_is_no_filter(#[values("", "name", "colour=red", "=x")] text: &str) {
        let error = Filter::parser(&["name"])(text).unwrap_err();
        assert_eq!(error, "a filter has the form FIELD=VALUE, with one of name, label");
    }
}
