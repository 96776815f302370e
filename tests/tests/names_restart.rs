//! How long nobody answers names when an agent is restarted. A program of its own: what is measured is time, and tests
//! beside it would take the processors that the new agent needs.

use std::time::Duration;

use overlay_tests::{
    container::Container,
    host::Host,
    topology::{Cluster, Plan},
    traffic::asker::Asker,
};

/// Longest time without answers.
const PAUSE: Duration = Duration::from_secs(1);

#[test]
fn names_are_back_within_a_second_when_an_agent_is_restarted() {
    let cluster = Cluster::new(Plan::default());
    let gateway = cluster.network("net", &[]).gateway;
    let host = &cluster.hosts[0];
    let asking = Container::attached(host, "net", "a");
    let _asked_for = Container::attached(&cluster.hosts[1], "net", "b");
    let restart_after: [fn(&Host); 2] = [Host::kill9, |host| assert!(host.terminate().success())];
    for end in restart_after {
        let asker = Asker::start(asking.netns(), gateway, "b");
        asker.wait_for_more(20);
        end(host);
        host.start();
        asker.wait_for_more(20);
        let report = asker.stop();
        println!("{report:?}");
        assert!(report.gap <= PAUSE, "{report:?}");
    }
}
