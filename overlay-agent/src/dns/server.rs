//! The sockets.
//!
//! Queries for names of our own are answered where they are read. Those that others have to be asked about wait in
//! tasks of their own, and so does each connection; of both, a container has only so many.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::proto::ProtoError;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Trouble,
    handler::{Handler, Outcome, Response},
    limits::{Turn, Turns},
};

/// Pause before trying again what just failed: taking an address that is not there yet, reading a socket.
const RETRY: Duration = Duration::from_millis(100);
/// Longest query in bytes: one question needs less.
const QUERY_LEN: usize = 1232;
/// Bytes of queries that may wait, so that a burst of many containers finds room.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How long a connection may be idle, or an answer be taken slowly (RFC 7766 section 6.2.3 wants a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Connections that one container may have.
const CONNECTIONS: usize = 16;

/// Both sockets of an address.
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Takes an address as soon as it is there, and free.
    pub async fn bind_when_there(address: SocketAddr, trouble: &Trouble) -> Self {
        loop {
            match Self::bind(address).await {
                Ok(sockets) => {
                    trouble.send_replace(None);
                    return sockets;
                }
                Err(e) => note(trouble, format!("names are not answered on {address}: {e}; tried again")),
            }
            sleep(RETRY).await;
        }
    }

    async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        // The same port for both, also where the kernel chose it.
        let udp = UdpSocket::bind(tcp.local_addr()?).await?;
        setsockopt(&udp, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        Ok(Self { udp, tcp })
    }

    /// Answers for ever.
    pub async fn serve(self, handler: Handler) {
        let handler = Arc::new(handler);
        tokio::join!(datagrams(Arc::new(self.udp), Arc::clone(&handler)), connections(self.tcp, handler));
    }
}

/// Says it once, however often it happens.
fn note(trouble: &Trouble, reason: String) {
    trouble.send_if_modified(|known| {
        let is_new = known.as_ref() != Some(&reason);
        if is_new {
            tracing::warn!(reason);
            *known = Some(reason);
        }
        is_new
    });
}

async fn datagrams(socket: Arc<UdpSocket>, handler: Arc<Handler>) {
    let mut buffer = [0; QUERY_LEN];
    let mut waiting = JoinSet::new();
    loop {
        let Some((length, from)) = received(socket.recv_from(&mut buffer).await).await else { continue };
        let Some(source) = ipv4(from) else { continue };
        match handler.take(&buffer[..length], source) {
            None => {}
            Some(Outcome::Answer(response)) => send(&socket, &response, from),
            Some(Outcome::Ask(question)) => {
                let socket = Arc::clone(&socket);
                waiting.spawn(async move { send(&socket, &question.ask().await, from) });
            }
        }
        reap(&mut waiting);
    }
}

/// An answer that the socket does not take at once is lost, as datagrams are: nobody is to wait for it.
fn send(socket: &UdpSocket, response: &Response, to: SocketAddr) {
    let sent = response.for_udp().map_err(io::Error::other).and_then(|bytes| socket.try_send_to(&bytes, to));
    if let Err(e) = sent {
        tracing::debug!(%to, reason = %e, "answer not sent");
    }
}

async fn connections(listener: TcpListener, handler: Arc<Handler>) {
    let turns = Turns::new(CONNECTIONS);
    let mut open = JoinSet::new();
    loop {
        let Some((stream, from)) = received(listener.accept().await).await else { continue };
        // One that is too many is closed.
        if let Some(source) = ipv4(from)
            && let Some(turn) = turns.begin(source)
        {
            open.spawn(converse(stream, source, Arc::clone(&handler), turn));
        }
        reap(&mut open);
    }
}

/// Answers the queries of a connection one after the other, until either side has enough.
async fn converse(mut stream: TcpStream, source: Ipv4Addr, handler: Arc<Handler>, _turn: Turn) {
    loop {
        let Ok(Ok(query)) = timeout(IDLE, read(&mut stream)).await else { return };
        let Some(response) = handler.answer(&query, source).await else { return };
        match timeout(IDLE, write(&mut stream, &response)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// A message with its length before it (RFC 1035 section 4.2.2).
async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUERY_LEN {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

async fn write(stream: &mut TcpStream, response: &Response) -> io::Result<()> {
    let message = response.for_tcp().map_err(|e: ProtoError| io::Error::other(e))?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await
}

/// What a socket gave. After a failure it rests, lest a failure that stays takes a processor.
async fn received<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) => {
            tracing::debug!(reason = %e, "a query was not received");
            sleep(RETRY).await;
            None
        }
    }
}

fn ipv4(address: SocketAddr) -> Option<Ipv4Addr> {
    match address.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn reap(tasks: &mut JoinSet<()>) {
    while tasks.try_join_next().is_some() {}
}
