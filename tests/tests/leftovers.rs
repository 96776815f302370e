//! Nothing stays: the only test of its process, since it looks at all that the process has made.

use std::{collections::BTreeSet, panic};

use overlay_tests::{leftovers, topology::two_hosts, underlay::Wire};

#[test]
fn a_cluster_leaves_nothing_behind_whether_its_test_passes_or_panics() {
    let links = leftovers::machine_links();
    for fails in [false, true] {
        let outcome = panic::catch_unwind(|| live_and_go(fails));
        assert_eq!(outcome.is_err(), fails);
        assert_eq!(leftovers::of_this_process(), BTreeSet::new());
    }
    assert_eq!(leftovers::machine_links(), links);
}

fn live_and_go(fails: bool) {
    let cluster = two_hosts(Wire::Offload);
    let _pair = cluster.pair();
    assert!(!leftovers::of_this_process().is_empty(), "there is something to leave behind");
    assert!(!fails, "on purpose");
}
