//! `overlay map`: ls, dump.

use std::collections::BTreeSet;

use clap::Subcommand;
use serde_json::{Map, Value};

use super::{
    CliError, complete,
    output::{Output, Style},
    watch::Watch,
};
use crate::{
    api::{
        client::Client,
        types::{MapDump, MapView},
    },
    model::Name,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the BPF maps
    #[command(visible_alias = "list", after_help = "Example:\n  overlay map ls")]
    Ls(Watch),
    /// Show what is in a BPF map, decoded, and the bpftool command that shows the same
    #[command(after_help = "Example:\n  overlay map dump fdb")]
    Dump {
        /// Name of the map
        #[arg(add = complete::maps())]
        name: Name,
        #[command(flatten)]
        watch: Watch,
    },
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Ls(watch) => {
                let fetch = async || Ok(client.maps().await?);
                watch.show(out, fetch, |maps, style| table(maps, style)).await
            }
            Self::Dump { name, watch } => {
                watch.show(out, async || Ok(client.dump_map(&name).await?), dump).await
            }
        }
    }
}

pub(super) fn table(maps: &[MapView], style: Style) -> String {
    let row = |map: &MapView| {
        [
            map.name.clone(),
            map.entries.to_string(),
            map.max_entries.to_string(),
            map.description.clone(),
            map.bpftool.clone(),
        ]
    };
    style.table(["NAME", "ENTRIES", "CAPACITY", "DESCRIPTION", "BPFTOOL"], maps.iter().map(row))
}

pub(super) fn dump(map: &MapDump, style: Style) -> String {
    let columns = columns(&map.entries);
    let row = |entry: &Map<String, Value>| {
        columns.iter().map(|column| cell(entry.get(*column))).collect::<Vec<_>>()
    };
    let headers = columns.iter().map(|column| column.to_uppercase());
    format!("{}\n# {}\n", style.table(headers, map.entries.iter().map(row)), map.bpftool)
}

/// The fields of all entries, in the order in which they come first.
fn columns(entries: &[Map<String, Value>]) -> Vec<&String> {
    let mut seen = BTreeSet::new();
    entries.iter().flat_map(Map::keys).filter(|key| seen.insert(*key)).collect()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}
