//! A TCP transfer whose every byte is checked.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::{netns::Netns, traffic::unspecified};

const PORT: u16 = 7009;
/// Longest time without progress.
const STALL: Duration = Duration::from_secs(5);
const CHUNK: usize = 64 << 10;

/// Transfers so many bytes over one connection.
///
/// # Errors
/// What went wrong: no connection, a stall, bytes missing or not those that were sent.
pub fn transfer(from: &Netns, receiver: &Netns, to: impl Into<IpAddr>, bytes: usize) -> Result<(), String> {
    let to = to.into();
    let listener =
        receiver.enter(|| TcpListener::bind((unspecified(to), PORT))).map_err(|e| format!("listen: {e}"))?;
    let stream = from
        .enter(|| TcpStream::connect_timeout(&SocketAddr::from((to, PORT)), STALL))
        .map_err(|e| format!("connect to {to}: {e}"))?;
    let sender = thread::spawn(move || send(stream, bytes));
    let received = listener.accept().and_then(|(stream, _)| receive(&stream));
    let sent = sender.join().map_err(|_| "the sender panicked".to_owned())?;
    let (sent, received) =
        (sent.map_err(|e| format!("send: {e}"))?, received.map_err(|e| format!("receive: {e}"))?);
    if sent == received {
        Ok(())
    } else {
        Err(format!("sent {sent:x?}, received {received:x?} (bytes, checksum)"))
    }
}

/// Sends a stream that does not repeat itself; its length and checksum.
fn send(mut stream: TcpStream, bytes: usize) -> io::Result<(usize, u64)> {
    stream.set_write_timeout(Some(STALL))?;
    let (mut noise, mut sum, mut sent) = (Noise(0x9e37_79b9_7f4a_7c15), Checksum::default(), 0);
    while sent < bytes {
        let chunk = noise.chunk(CHUNK.min(bytes - sent));
        stream.write_all(&chunk)?;
        sum.add(&chunk);
        sent += chunk.len();
    }
    Ok((sent, sum.0))
}

fn receive(mut stream: &TcpStream) -> io::Result<(usize, u64)> {
    stream.set_read_timeout(Some(STALL))?;
    let (mut buffer, mut sum, mut received) = (vec![0; CHUNK], Checksum::default(), 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((received, sum.0)),
            len => {
                sum.add(&buffer[..len]);
                received += len;
            }
        }
    }
}

/// Xorshift: bytes that are not what a zeroed or repeated buffer would hold.
struct Noise(u64);

impl Noise {
    fn chunk(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.word().to_le_bytes());
        words.take(len).collect()
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// FNV-1a: depends on every byte and on their order, not on how they came in pieces.
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_transfer_over_loopback_arrives_whole() {
        let netns = Netns::new("unit");
        assert_eq!(transfer(&netns, &netns, Ipv4Addr::LOCALHOST, 300_001), Ok(()));
    }

    #[test]
    fn the_checksum_sees_order_but_not_pieces() {
        let sum = |pieces: &[&[u8]]| {
            let mut sum = Checksum::default();
            pieces.iter().for_each(|piece| sum.add(piece));
            sum.0
        };
        assert_eq!(sum(&[b"abc", b"d"]), sum(&[b"ab", b"cd"]));
        assert_ne!(sum(&[b"abcd"]), sum(&[b"abdc"]));
    }
}
