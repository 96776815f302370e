//! What happens to one host: a map is full, a network has no address left, the wire is unplugged, an address moves.

use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use overlay_common::{abi::capacity, endpoint::Endpoint};
use overlay_tests::{
    container::Container,
    host::Host,
    oracle::expect_agreement,
    packet::{Addr, DISCARD_PORT, Frame},
    topology::{CONVERGENCE, settle, three_hosts, two_hosts},
    traffic::{
        flow::Flow,
        ping::{expect_ping, ping},
    },
    underlay::{UNDERLAY_IFNAME, Wire},
    wait,
};

/// Longest time until a wire that is plugged in again carries traffic.
const RECOVERY: Duration = Duration::from_secs(5);
/// Longest time until it is said that there is no address.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Takes every free place of a host's map `endpoints`, as a bug or another program of root's would.
fn fill_endpoints(host: &Host) {
    let pin = host.map_pin("endpoints");
    let map = MapData::from_pin(&pin).unwrap_or_else(|e| panic!("cannot open {}: {e}", pin.display()));
    let mut map = HashMap::<_, u32, Endpoint>::try_from(Map::HashMap(map)).expect("a hash of endpoints");
    let first = 1 << 30;
    let written = (first..).take_while(|ifindex| map.insert(ifindex, Endpoint::default(), 0).is_ok()).count();
    println!("{written} entries fill the map");
    assert!((1..capacity::ENDPOINTS).contains(&written));
}

#[test]
fn an_attachment_that_finds_a_map_full_leaves_nothing_and_the_map_is_mended() {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    let host = &cluster.hosts[0];
    let links = host.netns().links();
    fill_endpoints(host);
    let mut late = Container::new("late");
    let failed = host.cli(&["attach", "net", "--netns", late.netns().name(), "--name", "late"]);
    println!("{failed}");
    assert_eq!(failed.code, Some(1), "{failed}");
    assert!(failed.stderr.contains("endpoints"), "{failed}");
    assert!(!late.netns().has_link("eth0"));
    assert_eq!(host.netns().links(), links);
    assert_eq!(host.endpoints().len(), 2);

    wait::until("there is room again", RECOVERY, || host.cli(&["verify", "--repair"]).is_success());
    late.attach(host, "net", &[]);
    settle(&[&late, &a, &b]);
    expect_agreement(&cluster);
    let report = flow.stop();
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
}

#[test]
fn a_network_without_a_free_address_says_so_at_once() {
    let cluster = two_hosts(Wire::Offload);
    cluster.network("small", &["--subnet", "10.9.0.0/30"]);
    let only = Container::attached(&cluster.hosts[0], "small", "only");
    let next = Container::new("next");
    let start = Instant::now();
    let refused = cluster.hosts[1].cli(&["attach", "small", "--netns", next.netns().name()]);
    println!("refused after {:?}: {refused}", start.elapsed());
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("small") && refused.stderr.contains("10.9.0.0/30"), "{refused}");
    assert!(!next.netns().has_link("eth0"));
    assert_eq!(cluster.hosts[1].endpoints().len(), 1);
    assert_eq!(only.endpoint().ip, "10.9.0.2/30");
}

#[test]
fn a_wire_that_is_unplugged_and_plugged_in_again_is_used_again() {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    let host = &cluster.hosts[0];
    for round in 0..3 {
        host.netns().ip(&["link", "set", UNDERLAY_IFNAME, "down"]);
        let cut = || !ping(a.netns(), b.addr().ip, &["-c", "1", "-W", "1"]).is_success();
        wait::until("nothing passes", RECOVERY, cut);
        host.netns().ip(&["link", "set", UNDERLAY_IFNAME, "up"]);
        let passes = || ping(a.netns(), b.addr().ip, &["-c", "1", "-W", "1"]).is_success();
        let took = wait::until("traffic passes again", RECOVERY, passes);
        println!("round {round}: used again after {took:?}");
    }
    expect_agreement(&cluster);
    expect_ping(b.netns(), a.addr().ip, &[]);
}

/// The address of a container that was detached is given to another, on another host: from the moment in which that one
/// is attached everything goes there, and nothing to the place where the address was.
#[test]
fn an_address_that_moves_to_another_host_takes_all_traffic_with_it() {
    let cluster = three_hosts();
    let (bystander, sender) = cluster.pair();
    let ip = "10.0.0.77";
    let mut holder = Container::new("mover-0");
    holder.attach(&cluster.hosts[0], "net", &["--ip", ip]);
    settle(&[&holder, &sender]);
    let watch = bystander.tap();
    for round in 1..=6 {
        let (from, to) = (&cluster.hosts[(round - 1) % 2], &cluster.hosts[round % 2]);
        from.overlay(&["detach", "net", "--name", holder.name()]);
        let mut heir = Container::new(&format!("mover-{round}"));
        wait::until("the address is free there", CONVERGENCE, || {
            to.endpoints().iter().all(|endpoint| endpoint.name != holder.name())
        });
        heir.attach(to, "net", &["--ip", ip]);
        settle(&[&heir, &sender]);
        expect_only(&sender, heir.addr(), &heir, round);
        holder = heir;
    }
    let strays = watch.arrived().into_iter().filter(|frame| frame.contains(b"moving-")).count();
    assert_eq!(strays, 0, "a container that was never addressed saw {strays} of the frames");
    expect_agreement(&cluster);
}

/// All of some frames to an address arrive at its holder.
#[track_caller]
fn expect_only(sender: &Container, address: Addr, holder: &Container, round: usize) {
    let (from, to) = (sender.tap(), holder.tap());
    for number in 0..20 {
        let payload = format!("moving-{round}-{number}.");
        from.send(&Frame::udp(sender.addr(), address, (9, DISCARD_PORT), payload.as_bytes()));
        let arrived = to.find(CONVERGENCE, |frame| frame.contains(payload.as_bytes()).then_some(()));
        assert!(arrived.is_some(), "frame {number} of round {round} did not arrive");
    }
}
