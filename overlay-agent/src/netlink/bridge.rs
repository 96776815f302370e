//! Bridges, as far as the agent needs them: one that never comes up, for what its ports get by being ports.

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use super::{Netlink, NetlinkError, VethSide, check_ifname, request::Mode};

/// What `ip link` calls the kind.
const KIND: &str = "bridge";

impl Netlink {
    /// Makes sure of a bridge and returns its index. It is left down: it never forwards.
    ///
    /// # Errors
    /// If the name is another device's, or the kernel refuses.
    pub async fn create_bridge(&self, name: &str) -> Result<u32, NetlinkError> {
        check_ifname(name)?;
        let message = RouteNetlinkMessage::NewLink(LinkMessageBuilder::<LinkBridge>::new(name).build());
        match self.change(&format!("create the bridge {name:?}"), Mode::Create, message).await {
            Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(error),
            _ => {}
        }
        let link = self.existing_link(name).await?;
        if link.kind.as_deref() == Some(KIND) {
            return Ok(link.ifindex);
        }
        Err(NetlinkError::IfnameExists { ifname: name.to_owned(), side: VethSide::Host })
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_controller(&self, ifindex: u32, bridge: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(ifindex).controller(bridge).build();
        self.set_link(&format!("make interface {ifindex} a port of bridge {bridge}"), message).await
    }
}
