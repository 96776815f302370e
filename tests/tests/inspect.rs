//! What there is to see of networks and endpoints, from any host, as a Docker user would look for it.

use overlay_tests::{container::Container, topology::two_hosts, underlay::Wire, views::Endpoint};
use serde_json::Value;

#[test]
fn a_network_shows_its_members_on_all_hosts_and_lists_are_chosen_from() {
    let cluster = two_hosts(Wire::Offload);
    let [near, far] = [0, 1].map(|i| &cluster.hosts[i]);
    cluster.network("web_net", &["--subnet", "10.1.0.0/16", "--label", "team=web", "--label", "tier=front"]);
    cluster.network("db_net", &["--internal", "--label", "team=db"]);
    let mut front = Container::new("front");
    let flags = ["--ip", "10.1.2.3", "--mac", "02:00:00:00:01:02", "--alias", "www", "--alias", "site"];
    front.attach(near, "web_net", &[&flags[..], &["--label", "app=web", "--label", "canary="]].concat());
    let mut back = Container::new("back");
    back.attach(far, "web_net", &["--label", "app=web"]);
    let third = Container::attached(far, "db_net", "third");
    assert_eq!(third.endpoint().network, "db_net");

    for host in [near, far] {
        let network: Value = host.json(&["network", "inspect", "web_net"]);
        let shown = |field: &str| -> Vec<String> {
            let members = network["endpoints"].as_array().expect("members").iter();
            members.map(|member| member[field].as_str().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(shown("name"), ["back", "front"]);
        assert_eq!(shown("node"), ["host2", "host1"]);
        assert_eq!(shown("ip"), ["10.1.0.2/16", "10.1.2.3/16"]);
        assert_eq!(shown("mac"), ["02:42:0a:01:00:02", "02:00:00:00:01:02"]);
        assert_eq!(network["endpoints"][1]["aliases"], serde_json::json!(["www", "site"]));
        assert_eq!(network["labels"]["tier"], "front");

        let networks = |filters: &[&str]| names(&host.json(&[&["network", "ls"], filters].concat()));
        assert_eq!(networks(&["--filter", "label=team"]), ["db_net", "web_net"]);
        assert_eq!(networks(&["--filter", "label=team=db"]), ["db_net"]);
        assert_eq!(networks(&["--filter", "name=web"]), ["web_net"]);
        assert_eq!(networks(&["--filter", "internal=true"]), ["db_net"]);
        assert_eq!(networks(&["--filter", "name=net", "--filter", "internal=false"]), ["web_net"]);
        assert!(networks(&["--filter", "multicast=true"]).is_empty());
        let endpoints = |filters: &[&str]| names(&host.json(&[&["endpoint", "ls"], filters].concat()));
        assert_eq!(endpoints(&["--filter", "label=app=web"]), ["back", "front"]);
        assert_eq!(endpoints(&["--filter", "label=app=web", "--filter", "label=canary"]), ["front"]);
        assert_eq!(endpoints(&["--filter", "node=host2"]), ["back", "third"]);
        assert_eq!(endpoints(&["--filter", "ip=10.1.2.3"]), ["front"]);
        assert_eq!(endpoints(&["--filter", "name=fro", "--filter", "name=third"]), ["front", "third"]);
    }

    // What is taken or cannot be is refused before anything is made.
    let box_ = Container::new("box");
    for (flags, sentence) in [
        (["--ip", "10.1.2.3"], "address 10.1.2.3 of web_net belongs to front"),
        (["--ip", "10.2.0.1"], "10.1.0.0/16"),
        (["--mac", "02:00:00:00:01:02"], "MAC 02:00:00:00:01:02 belongs to front in web_net"),
        (["--mac", "03:00:00:00:00:01"], "must be a unicast address"),
    ] {
        let words = [&["attach", "web_net", "--netns", box_.netns().name()][..], &flags].concat();
        let refused = near.cli(&words);
        assert!(!refused.is_success() && refused.stderr.contains(sentence), "{sentence:?}: {refused}");
    }
    let all: Vec<Endpoint> = near.json(&["endpoint", "ls"]);
    assert_eq!(all.len(), 3);
    assert_eq!(names(&near.json(&["network", "prune", "--dry-run"])), Vec::<String>::new());
}

/// What the things in a list are called, in alphabetical order.
fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<_> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}
