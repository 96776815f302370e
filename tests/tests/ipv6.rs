//! Dual stack: containers with addresses of both families, on real packets.

use std::{net::Ipv6Addr, time::Duration};

use overlay_common::verdict::DropReason;
use overlay_tests::{
    container::Container,
    dns::dig,
    drops::Drops,
    host::Host,
    oracle::expect_agreement,
    topology::{CONVERGENCE, Cluster, Plan, settle, two_hosts},
    traffic::{
        bulk,
        ping::{expect_no_ping, expect_ping},
        segmented,
    },
    underlay::Wire,
    wait,
};
use rstest::rstest;

const DEADLINE: Duration = Duration::from_secs(5);
const MEGABYTE: usize = 1 << 20;

/// A network of both families, `a` on the first host and `b` on the last.
#[track_caller]
fn dual_pair(cluster: &Cluster) -> (Container, Container) {
    cluster.network("net", &["--subnet", "fd00:77::/64"]);
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[cluster.hosts.len() - 1], "net", "b");
    settle(&[&a, &b]);
    (a, b)
}

/// ICMP, a checked stream, segmented UDP, the largest packet, and fragments.
#[track_caller]
fn expect_all_traffic(from: &Container, to: &Container) {
    let (netns, ip) = (from.netns(), to.addr6().ip);
    expect_ping(netns, ip, &[]);
    expect_ping(netns, ip, &["-M", "do", "-s", "1402"]);
    expect_ping(netns, ip, &["-s", "8000"]);
    assert_eq!(bulk::transfer(netns, to.netns(), ip, 8 * MEGABYTE), Ok(()));
    assert_eq!(segmented::burst(netns, to.netns(), ip, 1400, 30), segmented::datagrams(1400, 30));
}

/// Packets that a host dropped, but for what a container says by itself of groups and of its own addresses.
fn lost(host: &Host, before: &Drops) -> u64 {
    let moved = Drops::of(host).since(before);
    let chatter = [DropReason::MulticastListener, DropReason::NdUnanswered];
    moved.total() - chatter.into_iter().map(|reason| moved.by_reason(reason)).sum::<u64>()
}

#[rstest]
#[case::offload(2, Wire::Offload, "auto")]
#[case::packet(2, Wire::Packet, "auto")]
#[case::filter(2, Wire::Packet, "filter")]
#[case::decap(2, Wire::Packet, "decap")]
#[case::one_host(1, Wire::Offload, "auto")]
fn containers_exchange_all_traffic_over_ipv6_both_ways_without_a_loss(
    #[case] hosts: usize,
    #[case] wire: Wire,
    #[case] xdp: &'static str,
) {
    let cluster = Cluster::new(Plan { hosts, wire, xdp, ..Plan::default() });
    let (a, b) = dual_pair(&cluster);
    let before: Vec<Drops> = cluster.hosts.iter().map(Drops::of).collect();
    expect_all_traffic(&a, &b);
    expect_all_traffic(&b, &a);
    expect_ping(a.netns(), b.addr().ip, &[]);
    for (host, before) in cluster.hosts.iter().zip(&before) {
        assert_eq!(lost(host, before), 0, "{} dropped: {}", host.label(), Drops::of(host).since(before));
    }
}

#[test]
fn a_container_gets_addresses_routes_and_names_of_both_families_and_gives_them_back() {
    let cluster = two_hosts(Wire::Offload);
    let network = cluster.network("net", &["--subnet", "fd00:77::/64"]);
    let gateway: Ipv6Addr = "fd00:77::1".parse().unwrap();
    assert_eq!((network.ipv6_subnet.as_deref(), network.ipv6_gateway), (Some("fd00:77::/64"), Some(gateway)));
    let mut a = Container::new("a");
    a.attach(&cluster.hosts[0], "net", &["--ip", "fd00:77::99", "--ip", "10.0.0.7"]);
    let b = Container::attached(&cluster.hosts[1], "net", "b");
    settle(&[&a, &b]);
    let ipv6 = |container: &Container| container.endpoint().ipv6.clone().unwrap_or_default();
    assert_eq!([ipv6(&a), ipv6(&b)], ["fd00:77::99/64", "fd00:77::2/64"]);
    assert_eq!(a.addr().ip.to_string(), "10.0.0.7");
    let routes = a.netns().ip(&["-6", "route", "show", "default"]);
    assert!(routes.starts_with("default via fd00:77::1 dev eth0"), "{routes}");
    wait::until("the link-local address is the one that the hardware address makes", DEADLINE, || {
        let shown = a.netns().ip(&["-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"]);
        shown.contains(&a.addr().link_local().to_string())
    });
    expect_ping(a.netns(), gateway, &[]);
    expect_agreement(&cluster);
    cluster.hosts[0].overlay(&["verify"]);

    let resolver = network.gateway;
    assert_eq!(dig(a.netns(), resolver, "b", &["AAAA"]).records, ["fd00:77::2"]);
    assert_eq!(dig(a.netns(), resolver, "b", &["A"]).addresses(), [b.addr().ip]);
    let reverse = format!("9.9{}.7.7.0.0.0.0.d.f.ip6.arpa", ".0".repeat(22));
    assert_eq!(dig(b.netns(), resolver, &reverse, &["PTR"]).records, ["a.net."]);

    let again = Container::new("again");
    let words = ["attach", "net", "--netns", again.netns().name(), "--ip", "fd00:77::99"];
    let taken = cluster.hosts[1].cli(&words);
    assert!(taken.stderr.contains("address fd00:77::99 of net belongs to a"), "{taken}");
    cluster.hosts[0].overlay(&["detach", "net", "--name", "a"]);
    cluster.hosts[1].overlay(&words);
    expect_agreement(&cluster);
}

#[test]
fn networks_talk_over_ipv6_if_policy_allows_it_and_not_otherwise() {
    let cluster = two_hosts(Wire::Offload);
    cluster.network("net_a", &["--ipv6"]);
    cluster.network("net_b", &["--ipv6"]);
    let a = Container::attached(&cluster.hosts[0], "net_a", "a");
    let near = Container::attached(&cluster.hosts[0], "net_b", "near");
    let far = Container::attached(&cluster.hosts[1], "net_b", "far");
    settle(&[&near, &far]);
    let before = Drops::of(&cluster.hosts[0]);
    expect_no_ping(a.netns(), far.addr6().ip);
    assert_eq!(Drops::of(&cluster.hosts[0]).since(&before).by_reason(DropReason::PolicyDenied), 3);
    cluster.hosts[0].overlay(&["policy", "allow", "net_a", "net_b"]);
    wait::until("policy is in force", CONVERGENCE, || {
        a.netns().run(&["ping", "-c", "1", "-W", "1", &far.addr6().ip.to_string()]).is_success()
    });
    for other in [&near, &far] {
        expect_all_traffic(&a, other);
        expect_all_traffic(other, &a);
    }
    expect_agreement(&cluster);
}

#[test]
fn senders_with_too_large_an_mtu_learn_the_right_one_instead_of_hanging() {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = dual_pair(&cluster);
    for container in [&a, &b] {
        container.netns().ip(&["link", "set", "eth0", "mtu", "1500"]);
    }
    let to = b.addr6().ip.to_string();
    a.netns().run(&["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1452", &to]);
    let route = a.netns().ip(&["-6", "route", "get", &to]);
    assert!(route.contains("mtu 1450"), "the sender did not learn the MTU: {route}");
    assert_eq!(bulk::transfer(a.netns(), b.netns(), b.addr6().ip, 4 * MEGABYTE), Ok(()));
}
