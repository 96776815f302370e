//! The MTU of containers: what the underlay leaves, followed as it changes, and what a narrower way on it takes.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use overlay_common::verdict::DropReason;
use overlay_tests::{
    container::Container,
    drops::Drops,
    host::Host,
    oracle,
    topology::{Cluster, Plan, settle, two_hosts},
    traffic::bulk,
    underlay::{UNDERLAY_IFNAME, Wire},
    wait,
};
use serde_json::Value;

/// Longest time until all containers have another MTU.
const FOLLOWED: Duration = Duration::from_secs(3);
/// Longest time until what a router said is in force: a look every two seconds.
const LEARNED: Duration = Duration::from_secs(6);
/// Bytes that encapsulation adds to a container's IP packet.
const OVERHEAD: u16 = 50;
/// Headers of a ping.
const PING_HEADERS: u16 = 28;
const MEGABYTE: usize = 1 << 20;

/// Gives the wire of every host another MTU, on both ends.
fn set_underlay_mtu(cluster: &Cluster, mtu: u16) {
    let mtu = mtu.to_string();
    for host in &cluster.hosts {
        cluster.underlay.netns().ip(&["link", "set", host.port(), "mtu", &mtu]);
        host.netns().ip(&["link", "set", UNDERLAY_IFNAME, "mtu", &mtu]);
    }
}

fn mtu_of(container: &Container) -> u64 {
    let shown = container.netns().ip(&["-j", "link", "show", "eth0"]);
    let links: Vec<Value> = serde_json::from_str(&shown).expect("ip writes JSON");
    links[0]["mtu"].as_u64().expect("an MTU")
}

/// Whether an IP packet of so many bytes comes back, unfragmented.
fn passes(from: &Container, to: Ipv4Addr, bytes: u16) -> bool {
    let size = (bytes - PING_HEADERS).to_string();
    let ping = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", &size, &to.to_string()];
    from.netns().run(&ping).is_success()
}

#[track_caller]
fn expect_mtu(containers: [&Container; 2], mtu: u16) {
    wait::until("the containers follow", FOLLOWED, || {
        containers.iter().all(|container| mtu_of(container) == u64::from(mtu))
    });
    let [a, b] = containers;
    for (from, to) in [(a, b), (b, a)] {
        assert!(passes(from, to.addr().ip, mtu), "a packet of {mtu} bytes");
        assert!(!passes(from, to.addr().ip, mtu + 1), "a packet of {} bytes", mtu + 1);
    }
}

#[test]
fn containers_follow_the_mtu_of_the_underlay_down_and_up_without_being_made_anew() {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    cluster.network("small", &["--mtu", "1200"]);
    let small = Container::attached(&cluster.hosts[0], "small", "small");
    expect_mtu([&a, &b], 1450);
    for underlay in [1400, 1280, 9000, 1500] {
        set_underlay_mtu(&cluster, underlay);
        expect_mtu([&a, &b], underlay - OVERHEAD);
        assert_eq!(mtu_of(&small), 1200);
        let network: Value = cluster.hosts[0].json(&["network", "inspect", "net"]);
        assert_eq!(network["mtu"], underlay - OVERHEAD);
        assert_eq!(bulk::transfer(a.netns(), b.netns(), b.addr().ip, MEGABYTE), Ok(()));
    }
    set_underlay_mtu(&cluster, 1200);
    wait::until("what is set gives way", FOLLOWED, || mtu_of(&small) == 1150);
    // While no agent looks, too.
    cluster.hosts.iter().for_each(Host::kill9);
    set_underlay_mtu(&cluster, 1460);
    cluster.hosts.iter().for_each(Host::start);
    expect_mtu([&a, &b], 1410);
    assert_eq!(mtu_of(&small), 1200);
    oracle::expect_agreement(&cluster);
}

#[test]
fn an_mtu_that_somebody_changes_in_a_container_is_named_and_mended() {
    let cluster = two_hosts(Wire::Offload);
    let (a, _b) = cluster.pair();
    a.netns().ip(&["link", "set", "eth0", "mtu", "1300"]);
    let finished = cluster.hosts[0].cli(&["verify"]);
    assert_eq!(finished.code, Some(1), "{finished}");
    assert!(finished.stdout.contains("mtu 1300") && finished.stdout.contains("mtu 1450"), "{finished}");
    cluster.hosts[0].overlay(&["verify", "--repair"]);
    assert_eq!(mtu_of(&a), 1450);
}

/// Two hosts, from the first of which the way to the second leads through a router that takes packets of 1400 bytes.
fn behind_a_narrow_router() -> (Cluster, overlay_tests::underlay::Machine) {
    let cluster = Cluster::without_agents(Plan::default());
    let router = cluster.stranger();
    router.netns.sysctl("net/ipv4/ip_forward", "1");
    router.netns.sysctl("net/ipv4/conf/all/send_redirects", "0");
    router.netns.sysctl(&format!("net/ipv4/conf/{UNDERLAY_IFNAME}/send_redirects"), "0");
    let [far, via] = [cluster.hosts[1].addr().ip, router.addr.ip].map(|ip| ip.to_string());
    router.netns.ip(&["route", "add", &far, "dev", UNDERLAY_IFNAME, "mtu", "lock", "1400"]);
    cluster.hosts[0].netns().ip(&["route", "add", &far, "via", &via, "dev", UNDERLAY_IFNAME]);
    cluster.hosts.iter().for_each(Host::spawn);
    cluster.hosts.iter().for_each(Host::wait_ready);
    (cluster, router)
}

#[test]
fn a_way_that_is_narrower_than_the_interface_is_learned_told_and_forgotten() {
    let (cluster, router) = behind_a_narrow_router();
    cluster.network("net", &["--ipv6"]);
    let [near, far] = [0, 1].map(|i| &cluster.hosts[i]);
    let (a, b) = (Container::attached(near, "net", "a"), Container::attached(far, "net", "b"));
    settle(&[&a, &b]);
    let before = Drops::of(near);
    assert!(!passes(&a, b.addr().ip, 1450), "the router drops it and says so");
    let (v4, v6) = (b.addr().ip.to_string(), b.addr6().ip.to_string());
    for (to, size) in [(&v4, "1422"), (&v6, "1402")] {
        wait::until("the sender is told", LEARNED, || {
            let finished = a.netns().run(&["ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, to]);
            let text = format!("{finished}");
            text.contains("mtu = 1350") || text.contains("mtu=1350")
        });
    }
    assert!(Drops::of(near).since(&before).by_reason(DropReason::PathTooBig) > 0);
    assert!(passes(&a, b.addr().ip, 1350));
    assert!(passes(&b, a.addr().ip, 1350));
    for address in [IpAddr::from(b.addr().ip), b.addr6().ip.into()] {
        assert_eq!(bulk::transfer(a.netns(), b.netns(), address, 4 * MEGABYTE), Ok(()));
    }
    assert_eq!(bulk::transfer(b.netns(), a.netns(), a.addr().ip, 4 * MEGABYTE), Ok(()));
    near.overlay(&["verify"]);

    // As when the kernel's memory of it runs out, ten minutes later.
    let to = far.addr().ip.to_string();
    router.netns.ip(&["route", "replace", &to, "dev", UNDERLAY_IFNAME]);
    near.netns().ip(&["route", "flush", "cache"]);
    wait::until("the way is wide again", LEARNED, || {
        // What the container was told it keeps just as long.
        a.netns().ip(&["route", "flush", "cache"]);
        passes(&a, b.addr().ip, 1450)
    });
}
