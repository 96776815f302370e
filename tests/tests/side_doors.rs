//! Ways past the checks: packets that come by another device, VLAN, address or at another moment than those
//! that we look at. None of them gets in. Honest packets of the largest shape do.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};
use overlay_common::verdict::DropReason;
use overlay_tests::{
    container::Container,
    drops::{self, Drops},
    host::Host,
    netns::Netns,
    packet::{Addr, BROADCAST, DISCARD_PORT, Frame},
    tap::Tap,
    topology::{Cluster, Plan, settle, two_hosts},
    traffic::segmented,
    underlay::Wire,
};
use rstest::rstest;

const DEADLINE: Duration = Duration::from_secs(2);
/// How often each packet is sent.
const COPIES: u64 = 3;
const STRANGE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0xbe, 0xef];
const VLAN: u16 = 0x8100;

/// A device of the host's that is no business of the agent's, and the stranger at its other end.
struct SideDoor {
    tap: Tap,
    stranger: Addr,
    door: Addr,
    // The device lives as long as the stranger's namespace.
    _netns: Netns,
}

impl SideDoor {
    const IFNAME: &str = "side";

    #[track_caller]
    fn open(host: &Host) -> Self {
        trust_any_source(host);
        let netns = Netns::new("stranger");
        let stranger = Addr { mac: [0x02, 0, 0, 0, 0x51, 1], ip: Ipv4Addr::new(192, 0, 2, 1) };
        let door = Addr { mac: [0x02, 0, 0, 0, 0x51, 2], ip: host.addr().ip };
        let (inner, outer) = (door.mac_text(), stranger.mac_text());
        let own =
            ["link", "add", Self::IFNAME, "address", &inner, "type", "veth", "peer", "name", Self::IFNAME];
        host.netns().ip(&[&own[..], &["address", &outer, "netns", netns.name()]].concat());
        for side in [host.netns(), &netns] {
            side.ip(&["link", "set", Self::IFNAME, "up"]);
        }
        Self { tap: Tap::open(&netns, Self::IFNAME), stranger, door, _netns: netns }
    }
}

/// Has the kernel not compare where a packet came from with where an answer would go, on devices that are
/// there and on those to come.
fn trust_any_source(host: &Host) {
    for scope in ["all", "default"] {
        host.netns().sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0");
    }
}

#[test]
fn vxlan_that_comes_by_another_device_than_the_underlay_is_dropped_and_counted() {
    let cluster = two_hosts(Wire::Offload);
    let vni = cluster.network("net", &[]).vni;
    let [host, member] = [&cluster.hosts[0], &cluster.hosts[1]];
    let target = Container::attached(host, "net", "target");
    let peer = Container::attached(member, "net", "peer");
    settle(&[&target, &peer]);
    let (side, victim) = (SideDoor::open(host), target.tap());

    let inner = Frame::udp(peer.addr(), target.addr(), (1000, DISCARD_PORT), b"by the side door");
    let disguise = Addr { ip: member.addr().ip, ..side.stranger };
    let forged = Frame::vxlan(disguise, side.door, vni, &inner);
    drops::expect(host, DropReason::NotTunnelled, COPIES, || {
        (0..COPIES).for_each(|_| side.tap.send(&forged));
    });
    assert_eq!(victim.arrived(), []);
}

/// Where the kernel has a frame's VLAN tag when the frame arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// In the frame.
    Inside,
    /// Beside it, as when a network card took it off.
    Beside,
}

#[rstest]
#[case("off", Tag::Inside)]
#[case("off", Tag::Beside)]
#[case("filter", Tag::Inside)]
#[case("filter", Tag::Beside)]
#[case("decap", Tag::Inside)]
fn an_outer_packet_of_another_vlan_or_to_another_mac_is_not_ours(
    #[case] xdp: &'static str,
    #[case] tag: Tag,
) {
    let cluster = Cluster::new(Plan { wire: Wire::Packet, xdp, ..Plan::default() });
    if tag == Tag::Inside {
        cluster.underlay.netns().must(&["ethtool", "-K", cluster.hosts[0].port(), "txvlan", "off"]);
    }
    let vni = cluster.network("net", &[]).vni;
    let [host, member] = [&cluster.hosts[0], &cluster.hosts[1]];
    let target = Container::attached(host, "net", "target");
    let peer = Container::attached(member, "net", "peer");
    settle(&[&target, &peer]);
    let stranger = cluster.stranger();
    let (sender, victim) = (Tap::open(&stranger.netns, "eth0"), target.tap());
    let carry = |text: &[u8]| {
        let inner = Frame::udp(peer.addr(), target.addr(), (1000, DISCARD_PORT), text);
        let disguise = Addr { ip: member.addr().ip, ..stranger.addr };
        (Frame::vxlan(disguise, host.addr(), vni, &inner), inner)
    };
    let (forged, _) = carry(b"astray");
    let (honest, honest_inner) = carry(b"honest");
    let arrives_alone = || {
        sender.send(&honest);
        assert_eq!(victim.find(DEADLINE, |frame| Some(frame.clone())), Some(honest_inner.clone()));
        assert_eq!(victim.arrived(), []);
    };

    arrives_alone();
    let before = Drops::of(host);
    (0..COPIES).for_each(|_| sender.send(&forged.clone().put(0, &STRANGE_MAC)));
    arrives_alone();
    (0..COPIES).for_each(|_| sender.send(&forged.clone().with_vlan_tag(0, VLAN)));
    arrives_alone();
    assert_eq!(Drops::of(host).since(&before), Drops::default(), "what is not ours was counted");
}

/// A container that does not wait: it brings its end up and sends from the moment that it is there.
struct Hasty {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
}

impl Hasty {
    fn start(netns: &Netns, frame: Frame) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let sender = netns.spawn(move || {
            let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
            let raw = raw.expect("a raw socket");
            let mut sent = 0;
            while !seen.load(Ordering::Relaxed) {
                match bring_up("eth0").ok().and_then(|()| device("eth0")) {
                    Some(device) => sent += send_until_it_fails(&raw, &device, &frame, &seen),
                    None => thread::yield_now(),
                }
            }
            sent
        });
        Self { stop, sender }
    }

    /// Ends it; how many frames the kernel took.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().expect("the hasty container")
    }
}

fn send_until_it_fails(raw: &OwnedFd, device: &LinkAddr, frame: &Frame, stop: &AtomicBool) -> u64 {
    let send = |_: &u64| {
        let sent = sendto(raw.as_raw_fd(), &frame.0, device, MsgFlags::empty());
        matches!(sent, Ok(_) | Err(Errno::ENOBUFS)) && !stop.load(Ordering::Relaxed)
    };
    (0..).take_while(send).count() as u64
}

fn device(ifname: &str) -> Option<LinkAddr> {
    let mut addresses = getifaddrs().ok()?.filter(|device| device.interface_name == ifname);
    addresses.find_map(|device| device.address?.as_link_addr().copied())
}

nix::ioctl_write_ptr_bad!(
    /// Sets the flags of a device.
    set_flags,
    libc::SIOCSIFFLAGS,
    libc::ifreq
);

/// What `ip link set up` does, without the time that it takes to start a process.
fn bring_up(ifname: &str) -> nix::Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(ifname.bytes()) {
        *to = libc::c_char::try_from(from).map_err(|_| Errno::EINVAL)?;
    }
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::EINVAL)?;
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: up } };
    // SAFETY: the request is a whole `ifreq` that lives through the call, which only reads it.
    unsafe { set_flags(any.as_raw_fd(), &raw const request) }.map(drop)
}

#[test]
fn a_container_that_sends_before_it_is_attached_does_not_reach_the_host() {
    const PORT: u16 = 9999;
    const CYCLES: usize = 5;
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    cluster.network("net", &[]);
    let side = SideDoor::open(host);
    let inbox = host.netns().enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap();
    inbox.set_read_timeout(Some(DEADLINE)).unwrap();
    let to_all = side.door.behind(BROADCAST);
    let frame = |text: &[u8]| Frame::udp(side.stranger, to_all, (1, PORT), text);
    let mut buffer = [0; 64];
    let mut next = || inbox.recv(&mut buffer).map(|len| buffer[..len].to_vec());
    // The very same frame does reach the host by a device that nobody guards.
    side.tap.send(&frame(b"first"));
    assert_eq!(next().unwrap(), b"first");

    let mut container = Container::new("hasty");
    let hasty = Hasty::start(container.netns(), frame(b"from the container"));
    for _ in 0..CYCLES {
        container.attach(host, "net", &[]);
        host.overlay(&["detach", "net", "--name", container.name()]);
    }
    let sent = hasty.stop();
    let dropped = Drops::of(host).by_reason(DropReason::SpoofedMac);
    println!("{sent} frames sent, {dropped} dropped by the program");
    assert!(dropped > 0, "{sent} frames were sent, and none came as far as the host's end");

    side.tap.send(&frame(b"last"));
    assert_eq!(next().unwrap(), b"last", "a container's frame reached the host");
    inbox.set_nonblocking(true).unwrap();
    assert_eq!(next().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[rstest]
#[case(Wire::Offload)]
#[case(Wire::Packet)]
fn the_largest_segmented_datagrams_arrive_whole(#[case] wire: Wire) {
    let cluster = two_hosts(wire);
    let (a, b) = cluster.pair();
    // Around the length at which the outer packet's would no longer fit 16 bits: 65,450 to 65,500 bytes.
    for (segment, count) in [(1309, 50), (1091, 60), (1364, 48), (1110, 59), (1310, 50)] {
        let arrived = segmented::burst(a.netns(), b.netns(), b.addr().ip, segment, count);
        let bytes = usize::from(segment) * count;
        assert_eq!(arrived.len(), count, "of {count} datagrams, {bytes} bytes in all");
        assert_eq!(arrived, segmented::datagrams(segment, count));
    }
}
