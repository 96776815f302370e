//! What a peer that answers over UDP and TCP is made of: a socket and a thread for each, what it heard, and an end.

use std::{
    net::{SocketAddrV4, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};

use crate::netns::Netns;

/// How often a waiting thread looks whether it shall end.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// Two threads that answer until this is dropped.
#[derive(Debug)]
pub(super) struct Service {
    running: Running,
    threads: [Option<JoinHandle<()>>; 2],
}

/// Tells the threads whether to go on.
#[derive(Clone, Debug)]
pub(super) struct Running(Arc<AtomicBool>);

impl Running {
    pub(super) fn goes_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Service {
    /// Starts both threads, on sockets of a namespace that give up waiting at every [`TICK`].
    ///
    /// # Panics
    /// If the port is taken.
    #[track_caller]
    pub(super) fn start(
        netns: &Netns,
        at: SocketAddrV4,
        datagrams: impl FnOnce(&UdpSocket, &Running) + Send + 'static,
        connections: impl FnOnce(&TcpListener, &Running) + Send + 'static,
    ) -> Self {
        let (udp, tcp) = netns.enter(|| (UdpSocket::bind(at), TcpListener::bind(at)));
        let (udp, tcp) = (udp.expect("bind the UDP port"), tcp.expect("bind the TCP port"));
        udp.set_read_timeout(Some(TICK)).expect("set a time-out");
        let tick = TimeVal::milliseconds(i64::try_from(TICK.as_millis()).unwrap_or(1));
        setsockopt(&tcp, sockopt::ReceiveTimeout, &tick).expect("set a time-out");
        let running = Running(Arc::new(AtomicBool::new(true)));
        let (for_udp, for_tcp) = (running.clone(), running.clone());
        let threads = [
            thread::spawn(move || datagrams(&udp, &for_udp)),
            thread::spawn(move || connections(&tcp, &for_tcp)),
        ];
        Self { running, threads: threads.map(Some) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.running.0.store(false, Ordering::Relaxed);
        for thread in self.threads.iter_mut().filter_map(Option::take) {
            let _ = thread.join();
        }
    }
}

/// What a peer was asked, in its order.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub(super) fn note(&self, question: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(question);
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
