//! Neighbours of the underlay: the hardware addresses that go into outer headers.
//!
//! The programs do not ask for a neighbour's address, so the kernel would forget it. A *managed* entry
//! (`NTF_EXT_MANAGED`, Linux 5.16; tcx needs 6.6) is resolved and probed by the kernel for as long as
//! it is there.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
};
use overlay_common::mac::Mac;

use super::{
    Netlink, NetlinkError,
    error::{gone_is_none, gone_is_success},
    request::Mode,
};

/// What the kernel has about a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its hardware address, if that is known.
    pub mac: Option<Mac>,
    /// It is kept resolved, by the kernel or because it is permanent.
    pub kept: bool,
}

impl Netlink {
    /// A neighbour's hardware address, if the kernel knows a valid one.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn neighbour(&self, oif: u32, address: Ipv4Addr) -> Result<Option<Mac>, NetlinkError> {
        let entry = self.neighbour_entry(oif, address).await?;
        Ok(entry.as_ref().and_then(resolved).map(|(_, mac)| mac))
    }

    /// What the kernel has about a neighbour.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn neighbour_state(&self, oif: u32, address: Ipv4Addr) -> Result<Neighbour, NetlinkError> {
        let entry = self.neighbour_entry(oif, address).await?;
        let is_kept =
            |entry: &NeighbourMessage| is_managed(entry) || entry.header.state == NeighbourState::Permanent;
        Ok(Neighbour {
            mac: entry.as_ref().and_then(resolved).map(|(_, mac)| mac),
            kept: entry.as_ref().is_some_and(is_kept),
        })
    }

    /// The neighbours on a device with a valid hardware address.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn neighbours(&self, oif: u32) -> Result<Vec<(Ipv4Addr, Mac)>, NetlinkError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Inet;
        request.attributes.push(NeighbourAttribute::IfIndex(oif));
        let operation = format!("list neighbours on interface {oif}");
        let entries = self.list(&operation, RouteNetlinkMessage::GetNeighbour(request)).await?;
        let entries =
            entries.into_iter().filter_map(new_neighbour).filter(|entry| entry.header.ifindex == oif);
        Ok(entries.filter_map(|entry| resolved(&entry)).collect())
    }

    /// Has the kernel find out a neighbour's hardware address and keep it true. To be asked again after
    /// the device was down: that removes the entry. An entry that an administrator made permanent stays.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn manage_neighbour(&self, oif: u32, address: Ipv4Addr) -> Result<(), NetlinkError> {
        let entry = self.neighbour_entry(oif, address).await?;
        if entry.is_some_and(|entry| entry.header.state == NeighbourState::Permanent) {
            return Ok(());
        }
        let mut message = message(oif, address);
        message.header.flags = NeighbourFlags::ExtLearned;
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let operation = format!("have neighbour {address} on interface {oif} resolved");
        self.change(&operation, Mode::CreateOrReplace, RouteNetlinkMessage::NewNeighbour(message)).await
    }

    /// Takes [`manage_neighbour`](Self::manage_neighbour) back. Entries of others stay; one that is gone
    /// is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn forget_neighbour(&self, oif: u32, address: Ipv4Addr) -> Result<(), NetlinkError> {
        if !self.neighbour_entry(oif, address).await?.is_some_and(|entry| is_managed(&entry)) {
            return Ok(());
        }
        let message = RouteNetlinkMessage::DelNeighbour(message(oif, address));
        let operation = format!("forget neighbour {address} on interface {oif}");
        gone_is_success(self.change(&operation, Mode::Existing, message).await)
    }

    async fn neighbour_entry(
        &self,
        oif: u32,
        address: Ipv4Addr,
    ) -> Result<Option<NeighbourMessage>, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(message(oif, address));
        let operation = format!("look up neighbour {address} on interface {oif}");
        Ok(gone_is_none(self.get(&operation, request).await)?.and_then(new_neighbour))
    }
}

fn message(oif: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = oif;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message
}

fn new_neighbour(message: RouteNetlinkMessage) -> Option<NeighbourMessage> {
    match message {
        RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
        _ => None,
    }
}

/// The IPv4 address of an entry.
pub(super) fn ipv4_address(entry: &NeighbourMessage) -> Option<Ipv4Addr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

/// Addresses of an entry whose hardware address may be used: the kernel's `NUD_VALID`.
fn resolved(entry: &NeighbourMessage) -> Option<(Ipv4Addr, Mac)> {
    is_valid(entry.header.state).then_some(())?;
    let mac = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })?;
    Some((ipv4_address(entry)?, mac))
}

fn is_valid(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
}

fn is_managed(entry: &NeighbourMessage) -> bool {
    let managed = |flags: &NeighbourExtFlags| flags.contains(NeighbourExtFlags::Managed);
    entry.attributes.iter().any(|a| matches!(a, NeighbourAttribute::ExtFlags(flags) if managed(flags)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_in_a_valid_state_have_a_usable_address() {
        use NeighbourState::{
            Delay, Failed, Incomplete, Noarp, None as Unborn, Permanent, Probe, Reachable, Stale,
        };
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let mut entry = message(7, address);
        entry.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        for state in [Reachable, Stale, Delay, Probe, Permanent, Noarp] {
            entry.header.state = state;
            assert_eq!(resolved(&entry), Some((address, mac)), "{state}");
        }
        for state in [Incomplete, Failed, Unborn] {
            entry.header.state = state;
            assert_eq!(resolved(&entry), None, "{state}");
        }
    }
}
