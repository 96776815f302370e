//! The walk through Docker's overlay network that this project is to replace, with `docker` commands.

use overlay_tests::{underlay::MTU, wait};

use crate::dock::{Dock, SOON};

#[test]
fn the_walk_through_an_overlay_network_goes_as_with_dockers_own() {
    let dock = Dock::new();
    let (one, two) = (dock.on(1), dock.on(2));
    dock.network(1, "ov_net1", "");
    assert!(one.must("network ls").contains("ov_net1"));
    let network = one.must("network inspect ov_net1");
    assert!(
        network.contains("\"Subnet\": \"10.0.0.0/24\"") && network.contains("\"Gateway\": \"10.0.0.1"),
        "{network}"
    );

    // A container on each host: one interface, the addresses in order, whatever the host.
    one.must("run -itd --name bbox1 --network ov_net1 --dns 10.0.0.1 busybox");
    two.must("run -itd --name bbox2 --network ov_net1 --dns 10.0.0.1 --network-alias second busybox");
    assert_eq!(one.address("bbox1", "ov_net1"), "10.0.0.2");
    assert_eq!(two.address("bbox2", "ov_net1"), "10.0.0.3");
    let interfaces = one.must("exec bbox1 ip addr");
    assert!(interfaces.contains("inet 10.0.0.2/24") && interfaces.contains("mtu 1450"), "{interfaces}");
    assert!(interfaces.contains("eth0") && !interfaces.contains("eth1"), "{interfaces}");
    let routes = one.must("exec bbox1 ip route");
    assert!(routes.contains("default via 10.0.0.1 dev eth0"), "{routes}");
    assert!(!one.must("network ls").contains("docker_gwbridge"), "no second network for the way out");

    // Across hosts, by address and by every name that the other has, and out into the world.
    assert!(two.pings("bbox2", "10.0.0.2") && one.pings("bbox1", "10.0.0.3"));
    let short_id = two.must("ps -q --filter name=bbox2");
    for name in ["bbox2", "BBOX2.ov_net1", "second", &short_id] {
        wait::until("the other host's container has a name", SOON, || one.pings("bbox1", name));
    }
    assert!(two.pings("bbox2", "bbox1"));
    let endpoints: Vec<serde_json::Value> = dock.agent(1).json(&["endpoint", "inspect", "bbox2"]);
    assert_eq!(
        (&endpoints[0]["ifname"], &endpoints[0]["node"]),
        (&"eth0".into(), &"host2".into()),
        "{endpoints:?}"
    );
    let stranger = dock.cluster.underlay.add_host("stranger", MTU);
    assert!(one.pings("bbox1", &stranger.addr.ip.to_string()), "the world outside");

    // A second network is apart, until the container is connected to the first.
    dock.network(2, "ov_net2", "");
    two.must("run -itd --name bbox3 --network ov_net2 busybox");
    assert_eq!(two.address("bbox3", "ov_net2"), "10.0.1.2");
    assert!(!two.pings("bbox3", "10.0.0.2"), "networks are apart");
    two.must("network connect ov_net1 bbox3");
    assert_eq!(two.address("bbox3", "ov_net1"), "10.0.0.4");
    assert!(two.pings("bbox3", "10.0.0.2") && one.pings("bbox1", "10.0.0.4"));
    two.must("network disconnect ov_net1 bbox3");
    assert!(!two.pings("bbox3", "10.0.0.2"));
    dock.verify();

    // A network that somebody uses stays for him; one that nobody uses is gone everywhere. Nothing stays of what goes.
    one.must("rm -f bbox1");
    one.must("network rm ov_net1");
    let known = |name: &str| dock.agent(1).cli(&["network", "inspect", name]).is_success();
    assert!(known("ov_net1") && two.pings("bbox2", "10.0.0.1"), "the other host uses it");
    two.must("rm -f bbox2 bbox3");
    assert_eq!(dock.agent(1).endpoints().len(), 0);
    two.must("network rm ov_net1 ov_net2");
    wait::until("the networks are gone", SOON, || !known("ov_net1") && !known("ov_net2"));
    wait::until("the copy is gone", SOON, || !one.must("network ls").contains("ov_net"));
    let devices = dock.agent(2).netns().ip(&["-br", "link"]);
    assert!(!devices.contains("ovc"), "{devices}");
    dock.verify();
}
