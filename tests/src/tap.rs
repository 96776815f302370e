//! Raw packet sockets: what a container or host puts on its wire by hand, and what arrives there.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
            recvfrom, send, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::{netns::Netns, packet::Frame};

/// Bytes of frames that wait to be looked at.
const BUFFER: usize = 8 << 20;
/// `sll_pkttype` of frames that this host sends.
const PACKET_OUTGOING: u8 = 4;

/// A raw socket on one device. It sees every frame that arrives from when it is opened.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens one on a device of a namespace.
    ///
    /// # Panics
    /// If there is no such device.
    #[must_use]
    #[track_caller]
    pub fn open(netns: &Netns, ifname: &str) -> Self {
        let socket = netns.enter(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
            bind(socket.as_raw_fd(), &link_addr(ifname)?)?;
            Ok::<_, Errno>(socket)
        });
        let tap = Self {
            socket: socket.unwrap_or_else(|e| panic!("no raw socket on {ifname} of {}: {e}", netns.name())),
        };
        // What came between `socket` and `bind` may be from any device.
        drop(tap.arrived());
        tap
    }

    /// Sends a frame as it is.
    ///
    /// # Panics
    /// If the kernel does not take it.
    #[track_caller]
    pub fn send(&self, frame: &Frame) {
        let sent = send(self.socket.as_raw_fd(), &frame.0, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.0.len()), "cannot send {frame:?}");
    }

    /// The first frame, of those that arrive before the deadline, that `pick` makes something of.
    pub fn find<T>(&self, deadline: Duration, mut pick: impl FnMut(&Frame) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Some(found) = self.read(left).flatten().as_ref().and_then(&mut pick) {
                return Some(found);
            }
        }
        None
    }

    /// Everything that has arrived by now and was not looked at yet.
    #[must_use]
    pub fn arrived(&self) -> Vec<Frame> {
        // The shortest time-out is a tick of the kernel's clock, in which the next frame of a quick flow arrives.
        self.wait_for_frames(false);
        let frames = std::iter::from_fn(|| self.read(Duration::ZERO)).flatten().collect();
        self.wait_for_frames(true);
        frames
    }

    fn wait_for_frames(&self, wait: bool) {
        let flags = if wait { OFlag::empty() } else { OFlag::O_NONBLOCK };
        fcntl(&self.socket, FcntlArg::F_SETFL(flags)).expect("say whether to wait for frames");
    }

    /// One frame before the deadline. `Some(None)` is one that this host sent itself, `None` is none at all.
    fn read(&self, deadline: Duration) -> Option<Option<Frame>> {
        // Zero would stand for no deadline at all.
        let micros = i64::try_from(deadline.as_micros()).unwrap_or(i64::MAX).max(1);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::microseconds(micros))
            .expect("set a deadline");
        let mut bytes = vec![0; 1 << 16];
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
            Ok((len, from)) => {
                bytes.truncate(len);
                Some((from.map(|from| from.pkttype()) != Some(PACKET_OUTGOING)).then_some(Frame(bytes)))
            }
            Err(Errno::EAGAIN | Errno::ENETDOWN | Errno::EINTR) => None,
            Err(e) => panic!("cannot read from a raw socket: {e}"),
        }
    }
}

/// The address to bind to for all protocols of a device.
fn link_addr(ifname: &str) -> nix::Result<SockaddrStorage> {
    let is_link = |address: &SockaddrStorage| address.as_link_addr().is_some();
    let mut devices = getifaddrs()?.filter(|device| device.interface_name == ifname);
    devices.find_map(|device| device.address.filter(is_link)).ok_or(Errno::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::underlay::{MTU, Underlay, Wire};

    #[test]
    fn a_frame_arrives_as_it_was_sent_and_only_at_the_other_end() {
        let underlay = Underlay::new(Wire::Offload);
        let (a, b) = (underlay.add_host("a", MTU), underlay.add_host("b", MTU));
        let (tap_a, tap_b) = (Tap::open(&a.netns, "eth0"), Tap::open(&b.netns, "eth0"));
        let frame = Frame::udp(a.addr, b.addr, (1, 2), b"tap test");
        tap_a.send(&frame);
        let seen = tap_b.find(Duration::from_secs(2), |f| f.contains(b"tap test").then(|| f.clone()));
        assert_eq!(seen, Some(frame));
        assert!(!tap_a.arrived().iter().any(|f| f.udp_packet().is_some()), "own frames are not shown");
    }
}
