//! Hostile VXLAN packets at a steady rate, from a machine on the underlay that is no VTEP of anybody's.
//!
//! To send them costs this machine's processors more than to drop them. So the same flood runs twice: at the victim,
//! and past it, to a machine beside it that drops them first of all, as they are for somebody else. What the victim
//! loses by the first and not by the second is what they cost it.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, send, socket},
};
use overlay_tests::{
    packet::{Addr, Frame, mac_text},
    underlay::{MTU, Machine, UNDERLAY_IFNAME, Underlay},
};

use crate::place::{Cpu, SERVER_CPU, pin_this_thread};

/// Packets in a second of a steady flood.
const RATE: u32 = 200_000;
/// Packets between two looks at the clock.
const BURST: u32 = 32;
/// Bursts that come later than this are not made up for.
const MOST_LATE: Duration = Duration::from_millis(2);
/// The flood shares the server's processor, as a network card's interrupts would.
const FLOOD_CPU: Cpu = SERVER_CPU;
/// Hardware address that only the bridge knows, as the bystander's; the bystander does not.
pub const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0xba, 0xff];
/// A network that nobody has.
const VNI: u32 = 0x00ba_dbad;
/// Ends that nobody has either.
const INNER: [Addr; 2] = [
    Addr { mac: [0x02, 0, 0, 0, 0xba, 1], ip: Ipv4Addr::new(10, 254, 0, 1) },
    Addr { mac: [0x02, 0, 0, 0, 0xba, 2], ip: Ipv4Addr::new(10, 254, 0, 2) },
];

/// Where floods go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The host of the server.
    Victim,
    /// A machine beside it.
    Bystander,
}

/// How fast a flood is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The same for all, as long as the sender can.
    Steady,
    /// As fast as the packets go.
    Most,
}

/// The sender and both targets, on a peer's underlay.
#[derive(Debug)]
pub struct Hostile {
    sender: Machine,
    victim: Addr,
    _bystander: Machine,
}

impl Hostile {
    /// Plugs the sender and the bystander in beside a victim.
    pub fn beside(victim: Addr, underlay: &Underlay) -> Self {
        Self { sender: underlay.add_host("hostile", MTU), victim, _bystander: bystander(underlay) }
    }

    /// Starts a flood.
    pub fn flood(&self, target: Target, pace: Pace) -> Result<Flood> {
        let at = match target {
            Target::Victim => self.victim,
            Target::Bystander => self.victim.behind(NOBODY),
        };
        let inner = Frame::udp(INNER[0], INNER[1], (1, 1), &[0; 18]);
        let frame = Frame::vxlan(self.sender.addr, at, VNI, &inner);
        let socket =
            self.sender.netns.enter(|| raw_socket(UNDERLAY_IFNAME)).context("no raw socket for the flood")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = thread::spawn(move || send_until(&socket, &frame, pace, &stopped));
        Ok(Flood { stop: Stop(stop), sender })
    }
}

/// A machine that drops what is sent to [`NOBODY`] first of all.
pub fn bystander(underlay: &Underlay) -> Machine {
    let bystander = underlay.add_host("bystander", MTU);
    let to_bystander = ["dev", &bystander.port, "master", "static"];
    underlay.netns().must(&[&["bridge", "fdb", "add", &mac_text(NOBODY)], &to_bystander[..]].concat());
    bystander
}

/// A flood; it ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Stop,
    sender: JoinHandle<Result<f64>>,
}

impl Flood {
    /// Ends it; packets in a second that were sent.
    pub fn stop(self) -> Result<f64> {
        drop(self.stop);
        self.sender.join().map_err(|_| anyhow!("the flood panicked"))?.context("the flood was cut short")
    }
}

/// Tells the sender to stop when dropped.
#[derive(Debug)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A socket that only sends, from a device of this thread's namespace: without a protocol it sees no packet.
pub fn raw_socket(ifname: &str) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let is_link = |addr: &SockaddrStorage| addr.as_link_addr().is_some();
    let mut devices = getifaddrs()?.filter(|device| device.interface_name == ifname);
    let addr = devices.find_map(|device| device.address.filter(is_link)).ok_or(Errno::ENODEV)?;
    bind(socket.as_raw_fd(), &addr)?;
    Ok(socket)
}

/// Sends at the pace, or as fast as it can if that is slower.
fn send_until(socket: &OwnedFd, frame: &Frame, pace: Pace, stop: &AtomicBool) -> Result<f64> {
    pin_this_thread(FLOOD_CPU)?;
    let between = Duration::from_secs(1) * BURST / RATE;
    let (start, mut sent) = (Instant::now(), 0u32);
    let mut next = start;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            match send(socket.as_raw_fd(), &frame.0, MsgFlags::empty()) {
                Ok(_) => sent += 1,
                // A full queue: the victim is spared this one.
                Err(Errno::ENOBUFS) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if pace == Pace::Most {
            continue;
        }
        next = (next + between).max(Instant::now() - MOST_LATE);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(f64::from(sent) / start.elapsed().as_secs_f64())
}
