//! A fast UDP flow in which each datagram is accounted for: it arrived, the receiver's own kernel counted that its
//! socket was full, or it was lost on the way.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Netns;

/// Port of the receiver.
const PORT: u16 = 7011;
/// Bytes of a datagram.
const LEN: usize = 64;
/// Pause between two bursts.
const PAUSE: Duration = Duration::from_millis(1);
/// Most datagrams at once, as after a pause that the scheduler made longer: a backlog of the kernel takes a thousand.
const BURST: u64 = 200;
/// A receiver that hears nothing for so long has heard all there is.
const QUIET: Duration = Duration::from_millis(500);
/// Bytes of datagrams that may wait at the receiver, some seconds of them.
const BUFFER: usize = 256 << 20;

/// A running storm. It ends when it is stopped or dropped.
#[derive(Debug)]
#[must_use]
pub struct Storm {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    started: Instant,
    sender: Option<JoinHandle<u64>>,
    receiver: Option<JoinHandle<Seen>>,
}

/// What came of a storm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Sent in a second, on average.
    pub rate: f64,
    /// Never arrived at the receiver's socket.
    pub lost: u64,
    /// Arrived at a socket that was full.
    pub overflowed: u64,
    /// Received once more than sent.
    pub duplicated: u64,
}

impl Storm {
    /// Starts a storm of `rate` datagrams a second. The receiving namespace has to be without other UDP traffic of
    /// note: the kernel counts full sockets by namespace.
    ///
    /// # Panics
    /// If the sockets cannot be made.
    #[track_caller]
    pub fn start(from: &Netns, receiver: &Netns, to: Ipv4Addr, rate: u64) -> Self {
        let inbox =
            receiver.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("bind the storm's port");
        setsockopt(&inbox, sockopt::RcvBufForce, &BUFFER).expect("a large buffer");
        inbox.set_read_timeout(Some(QUIET)).expect("set a time-out");
        let outbox = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a UDP socket");
        outbox.connect((to, PORT)).expect("a route to the receiver");
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop_sender, stop_receiver, counter) = (stop.clone(), stop.clone(), received.clone());
        let overflows = receiver.enter(overflows);
        Self {
            started: Instant::now(),
            sender: Some(thread::spawn(move || send_until(&outbox, rate, &stop_sender))),
            receiver: Some(
                receiver.spawn(move || receive_until(&inbox, &stop_receiver, &counter).since(overflows)),
            ),
            stop,
            received,
        }
    }

    /// Datagrams received until now.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops the sender, lets the rest arrive, and says what came of it.
    ///
    /// # Panics
    /// If a datagram could not be sent.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().map(|sender| sender.join().expect("the sender")).unwrap_or_default();
        let rate = sent as f64 / self.started.elapsed().as_secs_f64();
        let seen = self.receiver.take().map(|receiver| receiver.join().expect("the receiver"));
        let Seen { arrived, duplicated, overflowed, .. } = seen.unwrap_or_default();
        Report { sent, rate, lost: sent.saturating_sub(arrived + overflowed), overflowed, duplicated }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// One bit for each number.
    numbers: Vec<u64>,
    arrived: u64,
    duplicated: u64,
    overflowed: u64,
}

impl Seen {
    fn note(&mut self, number: u64) {
        let (word, bit) = (usize::try_from(number / 64).expect("a number in memory"), 1 << (number % 64));
        self.numbers.resize(self.numbers.len().max(word + 1), 0);
        if self.numbers[word] & bit == 0 {
            self.numbers[word] |= bit;
            self.arrived += 1;
        } else {
            self.duplicated += 1;
        }
    }

    /// With what overflowed in the namespace of this thread.
    fn since(mut self, before: u64) -> Self {
        self.overflowed = overflows() - before;
        self
    }
}

fn send_until(socket: &UdpSocket, rate: u64, stop: &AtomicBool) -> u64 {
    let (start, mut datagram, mut sent) = (Instant::now(), [0x5a; LEN], 0);
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        let upto = due.min(sent + BURST);
        for number in sent..upto {
            datagram[..8].copy_from_slice(&number.to_be_bytes());
            socket.send(&datagram).unwrap_or_else(|e| panic!("cannot send datagram {number}: {e}"));
        }
        sent = upto;
        thread::sleep(PAUSE);
    }
    sent
}

fn receive_until(socket: &UdpSocket, stop: &AtomicBool, counter: &AtomicU64) -> Seen {
    let (mut seen, mut buffer) = (Seen::default(), [0; LEN]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(LEN) => {
                let number = buffer.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                seen.note(number.expect("a datagram begins with its number"));
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) if stop.load(Ordering::Relaxed) => return seen,
            _ => {}
        }
    }
}

/// How many datagrams met a full socket in this thread's namespace.
fn overflows() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("read the kernel's counters");
    counter(&text, "Udp:", "RcvbufErrors").unwrap_or_else(|| panic!("no count of full sockets in {text}"))
}

/// One value of `/proc/net/snmp`: for each protocol a line of names, then a line of values.
fn counter(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol)).map(str::split_whitespace);
    let place = lines.next()?.position(|word| word == name)?;
    lines.next()?.nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    #[test]
    fn a_storm_over_loopback_loses_nothing() {
        let netns = Netns::new("unit");
        let storm = Storm::start(&netns, &netns, Ipv4Addr::LOCALHOST, 5_000);
        wait::until("a thousand datagrams", Duration::from_secs(10), || storm.received() >= 1_000);
        let report = storm.stop();
        assert!(report.sent >= 1_000, "{report:?}");
        assert_eq!((report.lost, report.overflowed, report.duplicated), (0, 0, 0), "{report:?}");
    }

    #[test]
    fn each_number_counts_once() {
        let mut seen = Seen::default();
        [0, 200, 1, 200].into_iter().for_each(|number| seen.note(number));
        assert_eq!((seen.arrived, seen.duplicated), (3, 1));
    }

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "Udp: InDatagrams RcvbufErrors\nUdp: 17 4\nUdpLite: RcvbufErrors\nUdpLite: 9\n";
        assert_eq!(counter(text, "Udp:", "RcvbufErrors"), Some(4));
        assert_eq!(counter(text, "Tcp:", "RcvbufErrors"), None);
    }
}
