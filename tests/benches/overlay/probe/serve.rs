//! The answering side. It ends when its standard input does.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, ValueEnum};
use nix::sys::socket::{setsockopt, sockopt};

use super::{PORT, READY, REQUEST, Received, choose_congestion_control};

/// A sink that hears nothing for so long after it was asked to end has heard all there is.
const QUIET: Duration = Duration::from_millis(50);
/// A sink looks for datagrams so often. It does not wait for each: whether it sleeps between two depends on the speed, and
/// to wake it up on another processor costs more than all the rest of a packet.
const LOOK: Duration = Duration::from_millis(1);
/// Bytes that may wait at a sink: what is lost shall be lost on the way.
const BUFFER: usize = 8 << 20;

#[derive(Args, Debug)]
pub struct Options {
    service: Service,
}

/// What a server does with what comes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Service {
    /// Sends every byte of every connection back
    TcpEcho,
    /// Sends every datagram back
    UdpEcho,
    /// Counts datagrams
    UdpSink,
}

impl Service {
    /// Its name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::TcpEcho => "tcp-echo",
            Self::UdpEcho => "udp-echo",
            Self::UdpSink => "udp-sink",
        }
    }
}

/// Serves until standard input ends.
pub fn run(options: &Options) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let sink = match options.service {
        Service::TcpEcho => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("cannot listen")?;
            choose_congestion_control(&listener).context("cannot choose the congestion control")?;
            thread::spawn(move || accept(&listener));
            None
        }
        Service::UdpEcho => {
            let socket = udp_socket()?;
            thread::spawn(move || echo(&socket));
            None
        }
        Service::UdpSink => {
            let (socket, stop) = (udp_socket()?, stop.clone());
            Some(thread::spawn(move || swallow(&socket, &stop)))
        }
    };
    println!("{READY}");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    stop.store(true, Ordering::Relaxed);
    sink.map_or(Ok(()), report)?;
    // The echoes wait for what will not come any more.
    process::exit(0)
}

fn udp_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("cannot bind")?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("cannot have a large buffer")?;
    Ok(socket)
}

fn report(sink: JoinHandle<io::Result<Received>>) -> Result<()> {
    let received = sink.join().map_err(|_| anyhow!("the sink panicked"))?.context("cannot receive")?;
    println!("{}", serde_json::to_string(&received)?);
    Ok(())
}

/// One connection after the other: there is one client, and it asks for one thing at a time.
fn accept(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // A client that goes away in the middle is its own affair.
        let _ = answer(stream);
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    loop {
        match stream.read(&mut request)? {
            0 => return Ok(()),
            length => stream.write_all(&request[..length])?,
        }
    }
}

fn echo(socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            // What cannot be sent is lost, and the client notices.
            let _ = socket.send_to(&datagram[..length], from);
        }
    }
}

fn swallow(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<Received> {
    socket.set_nonblocking(true)?;
    let (mut received, mut datagram, mut last) = (Received::default(), [0; 2048], Instant::now());
    let mut seen = 0;
    loop {
        match socket.recv(&mut datagram) {
            Ok(length) => {
                received.datagrams += 1;
                received.bytes += length as u64;
                continue;
            }
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            Err(_) => {}
        }
        if received.datagrams > seen {
            (seen, last) = (received.datagrams, Instant::now());
        } else if stop.load(Ordering::Relaxed) && last.elapsed() > QUIET {
            return Ok(received);
        }
        thread::sleep(LOOK);
    }
}
