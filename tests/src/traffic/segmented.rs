//! UDP with segmentation offload: one send, many datagrams, cut by whoever comes last.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{netns::Netns, traffic::unspecified};

const PORT: u16 = 7010;
const DEADLINE: Duration = Duration::from_secs(2);

/// Sends `count` datagrams of `segment` bytes in one call; the datagrams that arrived, in order of arrival.
///
/// # Panics
/// If the kernel does not take the packet.
#[must_use]
#[track_caller]
pub fn burst(
    from: &Netns,
    receiver: &Netns,
    to: impl Into<IpAddr>,
    segment: u16,
    count: usize,
) -> Vec<Vec<u8>> {
    let to = to.into();
    let inbox = receiver.enter(|| UdpSocket::bind((unspecified(to), PORT))).expect("bind the burst's port");
    inbox.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    let outbox = from.enter(|| UdpSocket::bind((unspecified(to), 0))).expect("a UDP socket");
    setsockopt(&outbox, sockopt::UdpGsoSegment, &i32::from(segment)).expect("UDP_SEGMENT");
    outbox.send_to(&datagrams(segment, count).concat(), (to, PORT)).expect("send a segmented packet");
    let mut buffer = vec![0; 1 << 16];
    let next = |_| inbox.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec());
    (0..count).map_while(next).collect()
}

/// The datagrams of a burst: each is full of its own number.
#[must_use]
pub fn datagrams(segment: u16, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![u8::try_from(number % 251).unwrap_or(0); usize::from(segment)]).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_burst_over_loopback_arrives_as_single_datagrams() {
        let netns = Netns::new("unit");
        assert_eq!(burst(&netns, &netns, Ipv4Addr::LOCALHOST, 1000, 12), datagrams(1000, 12));
    }
}
