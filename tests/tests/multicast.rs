//! Broadcast and multicast in networks that were made with it: one copy to each member, on any host, and to nobody else.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use overlay_common::{flood::PACE, verdict::DropReason::*};
use overlay_tests::{
    container::Container,
    drops::Drops,
    netns::Netns,
    oracle,
    packet::{Addr, BROADCAST, DISCARD_PORT, Frame},
    tap::Tap,
    topology::{CONVERGENCE, Cluster, Plan},
    traffic::ping::expect_ping,
    underlay::Wire,
    wait,
};
use rstest::rstest;

const DEADLINE: Duration = Duration::from_secs(2);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP_MAC: [u8; 6] = [0x01, 0, 0x5e, 1, 2, 3];
const PORT: u16 = 7015;

/// Four containers of a network with multicast on three hosts, the first two on one; a stranger on each of two hosts: one in
/// another network with multicast, one in a network without.
struct Scene {
    members: Vec<Container>,
    strangers: Vec<Container>,
    cluster: Cluster,
}

impl Scene {
    #[track_caller]
    fn new(wire: Wire, xdp: &'static str) -> Self {
        let cluster = Cluster::new(Plan { hosts: 3, wire, xdp, ..Plan::default() });
        cluster.network("net", &["--multicast"]);
        cluster.network("other", &["--multicast"]);
        cluster.network("plain", &[]);
        let place = |(name, host, network): (&str, usize, &str)| {
            Container::attached(&cluster.hosts[host], network, name)
        };
        let members = [("a", 0, "net"), ("b", 0, "net"), ("c", 1, "net"), ("d", 2, "net")].map(place).into();
        let strangers = [("x", 0, "other"), ("y", 1, "plain")].map(place).into();
        oracle::expect_agreement(&cluster);
        Self { members, strangers, cluster }
    }
}

/// Frames of one sender, told by their payload.
fn frames(tap: &Tap, payload: &[u8]) -> usize {
    tap.arrived().iter().filter(|frame| frame.contains(payload)).count()
}

#[rstest]
#[case(Wire::Offload, "off")]
#[case(Wire::Packet, "filter")]
#[case(Wire::Packet, "decap")]
fn each_member_on_any_host_gets_one_copy_and_nobody_else_gets_any(
    #[case] wire: Wire,
    #[case] xdp: &'static str,
) {
    let scene = Scene::new(wire, xdp);
    let taps: Vec<Tap> = scene.members.iter().map(Container::tap).collect();
    let strangers: Vec<Tap> = scene.strangers.iter().map(Container::tap).collect();
    let before: Vec<Drops> = scene.cluster.hosts.iter().map(Drops::of).collect();
    for (sender, tap) in scene.members.iter().zip(&taps) {
        let subnet = u32::from(sender.addr().ip) | 0xff;
        for (what, to) in [
            ("broadcast", Addr { mac: BROADCAST, ip: Ipv4Addr::BROADCAST }),
            ("broadcast of the subnet", Addr { mac: BROADCAST, ip: subnet.into() }),
            ("multicast", Addr { mac: GROUP_MAC, ip: GROUP }),
        ] {
            let payload = format!("{what} from {}", sender.name());
            let frame = Frame::udp(sender.addr(), to, (1000, PORT), payload.as_bytes());
            tap.send(&frame);
            for (receiver, tap) in scene.members.iter().zip(&taps) {
                if receiver.name() == sender.name() {
                    continue;
                }
                let seen = tap.find(DEADLINE, |seen| seen.contains(payload.as_bytes()).then(|| seen.clone()));
                assert_eq!(seen.as_ref(), Some(&frame), "{} got {payload}", receiver.name());
            }
            // All have it: what else there is has come by now.
            for (member, tap) in scene.members.iter().zip(&taps) {
                assert_eq!(
                    frames(tap, payload.as_bytes()),
                    0,
                    "more copies of {payload} for {}",
                    member.name()
                );
            }
            for (stranger, tap) in scene.strangers.iter().zip(&strangers) {
                assert_eq!(frames(tap, payload.as_bytes()), 0, "{payload} for {}", stranger.name());
            }
        }
    }
    for (host, before) in scene.cluster.hosts.iter().zip(&before) {
        assert_eq!(Drops::of(host).since(before), Drops::default(), "{} dropped", host.label());
    }
}

#[test]
fn programs_that_join_a_group_hear_what_is_sent_to_it_from_another_host() {
    let scene = Scene::new(Wire::Offload, "off");
    let join = |netns: &Netns, own: Ipv4Addr| {
        netns.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("bind the group's port");
            socket.join_multicast_v4(&GROUP, &own).expect("join the group");
            socket.set_read_timeout(Some(DEADLINE)).expect("set a time-out");
            socket
        })
    };
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| &scene.members[i]);
    let sockets = [b, c, d].map(|member| join(member.netns(), member.addr().ip));
    let from = a.addr().ip;
    let outbox = a.netns().enter(|| UdpSocket::bind((from, 0))).expect("a socket");
    // Larger than the MTU: the sender's kernel cuts it to pieces, and the receivers' put it together.
    let text = vec![b'm'; 4000];
    outbox.send_to(&text, (GROUP, PORT)).expect("send to the group");
    for socket in &sockets {
        let mut buffer = [0; 5000];
        let (len, sender) = socket.recv_from(&mut buffer).expect("hear the group");
        assert_eq!((&buffer[..len], sender.ip()), (&text[..], from.into()));
    }
}

#[test]
fn a_member_that_leaves_gets_no_more_and_one_that_joins_gets_all() {
    let mut scene = Scene::new(Wire::Offload, "off");
    let gone = scene.members.remove(2);
    let leaving = Tap::open(scene.cluster.hosts[1].netns(), "eth0");
    scene.cluster.hosts[1].overlay(&["detach", "net", "--name", gone.name()]);
    let late = Container::attached(&scene.cluster.hosts[2], "net", "late");
    oracle::expect_agreement(&scene.cluster);
    let (sender, receiver) = (scene.members[0].tap(), late.tap());
    drop(leaving.arrived());
    let to = Addr { mac: BROADCAST, ip: Ipv4Addr::BROADCAST };
    let frame = Frame::udp(scene.members[0].addr(), to, (1000, PORT), b"to all that are left");
    sender.send(&frame);
    assert_eq!(receiver.find(DEADLINE, |seen| (*seen == frame).then_some(())), Some(()));
    assert_eq!(frames(&leaving, b"to all that are left"), 0, "the host without a member got a copy");
}

#[test]
fn a_storm_is_bounded_at_its_sender_and_counted_and_the_others_go_on() {
    let scene = Scene::new(Wire::Offload, "off");
    let [a, b, c] = [0, 1, 2].map(|i| &scene.members[i]);
    let (host, sender, victim) = (&scene.cluster.hosts[0], a.tap(), c.tap());
    let to = Addr { mac: BROADCAST, ip: Ipv4Addr::BROADCAST };
    let storm = Frame::udp(a.addr(), to, (1000, PORT), b"storm");
    let before = Drops::of(host);
    let start = std::time::Instant::now();
    let sent = 20_000;
    (0..sent).for_each(|_| sender.send(&storm));
    let millis = u64::try_from(start.elapsed().as_millis()).expect("not that long");
    let refused = || Drops::of(host).since(&before).by_reason(MulticastStorm);
    // What may pass: a burst, and one for each interval since.
    let most = PACE.burst + millis * 1_000_000 / PACE.interval_ns + 1;
    wait::until("the storm is counted", CONVERGENCE, || refused() >= sent - most);
    let passed = sent - refused();
    assert!((PACE.burst..=most).contains(&passed), "{passed} of at most {most}");
    wait::until("what passed has arrived", CONVERGENCE, || {
        // Each look empties the socket.
        frames(&victim, b"storm") == 0
    });
    let site = Drops::of(host).since(&before);
    let (site, _) = site.only().map(|(site, packets)| (site.clone(), packets)).expect("one reason alone");
    assert_eq!((site.reason.as_str(), site.endpoint.as_deref()), (MulticastStorm.name(), Some("a")));

    // Another's broadcast, and the same one's unicast, are not in its way.
    let other = Frame::udp(b.addr(), to, (1000, PORT), b"calm");
    b.tap().send(&other);
    assert_eq!(victim.find(DEADLINE, |seen| (*seen == other).then_some(())), Some(()));
    expect_ping(a.netns(), c.addr().ip, &[]);
    let unicast = Frame::udp(a.addr(), c.addr(), (1000, DISCARD_PORT), b"unicast");
    sender.send(&unicast);
    assert_eq!(victim.find(DEADLINE, |seen| (*seen == unicast).then_some(())), Some(()));
}
