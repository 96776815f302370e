//! The generation of the kernel's nftables rules in this namespace: a number that every change counts up. One message
//! tells whether somebody changed anything, however many rules there are.

use std::{io, os::fd::AsRawFd};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
        socket, sockopt,
    },
    time::{TimeVal, TimeValLike},
};

use super::NatError;

// Numbers of linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
const NLM_F_REQUEST: u16 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
/// `nlmsghdr` and `nfgenmsg`.
const HEADERS: usize = 16 + 4;

/// The generation now.
pub fn current() -> Result<u32, NatError> {
    ask()
        .and_then(|answer| parse(&answer).ok_or(io::ErrorKind::InvalidData.into()))
        .map_err(NatError::Generation)
}

fn ask() -> io::Result<Vec<u8>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
    send(socket.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut answer = vec![0; 4096];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(len);
    Ok(answer)
}

fn request() -> Vec<u8> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN;
    let mut message = Vec::with_capacity(HEADERS);
    message.extend((HEADERS as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; HEADERS - 8]);
    message
}

fn parse(answer: &[u8]) -> Option<u32> {
    let short = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    (short(4)? == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN).then_some(())?;
    let mut at = HEADERS;
    loop {
        let (len, kind) = (usize::from(short(at)?), short(at + 2)?);
        if kind == NFTA_GEN_ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four; one shorter than its own header would never end.
        at += len.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut message = request();
        message[4..6].copy_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | kind).to_ne_bytes());
        message.extend(attributes);
        message
    }

    #[test]
    fn the_generation_is_found_behind_other_attributes() {
        let id = [8u16.to_ne_bytes(), NFTA_GEN_ID.to_ne_bytes()].concat();
        let other = [6u16.to_ne_bytes(), 2u16.to_ne_bytes(), [7, 7], [0, 0]].concat();
        let attributes = [other, id, 9u32.to_be_bytes().to_vec()].concat();
        assert_eq!(parse(&answer(NFT_MSG_NEWGEN, &attributes)), Some(9));
    }

    #[test]
    fn what_is_no_generation_is_none() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&answer(NFT_MSG_NEWGEN, &[])), None);
        assert_eq!(parse(&answer(2, &[8, 0, 1, 0, 0, 0, 0, 9])), None);
        assert_eq!(parse(&answer(NFT_MSG_NEWGEN, &[0; 64])), None, "an attribute of length zero");
    }
}
