//! How fast an endpoint may send and receive: what TCP makes of it, what is dropped and counted, and that it can be changed.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use overlay_common::{
    limit::KEPT_NS,
    verdict::DropReason::{self, *},
};
use overlay_tests::{
    container::Container,
    drops::Drops,
    host::Host,
    oracle,
    packet::{DISCARD_PORT, Frame},
    topology::{CONVERGENCE, Cluster, Plan, settle},
    traffic::ping::expect_ping,
    underlay::Wire,
    wait,
};
use rstest::rstest;

const MEGABIT: f64 = 1e6;
const PATIENCE: Duration = Duration::from_secs(5);
const MEGABYTE: usize = 1 << 20;

/// Two containers on two hosts or on one, the first with these flags of `attach`, the second with those.
#[track_caller]
fn pair(hosts: usize, wire: Wire, xdp: &'static str, flags: [&[&str]; 2]) -> (Cluster, Container, Container) {
    let cluster = Cluster::new(Plan { hosts, wire, xdp, ..Plan::default() });
    cluster.network("net", &[]);
    let attach = |host: &Host, name: &str, flags: &[&str]| {
        let mut container = Container::new(name);
        container.attach(host, "net", flags);
        container
    };
    let a = attach(&cluster.hosts[0], "a", flags[0]);
    let b = attach(&cluster.hosts[hosts - 1], "b", flags[1]);
    settle(&[&a, &b]);
    (cluster, a, b)
}

/// Sends so many bytes over one connection. They are not looked at: that would cost more time than they take.
#[track_caller]
fn stream(from: &Container, to: &Container, bytes: usize) {
    const PORT: u16 = 7011;
    let listener = to.netns().enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("listen");
    let address = SocketAddr::from((to.addr().ip, PORT));
    let mut sender = from.netns().enter(|| TcpStream::connect_timeout(&address, PATIENCE)).expect("connect");
    let mut receiver = listener.accept().expect("accept").0;
    receiver.set_read_timeout(Some(PATIENCE)).expect("a time");
    thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![0; 1 << 16];
            for at in (0..bytes).step_by(chunk.len()) {
                sender.write_all(&chunk[..chunk.len().min(bytes - at)]).expect("send");
            }
        });
        let (mut buffer, mut received) = (vec![0; 1 << 18], 0);
        while received < bytes {
            let len = receiver.read(&mut buffer).expect("receive");
            assert!(len > 0, "the stream ended after {received} bytes");
            received += len;
        }
    });
}

/// What one TCP connection brings in megabits a second, once what was kept is used up.
#[track_caller]
fn goodput(from: &Container, to: &Container, megabits: u16) -> f64 {
    let send = |bytes| stream(from, to, bytes);
    let kept = f64::from(megabits) * MEGABIT / 8.0 * KEPT_NS as f64 / 1e9;
    send(kept as usize + MEGABYTE);
    let bytes = usize::from(megabits) * 250_000;
    let start = Instant::now();
    send(bytes);
    bytes as f64 * 8.0 / MEGABIT / start.elapsed().as_secs_f64()
}

#[rstest]
#[case::sender_across_hosts(2, Wire::Offload, "off", "--egress-rate", 100)]
#[case::receiver_across_hosts_in_packets(2, Wire::Packet, "decap", "--ingress-rate", 50)]
#[case::receiver_on_one_host(1, Wire::Offload, "off", "--ingress-rate", 300)]
fn tcp_gets_the_rate_within_a_tenth(
    #[case] hosts: usize,
    #[case] wire: Wire,
    #[case] xdp: &'static str,
    #[case] flag: &str,
    #[case] megabits: u16,
) {
    let rate = format!("{megabits}mbit");
    let limit = [flag, rate.as_str()];
    let flags: [&[&str]; 2] = if flag == "--egress-rate" { [&limit, &[]] } else { [&[], &limit] };
    let (_cluster, a, b) = pair(hosts, wire, xdp, flags);
    let wanted = f64::from(megabits);
    let got = goodput(&a, &b, megabits);
    eprintln!("{flag} {rate}: {got:.1} Mbit/s");
    assert!((0.9 * wanted..1.1 * wanted).contains(&got), "{got:.1} Mbit/s at {rate}");
    // The other way there is no limit.
    let back = goodput(&b, &a, megabits);
    assert!(back > 2.0 * wanted, "{back:.1} Mbit/s the other way");
}

/// Sends frames of a thousand bytes at once, and says how many were not let through, for whom.
#[track_caller]
fn refused(cluster: &Cluster, from: &Container, to: &Container, reason: DropReason, name: &str) -> u64 {
    const FRAMES: u64 = 20_000;
    let host = if reason == EgressLimit { &cluster.hosts[0] } else { &cluster.hosts[1] };
    let tap = from.tap();
    let frame = Frame::udp(from.addr(), to.addr(), (1000, DISCARD_PORT), &[0; 1000 - 42]);
    let before = Drops::of(host);
    let start = Instant::now();
    (0..FRAMES).for_each(|_| tap.send(&frame));
    let nanos = u64::try_from(start.elapsed().as_nanos()).expect("not that long");
    // At 8 Mbit/s a frame takes a millisecond.
    let most = (KEPT_NS + nanos) / 1_000_000 + 1;
    let moved = || Drops::of(host).since(&before);
    wait::until("the frames are counted", CONVERGENCE, || moved().by_reason(reason) >= FRAMES - most);
    let moved = moved();
    let (site, refused) = moved.only().unwrap_or_else(|| panic!("one reason alone: {moved}"));
    assert_eq!((site.reason.as_str(), site.endpoint.as_deref()), (reason.name(), Some(name)));
    refused
}

#[test]
fn what_is_too_much_is_counted_for_the_limited_end_and_a_limit_can_be_changed_and_taken_away() {
    let (cluster, a, b) =
        pair(2, Wire::Offload, "off", [&["--egress-rate", "8mbit"], &["--ingress-rate", "8mbit"]]);
    let [near, far] = [0, 1].map(|i| &cluster.hosts[i]);
    oracle::expect_agreement(&cluster);
    let limit = |host: &Host, name: &str, flags: &[&str]| {
        host.overlay(&[&["endpoint", "limit", "net", name], flags].concat())
    };
    assert!(refused(&cluster, &a, &b, EgressLimit, "a") > 10_000);
    // From the other host, too; the map follows at once on the host where it is.
    limit(far, "a", &["--egress-rate", "none"]);
    wait::until("the limit is gone", CONVERGENCE, || {
        !near.overlay(&["endpoint", "inspect", "a"]).contains("egress rate")
    });
    oracle::expect_agreement(&cluster);
    assert!(refused(&cluster, &a, &b, IngressLimit, "b") > 10_000);
    let shown = limit(far, "b", &["--ingress-rate", "1gbit", "--egress-rate", "1.5mbit"]);
    for line in ["ingress rate:   1gbit", "egress rate:    1500kbit"] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
    oracle::expect_agreement(&cluster);
    far.kill9();
    far.start();
    oracle::expect_agreement(&cluster);
    expect_ping(a.netns(), b.addr().ip, &[]);
    limit(near, "b", &["--ingress-rate", "none", "--egress-rate", "none"]);
    wait::until("the limits are gone", CONVERGENCE, || {
        !far.overlay(&["endpoint", "inspect", "b"]).contains("rate")
    });
    oracle::expect_agreement(&cluster);
}

#[test]
fn a_rate_that_makes_no_sense_is_refused() {
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    cluster.network("net", &[]);
    for rate in ["100", "0mbit", "100mbps", "-1mbit"] {
        let flag = format!("--egress-rate={rate}");
        let finished = cluster.hosts[0].cli(&["endpoint", "limit", "net", "a", &flag]);
        assert_eq!(finished.code, Some(2), "{finished}");
        assert!(
            finished.stderr.contains("write a number of bits a second with kbit, mbit or gbit"),
            "{finished}"
        );
    }
    let nobody = cluster.hosts[0].cli(&["endpoint", "limit", "net", "a", "--egress-rate=1mbit"]);
    assert!(nobody.stderr.contains("there is no endpoint a in net"), "{nobody}");
}
