//! The veth pair between host and container, made in one step.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage},
};
use nix::errno::Errno;
use overlay_common::{mac::Mac, wire::outer::MAX_INNER_LEN};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Netlink, NetlinkError, VethSide, check_ifname, request::Mode};
use crate::netns::NetnsHandle;

/// Longest packet of many segments that the container's kernel may make: the length of the outer packet has
/// 16 bits.
const MAX_GSO_LEN: u32 = MAX_INNER_LEN as u32;

/// MTU of the end on the host: a veth drops what exceeds its own before our program can answer it with
/// fragmentation-needed.
pub const HOST_VETH_MTU: u32 = u16::MAX as u32;

/// The container's end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLink {
    /// Its name.
    pub ifname: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU in bytes. The end on the host takes larger packets too, so that our program can answer them.
    pub mtu: u16,
}

impl Netlink {
    /// Makes a veth pair, one end here, the other in `ns`, and returns the index of the end here. Both are
    /// down: while the end here is, nothing that the container sends gets through, so there is time to
    /// attach a program to it.
    ///
    /// One message makes both ends where they belong, under their names: nothing of it is ever seen
    /// half-made, and if a name is taken on either side, nothing is made at all.
    ///
    /// # Errors
    /// [`NetlinkError::IfnameExists`] if a name is taken, others if the kernel refuses. Then there is no pair.
    pub async fn create_veth(
        &self,
        host_name: &str,
        ns: &NetnsHandle,
        container: &ContainerLink,
    ) -> Result<u32, NetlinkError> {
        self.create_pair(host_name, Some(ns), container).await
    }

    /// The same with both ends here: somebody else moves the container's end to where it belongs.
    ///
    /// # Errors
    /// As [`Self::create_veth`].
    pub async fn create_veth_here(
        &self,
        host_name: &str,
        container: &ContainerLink,
    ) -> Result<u32, NetlinkError> {
        self.create_pair(host_name, None, container).await
    }

    async fn create_pair(
        &self,
        host_name: &str,
        ns: Option<&NetnsHandle>,
        container: &ContainerLink,
    ) -> Result<u32, NetlinkError> {
        check_ifname(host_name)?;
        check_ifname(&container.ifname)?;
        let message = RouteNetlinkMessage::NewLink(veth_message(host_name, ns, container));
        let operation = format!("create the veth pair {host_name:?} and {:?}", container.ifname);
        match self.change(&operation, Mode::Create, message).await {
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                return Err(self.taken(host_name, &container.ifname).await?);
            }
            other => other?,
        }
        self.or_undo(host_name, self.prepare_host_side(host_name).await).await
    }

    async fn prepare_host_side(&self, host_name: &str) -> Result<u32, NetlinkError> {
        let ifindex = self.existing_link(host_name).await?.ifindex;
        self.silence_ipv6(ifindex).await?;
        Ok(ifindex)
    }

    /// The kernel does not say which of the two names is taken.
    async fn taken(&self, host_name: &str, container_name: &str) -> Result<NetlinkError, NetlinkError> {
        let (ifname, side) = match self.link_by_name(host_name).await? {
            Some(_) => (host_name, VethSide::Host),
            None => (container_name, VethSide::Container),
        };
        Ok(NetlinkError::IfnameExists { ifname: ifname.to_owned(), side })
    }
}

fn veth_message(host_name: &str, ns: Option<&NetnsHandle>, container: &ContainerLink) -> LinkMessage {
    let mtu = u32::from(container.mtu);
    let peer = LinkUnspec::new_with_name(&container.ifname)
        .address(container.mac.0.to_vec())
        .mtu(mtu)
        .append_extra_attribute(LinkAttribute::GsoMaxSize(MAX_GSO_LEN))
        .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(MAX_GSO_LEN));
    let peer = match ns {
        Some(ns) => peer.setns_by_fd(ns.as_fd().as_raw_fd()),
        None => peer,
    };
    let peer = peer.build();
    LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(host_name)
        .mtu(HOST_VETH_MTU)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build()
}
