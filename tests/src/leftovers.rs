//! What a test must not leave behind.

use std::{collections::BTreeSet, fs};

use crate::netns::own_prefix;

/// Everything on this machine whose name says that this process made it.
///
/// Links in a namespace go with the namespace, so namespaces, processes, mounts, directories and the links of the
/// machine's own namespace are all that can stay.
#[must_use]
pub fn of_this_process() -> BTreeSet<String> {
    let prefix = own_prefix();
    let mut found = BTreeSet::new();
    found.extend(
        entries("/run/netns")
            .filter(|name| name.starts_with(&prefix))
            .map(|name| format!("namespace {name}")),
    );
    found.extend(
        entries("/run").filter(|name| name.starts_with(&prefix)).map(|name| format!("directory /run/{name}")),
    );
    found.extend(processes().filter(|line| line.contains(&prefix)).map(|line| format!("process {line}")));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&prefix)).map(|line| format!("mount {line}")));
    found
}

/// Links of the machine's own namespace.
#[must_use]
pub fn machine_links() -> BTreeSet<String> {
    entries("/sys/class/net").collect()
}

fn entries(dir: &str) -> impl Iterator<Item = String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Process ids with command lines.
fn processes() -> impl Iterator<Item = String> {
    entries("/proc").filter(|name| name.bytes().all(|b| b.is_ascii_digit())).filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " ")))
    })
}
