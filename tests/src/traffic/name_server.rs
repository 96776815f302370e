//! The world's name server: knows one address for everything that is asked, and remembers who asked for what.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use super::service::{Heard, Running, Service};
use crate::{dns::PORT, netns::Netns};

/// Bytes of a message's header.
const HEADER_LEN: usize = 12;

/// A name server; it ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    _service: Service,
}

#[derive(Debug)]
struct Shared {
    knows: Ipv4Addr,
    heard: Heard,
}

impl NameServer {
    /// Starts one in a namespace, which tells this address for every name.
    ///
    /// # Panics
    /// If its port is taken.
    #[must_use]
    #[track_caller]
    pub fn start(netns: &Netns, at: Ipv4Addr, knows: Ipv4Addr) -> Self {
        let shared = Arc::new(Shared { knows, heard: Heard::default() });
        let (for_udp, for_tcp) = (shared.clone(), shared.clone());
        let service = Service::start(
            netns,
            SocketAddrV4::new(at, PORT),
            move |udp, running| for_udp.answer_datagrams(udp, running),
            move |tcp, running| for_tcp.answer_connections(tcp, running),
        );
        Self { shared, _service: service }
    }

    /// The names that were asked for, in small letters.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        self.shared.heard.all()
    }
}

impl Shared {
    fn answer_datagrams(&self, socket: &UdpSocket, running: &Running) {
        let mut buffer = [0; 2048];
        while running.goes_on() {
            if let Ok((length, from)) = socket.recv_from(&mut buffer)
                && let Some(answer) = self.answer(&buffer[..length])
            {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn answer_connections(&self, listener: &TcpListener, running: &Running) {
        while running.goes_on() {
            if let Ok((stream, _)) = listener.accept() {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                while self.answer_one(&stream).is_some() && running.goes_on() {}
            }
        }
    }

    fn answer_one(&self, mut stream: &TcpStream) -> Option<()> {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query).ok()?;
        let answer = self.answer(&query)?;
        let length = u16::try_from(answer.len()).ok()?.to_be_bytes();
        stream.write_all(&[&length[..], &answer].concat()).ok()
    }

    /// The query's question with the address for an answer, if it asks for one, else without.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        const TYPE_A: [u8; 2] = [0, 1];
        let (name, end) = name(query)?;
        self.heard.note(name);
        let is_known = query.get(end..end + 2)? == TYPE_A;
        let mut answer = query.get(..end + 4)?.to_vec();
        answer[2..HEADER_LEN].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_known), 0, 0, 0, 0]);
        if is_known {
            // The name of the question, A, IN, for five minutes, four bytes.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
            answer.extend(self.knows.octets());
        }
        Some(answer)
    }
}

/// The name that a query asks for, and where it ends.
fn name(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), HEADER_LEN);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_ascii_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::dig;

    #[test]
    fn dig_is_told_the_address_over_udp_and_tcp() {
        let netns = Netns::new("unit");
        let known = Ipv4Addr::new(203, 0, 113, 7);
        let server = NameServer::start(&netns, Ipv4Addr::LOCALHOST, known);
        for how in ["+notcp", "+tcp"] {
            let answer = dig(&netns, Ipv4Addr::LOCALHOST, "Example.test", &[how]);
            assert_eq!(answer.addresses(), [known], "{how}");
        }
        assert_eq!(server.heard(), ["example.test", "example.test"]);
    }
}
