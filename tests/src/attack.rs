//! Hostile senders that never rest, and sockets that would hear them if a single packet got through.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use overlay_common::verdict::DropReason;

use crate::{netns::Netns, packet::Frame, tap::Tap};

/// Port that hostile packets go to.
pub const PORT: u16 = 7013;
/// Time between two frames.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long a socket waits for the packet that shows that it hears.
const DEADLINE: Duration = Duration::from_secs(2);

/// A hostile frame, and why it has to be dropped.
pub type Row = (DropReason, Frame);

/// Sends its frames in turn, again and again, until it is stopped or dropped.
#[derive(Debug)]
#[must_use]
pub struct Attacker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Tally>>,
}

/// Frames sent, by the reason for which they have to be dropped.
pub type Tally = BTreeMap<DropReason, u64>;

impl Attacker {
    /// Starts one on a device.
    pub fn start(tap: Tap, rows: Vec<Row>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || attack(&tap, &rows, &seen))) }
    }

    /// Ends it; what it sent.
    ///
    /// # Panics
    /// If the kernel did not take a frame.
    #[must_use]
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().expect("the attacker")).unwrap_or_default()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn attack(tap: &Tap, rows: &[Row], stop: &AtomicBool) -> Tally {
    let mut tally = Tally::new();
    for (reason, frame) in rows.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
        tap.send(frame);
        *tally.entry(*reason).or_default() += 1;
        thread::sleep(INTERVAL);
    }
    tally
}

/// A socket on [`PORT`] in a namespace whose kernel does not ask where a packet came from.
#[derive(Debug)]
pub struct Witness {
    socket: UdpSocket,
    place: String,
}

impl Witness {
    /// Opens one, and shows that it hears.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    #[track_caller]
    pub fn open(netns: &Netns) -> Self {
        for scope in ["all", "default", "eth0"] {
            netns.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0");
        }
        let socket =
            netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("bind the witness");
        socket.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
        let friend = netns.enter(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).expect("a UDP socket");
        friend.send_to(b"friend", (Ipv4Addr::LOCALHOST, PORT)).expect("send to the witness");
        let witness = Self { socket, place: netns.name().to_owned() };
        assert_eq!(witness.next().as_deref(), Some(&b"friend"[..]), "the witness hears nothing");
        witness.socket.set_nonblocking(true).expect("a socket that does not wait");
        witness
    }

    /// What it heard that it should not have.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        let text = |bytes: Vec<u8>| format!("{}: {}", self.place, String::from_utf8_lossy(&bytes));
        std::iter::from_fn(|| self.next()).map(text).collect()
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        self.socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::Addr,
        underlay::{MTU, Underlay, Wire},
        wait,
    };

    #[test]
    fn a_witness_hears_an_attacker_that_nothing_stops() {
        let underlay = Underlay::new(Wire::Offload);
        let (a, b) = (underlay.add_host("a", MTU), underlay.add_host("b", MTU));
        let witness = Witness::open(&b.netns);
        let stranger = Addr { ip: Ipv4Addr::new(192, 0, 2, 1), ..a.addr };
        let frame = Frame::udp(stranger, b.addr, (1, PORT), b"hostile");
        let attacker = Attacker::start(Tap::open(&a.netns, "eth0"), vec![(DropReason::SpoofedIp, frame)]);
        wait::until("the witness hears", DEADLINE, || !witness.heard().is_empty());
        assert!(attacker.stop()[&DropReason::SpoofedIp] > 0);
    }
}
