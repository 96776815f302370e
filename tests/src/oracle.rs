//! The oracle: holds store, maps, links, devices and neighbours of every host against each other, and says
//! whatever does not fit.
//!
//! It is written apart from the agent, which has a look of its own (`overlay verify`): from the store's table and
//! the kernel's tools, by the layout that `docs/architecture.md` tells. Neither may be right by the other's mistake.
//!
//! * `store`: the records, as they lie in the store
//! * `expected`: what they ask of a host, as lines of text
//! * `kernel`: what the host has, in the same lines
//!
//! Meant for quiet points: what is being changed just now is a difference too.

mod expected;
mod kernel;
mod rules;
mod store;

use std::{collections::BTreeSet, time::Duration};

use self::{expected::Expected, kernel::Kernel, store::Records};
use crate::{host::Host, topology::Cluster, wait};

/// Longest time until a cluster that is left alone is in order: what the agents repair at once, they do within this.
const QUIET: Duration = Duration::from_secs(5);

/// All differences, over all hosts.
///
/// # Panics
/// If the store or a host cannot be looked at.
#[must_use]
#[track_caller]
pub fn differences(cluster: &Cluster) -> Vec<String> {
    let records = Records::read(&cluster.hosts[0]);
    let of_host = |host: &Host| {
        let found = Kernel::read(host, &records);
        let wanted = Expected::of(&records, host, &found, &cluster.hosts);
        compare(host.label(), &wanted.lines, &found.lines)
    };
    records.contradictions().into_iter().chain(cluster.hosts.iter().flat_map(of_host)).collect()
}

/// Waits until there is no difference.
///
/// # Panics
/// If there still is after some seconds; says all of them.
#[track_caller]
pub fn expect_agreement(cluster: &Cluster) {
    if wait::poll(QUIET, || differences(cluster).is_empty().then_some(())).is_some() {
        return;
    }
    let differences = differences(cluster);
    assert!(differences.is_empty(), "the oracle found:\n  {}", differences.join("\n  "));
}

fn compare(host: &str, wanted: &BTreeSet<String>, found: &BTreeSet<String>) -> Vec<String> {
    let missing = wanted.difference(found).map(|line| format!("{host}: missing: {line}"));
    let foreign = found.difference(wanted).map(|line| format!("{host}: should not be: {line}"));
    missing.chain(foreign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_should_not_be_are_told_apart() {
        let set = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(
            compare("host1", &set(&["a", "b"]), &set(&["b", "c"])),
            ["host1: missing: a", "host1: should not be: c"]
        );
    }
}
