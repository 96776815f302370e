//! A UDP flow with sequence numbers: tells whether anything was lost, doubled or reordered.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{netns::Netns, wait};

/// Port of the receiver.
const PORT: u16 = 7008;
/// Time between two datagrams.
const INTERVAL: Duration = Duration::from_micros(500);
/// A receiver that hears nothing for so long has heard all there is.
const QUIET: Duration = Duration::from_millis(500);
/// Bytes of datagrams that may wait at the receiver: losses shall be the network's, not the scheduler's.
const BUFFER: usize = 16 << 20;

/// A running flow. It ends when it is stopped or dropped.
#[derive(Debug)]
#[must_use]
pub struct Flow {
    stop: Stop,
    received: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Seen>,
}

/// Stops the threads that share its flag when it goes, also when a test fails.
#[derive(Debug)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What came of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Of those, never received.
    pub lost: u64,
    /// Received once more than sent.
    pub duplicated: u64,
    /// Received after a later one.
    pub reordered: u64,
}

#[derive(Debug, Default)]
struct Seen {
    numbers: HashSet<u64>,
    highest: u64,
    duplicated: u64,
    reordered: u64,
}

impl Seen {
    fn note(&mut self, number: u64) {
        if !self.numbers.insert(number) {
            self.duplicated += 1;
        } else if number < self.highest {
            self.reordered += 1;
        }
        self.highest = self.highest.max(number);
    }
}

impl Flow {
    /// Starts a flow to an address of the receiving namespace, 2,000 datagrams a second.
    ///
    /// # Panics
    /// If the sockets cannot be made.
    #[track_caller]
    pub fn start(from: &Netns, receiver: &Netns, to: Ipv4Addr) -> Self {
        let inbox =
            receiver.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("bind the flow's port");
        setsockopt(&inbox, sockopt::RcvBufForce, &BUFFER).expect("a large buffer");
        inbox.set_read_timeout(Some(QUIET)).expect("set a time-out");
        let outbox = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a UDP socket");
        outbox.connect((to, PORT)).expect("a route to the receiver");
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop_sender, stop_receiver, counter) = (stop.clone(), stop.clone(), received.clone());
        Self {
            sender: thread::spawn(move || send_until(&outbox, &stop_sender)),
            receiver: thread::spawn(move || receive_until(&inbox, &stop_receiver, &counter)),
            stop: Stop(stop),
            received,
        }
    }

    /// Waits until so many more datagrams have arrived.
    ///
    /// # Panics
    /// If they do not within ten seconds.
    #[track_caller]
    pub fn wait_for_more(&self, datagrams: u64) {
        let goal = self.received.load(Ordering::Relaxed) + datagrams;
        let arrived = || self.received.load(Ordering::Relaxed) >= goal;
        wait::until("more of the flow has arrived", Duration::from_secs(10), arrived);
    }

    /// Stops the sender, lets the rest arrive, and says what came of it.
    ///
    /// # Panics
    /// If a datagram could not be sent.
    #[must_use]
    pub fn stop(self) -> Report {
        drop(self.stop);
        let sent = self.sender.join().expect("the sender");
        let seen = self.receiver.join().expect("the receiver");
        let Seen { numbers, duplicated, reordered, .. } = seen;
        Report { sent, lost: sent - numbers.len() as u64, duplicated, reordered }
    }
}

fn send_until(socket: &UdpSocket, stop: &AtomicBool) -> u64 {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        socket.send(&number.to_be_bytes()).unwrap_or_else(|e| panic!("cannot send datagram {number}: {e}"));
        number += 1;
        thread::sleep(INTERVAL);
    }
    number
}

fn receive_until(socket: &UdpSocket, stop: &AtomicBool, counter: &AtomicU64) -> Seen {
    let (mut seen, mut buffer) = (Seen::default(), [0; 8]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                seen.note(u64::from_be_bytes(buffer));
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) if stop.load(Ordering::Relaxed) => return seen,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_over_loopback_loses_nothing() {
        let netns = Netns::new("unit");
        let flow = Flow::start(&netns, &netns, Ipv4Addr::LOCALHOST);
        flow.wait_for_more(50);
        let report = flow.stop();
        assert!(report.sent >= 50);
        assert_eq!((report.lost, report.duplicated, report.reordered), (0, 0, 0));
    }

    #[test]
    fn doubled_and_late_numbers_are_told_apart() {
        let mut seen = Seen::default();
        [0, 2, 1, 2, 3].into_iter().for_each(|number| seen.note(number));
        assert_eq!((seen.numbers.len(), seen.duplicated, seen.reordered), (4, 1, 1));
    }
}
