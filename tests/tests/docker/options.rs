//! What can be asked for, and what not.

use overlay_tests::underlay::MTU;

use crate::dock::{Dock, OURS};

#[test]
fn what_is_asked_for_is_had_and_what_cannot_be_is_refused_with_what_to_do() {
    let dock = Dock::new();
    let (one, two) = (dock.on(1), dock.on(2));
    let create = |more: &str| format!("network create {OURS} {more}");

    // Options of a network.
    dock.network(1, "blue", "--subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.64/26 -o overlay.vni=777 -o overlay.mtu=1300");
    let blue: serde_json::Value = dock.agent(2).json(&["network", "inspect", "blue"]);
    for (key, value) in
        [("vni", "777"), ("mtu", "1300"), ("gateway", "\"10.9.0.254\""), ("ip_range", "\"10.9.0.64/26\"")]
    {
        assert_eq!(blue[key].to_string(), value, "{key} of {blue}");
    }
    dock.network(2, "red", "-o overlay.allow=blue --subnet 10.8.0.0/24");
    let twice = two.refused(&create("--ipam-opt overlay.name=blue bleu"));
    assert!(twice.contains("has network blue already"), "{twice}");

    // Addresses.
    one.must("run -d --name web --network blue --ip 10.9.0.77 --mac-address 02:42:99:00:00:07 busybox");
    assert_eq!(one.address("web", "blue"), "10.9.0.77");
    let link = one.must("exec web ip link show eth0");
    assert!(link.contains("02:42:99:00:00:07") && link.contains("mtu 1300"), "{link}");
    two.must("run -d --name client --network red busybox");
    assert!(two.pings("client", "10.9.0.77"), "policy lets red and blue talk");
    two.must("run -d --name second --network blue busybox");
    assert_eq!(two.address("second", "blue"), "10.9.0.64", "the IP range's first");
    let taken = two.refused("run -d --name third --network blue --ip 10.9.0.77 busybox");
    assert!(taken.contains("10.9.0.77 of blue belongs to") && taken.contains("--ip"), "{taken}");
    two.must("rm -f third");

    // Ports.
    one.must("run -d --name server --network blue -p 8080:80 busybox httpd -f -p 80");
    let stranger = dock.cluster.underlay.add_host("stranger", MTU);
    let host = dock.agent(1).addr().ip.to_string();
    let url = format!("http://{host}:8080/nothing");
    let ask =
        ["curl", "--silent", "--retry", "5", "--retry-connrefused", "--write-out", "%{http_code}", &url];
    let said = stranger.netns.run(&ask);
    assert!(said.stdout.ends_with("404"), "{said}");
    let clash = one.refused("run -d --name server2 --network blue -p 8080:80 busybox");
    assert!(clash.contains("8080") && clash.contains("choose another"), "{clash}");
    one.must("rm -f server server2");
    assert!(dock.agent(1).overlay(&["publish", "ls"]).lines().all(|line| !line.contains("8080")));

    // A network without a way out.
    dock.agent(1).overlay(&["network", "create", "inside", "--internal"]);
    let public = one.refused(&create("--ipam-opt overlay.name=inside inside"));
    assert!(public.contains("add --internal"), "{public}");
    one.must(&create("--internal --ipam-opt overlay.name=inside inside"));
    one.must("run -d --name inner --network inside busybox");
    assert!(!one.pings("inner", &stranger.addr.ip.to_string()));
    assert_eq!(one.must("exec inner ip route").lines().count(), 1);
    assert!(!one.must("exec inner ip addr").contains("eth1"));
    refuses_what_cannot_be(&dock);
    dock.verify();
}

/// Says what to do instead, and leaves nothing behind.
fn refuses_what_cannot_be(dock: &Dock) {
    let one = dock.on(1);
    for (words, part) in [
        ("--ipv6 --subnet fe80::/64 six", "has no addresses for containers"),
        ("--ipv6 --subnet fd00::/64 --ipam-opt overlay.name=blue six", "blue exists without IPv6"),
        ("-o overlay.vnid=3 typo", "overlay.vni=NUMBER"),
        ("-o overlay.vni=777 --subnet 10.7.0.0/24 other", "VNI 777 belongs to another network"),
        ("-o overlay.mtu=9000 jumbo", "must lie between"),
        ("--ipam-opt overlay.nmae=x x", "overlay.name=NAME"),
        ("--ipam-opt overlay.name=blue --subnet 10.66.0.0/24 bleu", "exists with subnet 10.9.0.0/24"),
        ("--subnet 10.7.0.0/24 --subnet 10.6.0.0/24 two", "give one of each"),
        ("--subnet 10.7.0.0/24 --aux-address x=10.7.0.9 aux", "--aux-address"),
        ("-o overlay.allow=nobody lonely", "there is no network nobody"),
    ] {
        let said = one.refused(&format!("network create {OURS} {words}"));
        assert!(said.contains(part), "docker network create {words}: {said}");
    }
    let networks: Vec<serde_json::Value> = dock.agent(1).json(&["network", "ls"]);
    let names: Vec<&str> = networks.iter().filter_map(|network| network["name"].as_str()).collect();
    assert_eq!(names, ["blue", "inside", "red"], "nothing stays of what was refused");
}
