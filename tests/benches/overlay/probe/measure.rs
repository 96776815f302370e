//! The asking side. It prints what it saw as JSON.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use overlay_tests::stats;

use super::{PORT, REQUEST, Sent, Waited, choose_congestion_control};

/// A server that does not answer for so long does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A datagram that is not back after so long was lost; the next one is sent.
const LOST: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub struct Options {
    load: Load,
    /// The server
    addr: Ipv4Addr,
    /// For how long
    #[arg(long)]
    millis: u64,
    /// Bytes of a datagram
    #[arg(long, default_value_t = 64)]
    bytes: u16,
    /// Datagrams that are handed to the kernel at once
    #[arg(long, default_value_t = 1)]
    segments: u16,
}

/// What is done over and over.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Load {
    /// Send a byte and wait for it, on one connection
    TcpRoundTrip,
    /// Send a byte and wait for it, in a datagram
    UdpRoundTrip,
    /// Connect, send a byte, wait for it, close
    Connect,
    /// Send datagrams
    Blast,
}

impl Load {
    /// Its name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::TcpRoundTrip => "tcp-round-trip",
            Self::UdpRoundTrip => "udp-round-trip",
            Self::Connect => "connect",
            Self::Blast => "blast",
        }
    }
}

/// Does it, and prints what came of it.
pub fn run(options: &Options) -> Result<()> {
    let server = SocketAddr::from((options.addr, PORT));
    let duration = Duration::from_millis(options.millis);
    let json = match options.load {
        Load::TcpRoundTrip => serde_json::to_string(&tcp_round_trips(server, duration)?),
        Load::UdpRoundTrip => serde_json::to_string(&udp_round_trips(server, duration)?),
        Load::Connect => serde_json::to_string(&connects(server, duration)?),
        Load::Blast => serde_json::to_string(&blast(server, duration, options.bytes, options.segments)?),
    };
    println!("{}", json?);
    Ok(())
}

fn tcp_round_trips(server: SocketAddr, duration: Duration) -> Result<Waited> {
    let mut stream = connect(server)?;
    let mut answer = [0; REQUEST];
    time(duration, || {
        stream.write_all(&[1; REQUEST])?;
        stream.read_exact(&mut answer)?;
        Ok(true)
    })
}

fn connects(server: SocketAddr, duration: Duration) -> Result<Waited> {
    let mut answer = [0; REQUEST];
    time(duration, || {
        let mut stream = connect(server)?;
        stream.write_all(&[1; REQUEST])?;
        stream.read_exact(&mut answer)?;
        Ok(true)
    })
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)
        .with_context(|| format!("cannot connect to {server}"))?;
    choose_congestion_control(&stream).context("cannot choose the congestion control")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn udp_round_trips(server: SocketAddr, duration: Duration) -> Result<Waited> {
    let socket = udp_socket(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let mut answer = [0; 2048];
    time(duration, || {
        socket.send(&[1; REQUEST])?;
        match socket.recv(&mut answer) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e).context("cannot receive an answer"),
        }
    })
}

/// Repeats a transaction until the time is over. One that says `false` was lost and is not counted.
fn time(duration: Duration, mut transaction: impl FnMut() -> Result<bool>) -> Result<Waited> {
    let (start, mut times_us) = (Instant::now(), Vec::with_capacity(1 << 18));
    let mut now = start;
    while now - start < duration {
        let answered = transaction()?;
        let then = std::mem::replace(&mut now, Instant::now());
        if answered {
            times_us.push((now - then).as_nanos() as f64 / 1e3);
        }
    }
    ensure!(!times_us.is_empty(), "no answer came within {duration:?}");
    let quantile = |share| stats::quantile(&times_us, share).unwrap_or_default();
    Ok(Waited {
        transactions: times_us.len() as u64,
        seconds: (now - start).as_secs_f64(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    })
}

fn udp_socket(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot have a socket")?;
    socket.connect(server).with_context(|| format!("no way to {server}"))?;
    Ok(socket)
}

/// Sends as fast as the kernel takes it.
fn blast(server: SocketAddr, duration: Duration, bytes: u16, segments: u16) -> Result<Sent> {
    let socket = udp_socket(server)?;
    if segments > 1 {
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(bytes)).context("no UDP segmentation")?;
    }
    let message = vec![1; usize::from(bytes) * usize::from(segments)];
    let (start, mut sends) = (Instant::now(), 0);
    while start.elapsed() < duration {
        match socket.send(&message) {
            Ok(_) => sends += 1,
            // A full queue on the way out: the datagram was not sent, which is no loss of the network's.
            Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
            Err(e) => return Err(e).context("cannot send a datagram"),
        }
    }
    Ok(Sent { datagrams: sends * u64::from(segments), seconds: start.elapsed().as_secs_f64() })
}
