//! Networks of both families, with `docker` commands.

use overlay_tests::wait;

use crate::dock::{Dock, Docker, OURS, SOON};

/// What Docker says is a container's IPv6 address.
#[track_caller]
fn ipv6(docker: &Docker<'_>, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").GlobalIPv6Address}}}}");
    docker.cli(&["inspect", "--format", &format, container]).expect_success().trim().to_owned()
}

#[test]
fn containers_of_a_network_of_both_families_have_both_addresses_and_find_each_other_by_both() {
    let dock = Dock::new();
    let (one, two) = (dock.on(1), dock.on(2));
    dock.network(1, "six", "--ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64 --gateway fd00:9::99");
    for docker in [&one, &two] {
        let network = docker.must("network inspect six");
        for part in ["\"EnableIPv6\": true", "\"Subnet\": \"fd00:9::/64\""] {
            assert!(network.contains(part), "no {part} in {network}");
        }
    }

    // Asked for and given, inside and in what Docker tells.
    one.must("run -d --name anna --network six --ip 10.9.0.77 --ip6 fd00:9::77 --dns 10.9.0.1 busybox");
    two.must("run -d --name bert --network six --dns 10.9.0.1 busybox");
    assert_eq!(
        (ipv6(&one, "anna", "six"), ipv6(&two, "bert", "six")),
        ("fd00:9::77".into(), "fd00:9::2".into())
    );
    assert_eq!(
        (one.address("anna", "six"), two.address("bert", "six")),
        ("10.9.0.77".into(), "10.9.0.2".into())
    );
    let inside = one.must("exec anna ip -6 addr show eth0");
    assert!(inside.contains("inet6 fd00:9::77/64"), "{inside}");
    let route = one.must("exec anna ip -6 route");
    assert!(route.contains("default via fd00:9::99 dev eth0"), "{route}");

    // Across hosts, the gateway too, and by name.
    assert!(
        two.pings("bert", "fd00:9::77") && one.pings("anna", "fd00:9::2") && one.pings("anna", "fd00:9::99")
    );
    assert!(two.pings("bert", "10.9.0.77"));
    let answers = |name: &str, address: &str| {
        one.run(&format!("exec anna nslookup -type=AAAA {name} 10.9.0.1")).stdout.contains(address)
    };
    wait::until("the other host's container has a name", SOON, || answers("bert", "fd00:9::2"));

    // An address is somebody's, until he goes.
    let taken = two.refused("run -d --name carl --network six --ip6 fd00:9::77 busybox");
    assert!(taken.contains("fd00:9::77 of six belongs to"), "{taken}");
    two.must("rm -f carl");
    one.must("rm -f anna");
    two.must("run -d --name carl --network six --ip6 fd00:9::77 busybox");
    assert!(two.pings("carl", "fd00:9::99"));
    dock.verify();

    // A subnet that nobody named, and a network that was there before.
    one.must(&format!("network create {OURS} --ipv6 chosen"));
    one.must("run -d --name dora --network chosen busybox");
    assert!(ipv6(&one, "dora", "chosen").starts_with("fd"), "{}", ipv6(&one, "dora", "chosen"));
    dock.agent(2).overlay(&["network", "create", "old", "--subnet", "fd00:7::/64"]);
    two.must(&format!("network create {OURS} --ipam-opt overlay.name=old old"));
    two.must("run -d --name emil --network old busybox");
    assert_eq!(ipv6(&two, "emil", "old"), "fd00:7::2");
    dock.verify();
}
