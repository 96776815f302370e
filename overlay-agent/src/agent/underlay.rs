//! Which device and address carry the tunnels.

use std::net::Ipv4Addr;

use crate::{
    config::Config,
    netlink::{Link, Netlink, NetlinkError},
    reconcile::desired::Underlay,
};

/// Why there is no underlay.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// Nothing said which device, and the routes do not either.
    #[error("no default route tells the underlay device: name it with --underlay")]
    Unknown,
    /// There is no such device.
    #[error("there is no device {0}: name the underlay device with --underlay")]
    NoDevice(String),
    /// It leads nowhere.
    #[error("device {0} leads to no other host: name the one that does with --underlay")]
    Loopback(String),
    /// No other host can send there.
    #[error("{0} cannot be a VTEP address: name one with --advertise that other hosts can send to")]
    Advertise(Ipv4Addr),
    /// It has no address.
    #[error("device {0} has no IPv4 address: give it one, or name another device with --underlay")]
    NoAddress(String),
    /// Its MTU leaves nothing to containers.
    #[error("device {0} has an MTU of {1}: VXLAN needs at least {min}", min = MIN_MTU)]
    SmallMtu(String, u32),
    /// The kernel does not say.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// The loopback device's name in every namespace.
const LOOPBACK: &str = "lo";
/// Smallest underlay MTU in bytes: the smallest IPv4 link (RFC 791) and the tunnel's headers.
const MIN_MTU: u32 = 68 + overlay_common::wire::outer::MTU_OVERHEAD as u32;

/// Finds the underlay that the settings mean.
///
/// # Errors
/// If there is none that can be used.
pub async fn find(netlink: &Netlink, config: &Config) -> Result<(Link, Underlay), UnderlayError> {
    if let Some(addr) = config.advertise.filter(|a| !can_be_reached(*a)) {
        return Err(UnderlayError::Advertise(addr));
    }
    let link = match &config.underlay {
        Some(name) => {
            netlink.link_by_name(name).await?.ok_or_else(|| UnderlayError::NoDevice(name.clone()))?
        }
        None => default_device(netlink).await?,
    };
    if link.name == LOOPBACK {
        return Err(UnderlayError::Loopback(link.name));
    }
    let underlay = describe(netlink, &link, config.advertise).await?;
    Ok((link, underlay))
}

/// What the data path must know of the device, as it is now.
///
/// The VTEP address is the advertised one if the device has it; behind address translation it does not,
/// and packets arrive at the device's own.
///
/// # Errors
/// If it has no address or too small an MTU.
pub async fn describe(
    netlink: &Netlink,
    link: &Link,
    advertise: Option<Ipv4Addr>,
) -> Result<Underlay, UnderlayError> {
    let addresses = netlink.ipv4_addresses(link.ifindex).await?;
    let advertised = addresses.iter().find(|a| Some(a.addr()) == advertise);
    let address =
        advertised.or(addresses.first()).ok_or_else(|| UnderlayError::NoAddress(link.name.clone()))?;
    if link.mtu < MIN_MTU {
        return Err(UnderlayError::SmallMtu(link.name.clone(), link.mtu));
    }
    Ok(Underlay {
        ifindex: link.ifindex,
        mac: link.mac,
        addr: address.addr(),
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        generic_checksum: netlink.has_generic_checksum(&link.name).await?,
    })
}

fn can_be_reached(addr: Ipv4Addr) -> bool {
    !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || addr.is_broadcast())
}

async fn default_device(netlink: &Netlink) -> Result<Link, UnderlayError> {
    let ifindex = netlink.default_route_device().await?.ok_or(UnderlayError::Unknown)?;
    netlink.link_by_index(ifindex).await?.ok_or(UnderlayError::Unknown)
}
