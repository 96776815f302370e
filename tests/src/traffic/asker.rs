//! A client that asks for one name again and again, and knows how long it was without an answer.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    dns::{self, is_answer},
    netns::Netns,
    wait,
};

/// Pause between two queries.
const PAUSE: Duration = Duration::from_millis(2);
/// How long an answer is waited for before the next query.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time until a number of answers have come.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running client.
#[derive(Debug)]
#[must_use]
pub struct Asker {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<Report>>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Queries sent.
    pub asked: u64,
    /// Queries answered in time.
    pub answered: u64,
    /// Longest time from a query to its answer.
    pub slowest: Duration,
    /// Longest time from one answer to the next.
    pub gap: Duration,
}

impl Asker {
    /// Starts to ask a server for the address of a name, which has one.
    ///
    /// # Panics
    /// If there is no socket.
    #[track_caller]
    pub fn start(netns: &Netns, server: Ipv4Addr, name: &str) -> Self {
        let socket = netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a UDP socket");
        socket.connect((server, dns::PORT)).expect("a route to the server");
        socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter, name) = (stop.clone(), answered.clone(), name.to_owned());
        let thread = thread::spawn(move || ask(&socket, &name, &stopped, &counter));
        Self { stop, answered, thread: Some(thread) }
    }

    /// Waits until so many more answers have come.
    #[track_caller]
    pub fn wait_for_more(&self, answers: u64) {
        let answered = || self.answered.load(Ordering::Relaxed);
        let wanted = answered() + answers;
        wait::until("names are answered", DEADLINE, || answered() >= wanted);
    }

    /// Ends it; what came of it.
    ///
    /// # Panics
    /// If it died.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().expect("the asker")).unwrap_or_default()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(socket: &UdpSocket, name: &str, stop: &AtomicBool, counter: &AtomicU64) -> Report {
    let (mut report, mut last) = (Report::default(), Instant::now());
    for number in (0..=u16::MAX).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        report.asked += 1;
        // While nobody listens, the kernel says so here.
        let _ = socket.send(&dns::query(number, name));
        if is_answered(socket, number, sent) {
            let now = Instant::now();
            report.answered += 1;
            report.slowest = report.slowest.max(now - sent);
            report.gap = report.gap.max(now - last);
            last = now;
            counter.store(report.answered, Ordering::Relaxed);
        }
        thread::sleep(PAUSE);
    }
    report
}

/// Reads until the answer is there: one to an earlier query may come first.
fn is_answered(socket: &UdpSocket, number: u16, sent: Instant) -> bool {
    let mut buffer = [0; 512];
    while sent.elapsed() < PATIENCE {
        match socket.recv(&mut buffer) {
            Ok(length) if is_answer(&buffer[..length], number) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}
