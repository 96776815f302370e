//! News from the kernel: links, IPv4 neighbours and IPv4 addresses as they change.
//!
//! An event says only what changed, not how: the reader looks it up, and so never acts on old news.

use std::{
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    neighbour::NeighbourMessage,
};
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};
use tokio::task::JoinSet;

use super::{NetlinkError, neighbour::ipv4_address};

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// A link is new or other than before.
    LinkChanged {
        /// Its index.
        ifindex: u32,
        /// Its name.
        name: String,
    },
    /// A link was removed, or moved to another namespace.
    LinkGone {
        /// The index that it had.
        ifindex: u32,
        /// The name that it had.
        name: String,
    },
    /// What the kernel knows of a neighbour is other than before.
    NeighbourChanged {
        /// The device's index.
        oif: u32,
        /// The neighbour's address.
        address: Ipv4Addr,
    },
    /// A link's IPv4 addresses are other than before.
    AddressChanged {
        /// The link's index.
        ifindex: u32,
    },
    /// Events were lost: everything has to be looked up again.
    Overrun,
}

/// The events of a namespace, from the moment it was opened.
#[derive(Debug)]
pub struct EventStream {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Reads the socket; aborted when the stream is dropped.
    _connection: JoinSet<()>,
}

/// Listens to the kernel, in the namespace of the calling thread. The stream ends only if the socket fails.
///
/// # Errors
/// If there is no socket to be had.
pub fn monitor() -> Result<EventStream, NetlinkError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Ifaddr];
    let (connection, _, messages) = new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
    let mut task = JoinSet::new();
    task.spawn(connection);
    Ok(EventStream { messages, _connection: task })
}

impl Stream for EventStream {
    type Item = NetEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<NetEvent>> {
        loop {
            match self.messages.poll_next_unpin(context) {
                Poll::Ready(Some((message, _))) => {
                    if let Some(event) = event_of(message.payload) {
                        return Poll::Ready(Some(event));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn event_of(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<NetEvent> {
    use RouteNetlinkMessage::{DelAddress, DelLink, DelNeighbour, NewAddress, NewLink, NewNeighbour};
    match payload {
        NetlinkPayload::Overrun(_) => Some(NetEvent::Overrun),
        NetlinkPayload::InnerMessage(message) => match message {
            NewLink(link) => link_event(link, |ifindex, name| NetEvent::LinkChanged { ifindex, name }),
            DelLink(link) => link_event(link, |ifindex, name| NetEvent::LinkGone { ifindex, name }),
            NewNeighbour(entry) | DelNeighbour(entry) => neighbour_event(&entry),
            NewAddress(address) | DelAddress(address) => {
                Some(NetEvent::AddressChanged { ifindex: address.header.index })
            }
            _ => None,
        },
        _ => None,
    }
}

/// A link message of another family is about the link's part in something: `DelLink` of the bridge
/// family, for one, says that it left its bridge.
fn link_event(link: LinkMessage, event: impl FnOnce(u32, String) -> NetEvent) -> Option<NetEvent> {
    (link.header.interface_family == AddressFamily::Unspec).then_some(())?;
    let name = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    Some(event(link.header.index, name))
}

fn neighbour_event(entry: &NeighbourMessage) -> Option<NetEvent> {
    let address = ipv4_address(entry)?;
    Some(NetEvent::NeighbourChanged { oif: entry.header.ifindex, address })
}

#[cfg(test)]
mod tests {
    use rtnetlink::LinkUnspec;

    use super::*;

    fn del_link(family: AddressFamily) -> Option<NetEvent> {
        let message = LinkUnspec::new_with_index(7).name("gone").interface_family(family).build();
        event_of(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)))
    }

    #[test]
    fn a_link_that_leaves_its_bridge_is_not_gone() {
        assert_eq!(
            del_link(AddressFamily::Unspec),
            Some(NetEvent::LinkGone { ifindex: 7, name: "gone".to_owned() })
        );
        assert_eq!(del_link(AddressFamily::Bridge), None);
    }

    #[test]
    fn lost_events_are_told() {
        assert_eq!(event_of(NetlinkPayload::Overrun(Vec::new())), Some(NetEvent::Overrun));
    }
}
