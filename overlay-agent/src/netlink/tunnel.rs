//! The collect-metadata vxlan device of the slow path: the programs tell it VNI and VTEP per packet.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::{Netlink, NetlinkError, VethSide, check_ifname, request::Mode};

/// The longest outer packet less its headers: the underlay's MTU decides what fits, and that in BPF.
pub const TUNNEL_MTU: u32 = 65535 - 50;

/// What stands under the tunnel's name.
enum Existing {
    Nothing,
    Same(u32),
    Other(u32),
    Foreign,
}

impl Netlink {
    /// Makes sure of the collect-metadata vxlan device that receives on a UDP port, and returns its index. A
    /// new one is down until [`start_tunnel`](Self::start_tunnel): nothing may come out of it before a program
    /// looks at it. One with the same settings is kept: traffic may be in it.
    ///
    /// # Errors
    /// If the port or the name is another's, or the kernel refuses.
    pub async fn create_tunnel(&self, name: &str, port: u16) -> Result<u32, NetlinkError> {
        check_ifname(name)?;
        match self.existing_tunnel(name, port).await? {
            Existing::Same(ifindex) => self.prepare_tunnel(ifindex).await.map(|()| ifindex),
            Existing::Other(ifindex) => {
                self.delete(ifindex).await?;
                self.new_tunnel(name, port).await
            }
            Existing::Nothing => self.new_tunnel(name, port).await,
            Existing::Foreign => {
                Err(NetlinkError::IfnameExists { ifname: name.to_owned(), side: VethSide::Host })
            }
        }
    }

    async fn existing_tunnel(&self, name: &str, port: u16) -> Result<Existing, NetlinkError> {
        let request = LinkUnspec::new_with_name(name).build();
        let Some(link) = self.link_message(&format!("look up interface {name:?}"), request).await? else {
            return Ok(Existing::Nothing);
        };
        let ifindex = link.header.index;
        Ok(match vxlan_settings(link) {
            None => Existing::Foreign,
            Some(settings) if is_tunnel(&settings, port) => Existing::Same(ifindex),
            Some(_) => Existing::Other(ifindex),
        })
    }

    async fn new_tunnel(&self, name: &str, port: u16) -> Result<u32, NetlinkError> {
        let message = LinkMessageBuilder::<LinkVxlan>::new(name)
            .collect_metadata(true)
            .learning(false)
            .port(port)
            .build();
        let operation = format!("create the vxlan device {name:?}");
        match self.change(&operation, Mode::Create, RouteNetlinkMessage::NewLink(message)).await {
            Err(error) if error.errno() == Some(Errno::EEXIST) => return Err(NetlinkError::PortTaken(port)),
            other => other?,
        }
        let prepared = async {
            let ifindex = self.existing_link(name).await?.ifindex;
            self.prepare_tunnel(ifindex).await?;
            Ok(ifindex)
        };
        self.or_undo(name, prepared.await).await
    }

    async fn prepare_tunnel(&self, ifindex: u32) -> Result<(), NetlinkError> {
        self.silence_ipv6(ifindex).await?;
        self.set_mtu(ifindex, TUNNEL_MTU).await
    }

    /// Brings the tunnel device up.
    ///
    /// # Errors
    /// If the port is another's, or the kernel refuses.
    pub async fn start_tunnel(&self, ifindex: u32, port: u16) -> Result<(), NetlinkError> {
        match self.set_up(ifindex).await {
            Err(error) if error.errno() == Some(Errno::EADDRINUSE) => Err(NetlinkError::PortTaken(port)),
            other => other,
        }
    }
}

fn vxlan_settings(link: LinkMessage) -> Option<Vec<InfoVxlan>> {
    let infos = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.contains(&LinkInfo::Kind(InfoKind::Vxlan)).then_some(())?;
    infos.into_iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(settings)) => Some(settings),
        _ => None,
    })
}

fn is_tunnel(settings: &[InfoVxlan], port: u16) -> bool {
    [InfoVxlan::CollectMetadata(true), InfoVxlan::Learning(false), InfoVxlan::Port(port)]
        .iter()
        .all(|setting| settings.contains(setting))
}
