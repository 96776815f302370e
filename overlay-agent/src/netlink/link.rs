//! Network interfaces: what they are, up, addressed, gone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
        LinkMessage, LinkXdp,
    },
};
use nix::errno::Errno;
use overlay_common::mac::Mac;
use rtnetlink::{AddressMessageBuilder, LinkUnspec};

use super::{
    Netlink, NetlinkError,
    error::{gone_is_none, gone_is_success},
    request::Mode,
};

/// Longest name of an interface: the kernel's `IFNAMSIZ` less its terminating zero.
const IFNAME_MAX: usize = 15;

/// A text that is no name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a network interface: use 1 to 15 bytes without spaces, `/`, `:` and `%`, and not `.` or `..`"
)]
pub struct InvalidIfname(pub String);

/// Checks a name as the kernel does, and besides refuses `%`, which makes the kernel choose a number.
///
/// # Errors
/// If no interface can have this name.
pub fn check_ifname(name: &str) -> Result<(), InvalidIfname> {
    let length = (1..=IFNAME_MAX).contains(&name.len());
    let valid = length && name != "." && name != ".." && !name.bytes().any(is_bad_byte);
    // Names that stand for all devices in the kernel's settings; no device can have them.
    let valid = valid && !matches!(name, "all" | "default");
    if valid { Ok(()) } else { Err(InvalidIfname(name.to_owned())) }
}

/// The kernel's `isspace` knows two more than ASCII: vertical tab and the Latin-1 no-break space.
fn is_bad_byte(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, 0x0b | 0xa0 | b'/' | b':' | b'%' | 0)
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; zero if it has no Ethernet one.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// It can send: it is up and what it is connected to answers.
    pub has_carrier: bool,
    /// What software made it (`veth`, `vxlan`, `bridge` …); `None` for hardware and for `lo`.
    pub kind: Option<String>,
    /// Index of the bridge (or other upper device) that it is a port of.
    pub controller: Option<u32>,
    /// Programs that run at its XDP hook, in whichever mode.
    pub xdp_programs: Vec<u32>,
}

impl Link {
    /// Whether it is software: a device with a kind. `/sys/class/net/IF/device` would say the same, but
    /// of the namespace in which sysfs was mounted.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.kind.is_some()
    }

    fn from_message(message: LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            mac: Mac::default(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
            kind: None,
            controller: None,
            xdp_programs: Vec::new(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = mac_or_zero(&bytes),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(ifindex) => link.controller = Some(ifindex),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind_of),
                LinkAttribute::Xdp(xdp) => link.xdp_programs = xdp.iter().filter_map(xdp_program).collect(),
                _ => {}
            }
        }
        link
    }
}

fn mac_or_zero(bytes: &[u8]) -> Mac {
    bytes.try_into().map_or(Mac::default(), Mac)
}

fn xdp_program(attribute: &LinkXdp) -> Option<u32> {
    match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    }
}

fn kind_of(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

impl Netlink {
    /// The interface with this name.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        if check_ifname(name).is_err() {
            return Ok(None);
        }
        let message = LinkUnspec::new_with_name(name).build();
        Ok(self.link_message(&format!("look up interface {name:?}"), message).await?.map(Link::from_message))
    }

    /// The interface with this index.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        Ok(self.link_message(&format!("look up interface {ifindex}"), message).await?.map(Link::from_message))
    }

    /// All interfaces.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let message = without_statistics(LinkMessage::default());
        let answers = self.list("list interfaces", RouteNetlinkMessage::GetLink(message)).await?;
        Ok(answers.into_iter().filter_map(new_link).map(Link::from_message).collect())
    }

    /// Whether an interface is the other end of the veth with index `peer`.
    pub(super) async fn is_peer(&self, name: &str, peer: u32) -> Result<bool, NetlinkError> {
        let message = LinkUnspec::new_with_name(name).build();
        let link = self.link_message(&format!("look up interface {name:?}"), message).await?;
        Ok(link.is_some_and(|link| link.attributes.contains(&LinkAttribute::Link(peer))))
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_up(&self, ifindex: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(ifindex).up().build();
        self.set_link(&format!("bring interface {ifindex} up"), message).await
    }

    /// Takes an interface down.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_down(&self, ifindex: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(ifindex).down().build();
        self.set_link(&format!("take interface {ifindex} down"), message).await
    }

    /// Sets an interface's MTU in bytes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu).build();
        self.set_link(&format!("set the MTU of interface {ifindex} to {mtu}"), message).await
    }

    /// Keeps the kernel from giving an interface an IPv6 address by itself, so that it says nothing
    /// that nobody asked it to say. To be done before it is up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) async fn silence_ipv6(&self, ifindex: u32) -> Result<(), NetlinkError> {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let builder = LinkUnspec::new_with_index(ifindex);
        let message = builder.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode])).build();
        match self.set_link(&format!("silence IPv6 on interface {ifindex}"), message).await {
            // No IPv6 on this host, or none on a device with so small an MTU: silent already.
            Err(error) if error.errno() == Some(Errno::EAFNOSUPPORT) => Ok(()),
            other => other,
        }
    }

    /// Removes an interface; one that is gone is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete(&self, ifindex: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        self.delete_link(&format!("remove interface {ifindex}"), message).await
    }

    /// Removes an interface by its name; one that is gone is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_by_name(&self, name: &str) -> Result<(), NetlinkError> {
        check_ifname(name)?;
        let message = LinkUnspec::new_with_name(name).build();
        self.delete_link(&format!("remove interface {name:?}"), message).await
    }

    /// The IPv4 addresses of an interface, its primary one first.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn ipv4_addresses(&self, ifindex: u32) -> Result<Vec<Ipv4Net>, NetlinkError> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(ifindex).build();
        let answers = self
            .list(&format!("list addresses of interface {ifindex}"), RouteNetlinkMessage::GetAddress(message))
            .await?;
        Ok(answers
            .into_iter()
            .filter_map(new_address)
            .filter(|a| a.header.index == ifindex)
            .filter_map(ipv4_net)
            .collect())
    }

    /// The IPv6 addresses of an interface.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn ipv6_addresses(&self, ifindex: u32) -> Result<Vec<Ipv6Net>, NetlinkError> {
        let message = AddressMessageBuilder::<Ipv6Addr>::new().index(ifindex).build();
        let operation = format!("list IPv6 addresses of interface {ifindex}");
        let answers = self.list(&operation, RouteNetlinkMessage::GetAddress(message)).await?;
        let messages = answers.into_iter().filter_map(new_address);
        Ok(messages.filter(|a| a.header.index == ifindex).filter_map(ipv6_net).collect())
    }

    /// Gives an interface an IPv4 address; one that it has already is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn add_ipv4_address(&self, ifindex: u32, address: Ipv4Net) -> Result<(), NetlinkError> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(ifindex)
            .address(address.addr(), address.prefix_len())
            .build();
        let operation = format!("give interface {ifindex} the address {address}");
        self.change(&operation, Mode::CreateOrReplace, RouteNetlinkMessage::NewAddress(message)).await
    }

    /// Gives an interface an IPv6 address that is known to be nobody else's, so that it can be used at once; one that it has
    /// already is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn add_ipv6_address(&self, ifindex: u32, address: Ipv6Net) -> Result<(), NetlinkError> {
        let builder = AddressMessageBuilder::<Ipv6Addr>::new();
        let mut message = builder.index(ifindex).address(address.addr(), address.prefix_len()).build();
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        let operation = format!("give interface {ifindex} the address {address}");
        self.change(&operation, Mode::CreateOrReplace, RouteNetlinkMessage::NewAddress(message)).await
    }

    /// Takes an IPv4 address from an interface; one that it does not have is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove_ipv4_address(&self, ifindex: u32, address: Ipv4Net) -> Result<(), NetlinkError> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(ifindex)
            .address(address.addr(), address.prefix_len())
            .build();
        let operation = format!("take the address {address} from interface {ifindex}");
        match self.change(&operation, Mode::Existing, RouteNetlinkMessage::DelAddress(message)).await {
            Err(error) if error.errno() == Some(Errno::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    pub(super) async fn link_message(
        &self,
        operation: &str,
        message: LinkMessage,
    ) -> Result<Option<LinkMessage>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(without_statistics(message));
        Ok(gone_is_none(self.get(operation, message).await)?.and_then(new_link))
    }

    pub(super) async fn set_link(&self, operation: &str, message: LinkMessage) -> Result<(), NetlinkError> {
        self.change(operation, Mode::Existing, RouteNetlinkMessage::SetLink(message)).await
    }

    /// The interface with this name, which has to be there.
    pub(super) async fn existing_link(&self, name: &str) -> Result<Link, NetlinkError> {
        self.link_by_name(name).await?.ok_or_else(|| NetlinkError::NoSuchLink(name.to_owned()))
    }

    /// Takes an interface that was just made back if it could not be set up.
    pub(super) async fn or_undo<T>(
        &self,
        name: &str,
        set_up: Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        if set_up.is_err()
            && let Err(error) = self.delete_by_name(name).await
        {
            tracing::warn!(interface = name, %error, "an interface that could not be set up stays behind");
        }
        set_up
    }

    async fn delete_link(&self, operation: &str, message: LinkMessage) -> Result<(), NetlinkError> {
        gone_is_success(self.change(operation, Mode::Existing, RouteNetlinkMessage::DelLink(message)).await)
    }
}

/// Counters are most of a link's message and change while it is written.
fn without_statistics(mut message: LinkMessage) -> LinkMessage {
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn new_link(message: RouteNetlinkMessage) -> Option<LinkMessage> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

fn new_address(message: RouteNetlinkMessage) -> Option<AddressMessage> {
    match message {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    }
}

fn ipv6_net(message: AddressMessage) -> Option<Ipv6Net> {
    let prefix_len = message.header.prefix_len;
    message.attributes.into_iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V6(address)) => Ipv6Net::new(address, prefix_len).ok(),
        _ => None,
    })
}

/// The local address: on a point-to-point link, `IFA_ADDRESS` is the other end's.
fn ipv4_net(message: AddressMessage) -> Option<Ipv4Net> {
    let prefix_len = message.header.prefix_len;
    message.attributes.into_iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Ipv4Net::new(address, prefix_len).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::check_ifname;

    #[test]
    fn interface_names_are_those_that_the_kernel_keeps_as_they_are() {
        for good in ["e", "eth0", "ovl-tunnel", "a.b", "fifteen-bytes-x", "ümlaut"] {
            assert_eq!(check_ifname(good), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "eth%d",
            "a b",
            "a\tb",
            "a\x0bb",
            "\u{a0}",
            "a\0",
            "sixteen-bytes-xx",
        ] {
            assert!(check_ifname(bad).is_err(), "{bad:?}");
        }
    }
}
