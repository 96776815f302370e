//! The gateway device: a veth pair with both ends on the host. The outer end is what the host's stack knows; what it
//! sends there comes out of the inner end, where a program takes it.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Link, Netlink, NetlinkError, VethSide, check_ifname, request::Mode};

/// The two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPair {
    /// The host's end.
    pub outer: Link,
    /// The programs' end.
    pub inner: Link,
}

const KIND: &str = "veth";

impl Netlink {
    /// Makes sure of the pair. A new one is down: nothing may come out of it before a program looks at it.
    ///
    /// The outer end asks nobody for hardware addresses (`NOARP`): whatever it sends is for the inner one.
    ///
    /// # Errors
    /// If a name is another device's, or the kernel refuses.
    pub async fn create_gateway(&self, outer: &str, inner: &str) -> Result<GatewayPair, NetlinkError> {
        if let Some(pair) = self.gateway(outer, inner).await? {
            return Ok(pair);
        }
        // Half a pair is none: an end without the other, or under another name.
        self.delete_own(outer).await?;
        self.delete_own(inner).await?;
        let peer = LinkUnspec::new_with_name(inner).mtu(u16::MAX.into()).build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(outer)
            .arp(false)
            .multicast(false)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let operation = format!("create the gateway device {outer:?}");
        self.change(&operation, Mode::Create, RouteNetlinkMessage::NewLink(message)).await?;
        self.or_undo(outer, self.prepare_gateway(outer, inner).await).await
    }

    /// The pair, if it is there.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn gateway(&self, outer: &str, inner: &str) -> Result<Option<GatewayPair>, NetlinkError> {
        check_ifname(outer)?;
        check_ifname(inner)?;
        let ends = (self.link_by_name(outer).await?, self.link_by_name(inner).await?);
        let (Some(outer), Some(inner)) = ends else { return Ok(None) };
        let is_pair = self.is_peer(&outer.name, inner.ifindex).await?;
        Ok(is_pair.then_some(GatewayPair { outer, inner }))
    }

    async fn prepare_gateway(&self, outer: &str, inner: &str) -> Result<GatewayPair, NetlinkError> {
        let pair =
            GatewayPair { outer: self.existing_link(outer).await?, inner: self.existing_link(inner).await? };
        for end in [&pair.outer, &pair.inner] {
            self.silence_ipv6(end.ifindex).await?;
        }
        Ok(pair)
    }

    async fn delete_own(&self, name: &str) -> Result<(), NetlinkError> {
        match self.link_by_name(name).await? {
            None => Ok(()),
            Some(link) if link.kind.as_deref() == Some(KIND) => self.delete(link.ifindex).await,
            Some(_) => Err(NetlinkError::IfnameExists { ifname: name.to_owned(), side: VethSide::Host }),
        }
    }
}
