//! Taking secrets out of text: those that are known, and what looks like one.

use std::sync::LazyLock;

use regex::{Captures, Regex};

const REMOVED: &str = "[removed]";
/// A known secret shorter than this would take half of the text with it; by its name it is found all the same.
const SHORTEST: usize = 4;

/// Names of what is nobody's business; what follows is the path of a file only if the name says so.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?i)(-{0,2}[\w.]*[\w.-]*(?:token|passw(?:or)?d|passphrase|secret|credential|api[_-]?key|private[_-]?key|authorization)[\w.-]*)(["']?\s*[:=]\s*|\s+)(\[?"[^"\n]*"|\[?'[^'\n]*'|(?:(?:bearer|basic|digest)\s+)?[^\s",;]+)"#,
    )
});
/// User and password in an address.
static USER_INFO: LazyLock<Regex> = LazyLock::new(|| regex(r#"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s"'@]+@"#));
/// Parameters of an address, where tokens stand.
static PARAMETERS: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"([a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'?#]+)\?[^\s"']*"#));
static PRIVATE_KEY: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)")
});

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns are tested")
}

/// Takes secrets out of text.
#[derive(Debug, Default)]
pub struct Redactor {
    secrets: Vec<String>,
}

impl Redactor {
    /// One that knows these secrets.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let lines = secrets.into_iter().flat_map(|secret| {
            // A key is found in one piece and line by line, as logs and JSON break it.
            let lines: Vec<String> = secret.lines().map(str::trim).map(str::to_owned).collect();
            [secret.trim().to_owned()].into_iter().chain(lines)
        });
        let mut secrets: Vec<String> = lines.filter(|secret| secret.len() >= SHORTEST).collect();
        // The longest first: one may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// The text without secrets.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let known = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, REMOVED));
        let text = PRIVATE_KEY.replace_all(&known, REMOVED);
        let text = USER_INFO.replace_all(&text, format!("${{1}}{REMOVED}@"));
        let text = PARAMETERS.replace_all(&text, format!("${{1}}?{REMOVED}"));
        NAMED.replace_all(&text, named).into_owned()
    }
}

fn named(found: &Captures<'_>) -> String {
    let (name, between, value) = (&found[1], &found[2], &found[3]);
    // Words of a sentence (`the token of …`) have no sign between them; options of a command line do begin with one.
    let is_option = name.starts_with('-');
    let is_path = name.to_lowercase().trim_end_matches(['"', '\'']).ends_with("file");
    if is_path || (between.trim().is_empty() && !is_option) {
        return found[0].to_owned();
    }
    let quote =
        value.chars().next().filter(|c| matches!(c, '"' | '\'')).map(String::from).unwrap_or_default();
    format!("{name}{between}{quote}{REMOVED}{quote}")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("store_token = \"abc\"", "store_token = \"[removed]\"")]
    #[case("OVERLAY_STORE_PASSWORD=abc", "OVERLAY_STORE_PASSWORD=[removed]")]
    #[case("{\"password\": \"a b\", \"x\": 1}", "{\"password\": \"[removed]\", \"x\": 1}")]
    #[case("--store-token abc --node host1", "--store-token [removed] --node host1")]
    #[case("Authorization: Bearer abc.def", "Authorization: [removed]")]
    #[case("etcd://user:abc@10.0.0.1:2379/x", "etcd://[removed]@10.0.0.1:2379/x")]
    #[case("consul://10.0.0.1:8500?token=abc", "consul://10.0.0.1:8500?[removed]")]
    #[case("-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nx", "[removed]\nx")]
    #[case("-----BEGIN PRIVATE KEY-----\nabc", "[removed]")]
    fn what_looks_like_a_secret_goes(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(Redactor::default().redact(text), expected);
    }

    #[rstest]
    #[case("store_token_file = \"/etc/overlay/token\"")]
    #[case("--store-password-file /etc/overlay/password --node host1")]
    #[case("the token of host1 was not accepted")]
    #[case("sqlite:///var/lib/overlay/overlay.db, revision 7")]
    #[case("mac 02:42:0a:00:00:02 key: 7")]
    fn what_helps_stays(#[case] text: &str) {
        assert_eq!(Redactor::default().redact(text), text);
    }

    #[test]
    fn a_known_secret_goes_wherever_it_stands_and_a_key_line_by_line() {
        let redactor =
            Redactor::new(["hunter2".to_owned(), "line one\nline two\n".to_owned(), "no".to_owned()]);
        assert_eq!(redactor.redact("xhunter2x, no: line two"), "x[removed]x, no: [removed]");
    }
}
