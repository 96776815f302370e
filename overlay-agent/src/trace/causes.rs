//! What stops a packet, and what to do about it.

use std::fmt;

use overlay_common::verdict::DropReason;
use serde::{Deserialize, Serialize};

/// Why a packet goes no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Stable name: that of the drop reason, where a program dropped it.
    pub name: String,
    /// What happened, in one line.
    pub description: String,
    /// What to do.
    pub fix: String,
}

const VERIFY: &str = "overlay verify, and --repair";

impl Cause {
    fn new(name: &str, description: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self { name: name.to_owned(), description: description.to_string(), fix: fix.to_string() }
    }

    /// The container's side of a device is down, or not there.
    pub fn device_down(endpoint: &dyn fmt::Display, ifname: &str) -> Self {
        let fix =
            format!("in the container: ip link set {ifname} up; if it is gone, attach the container again");
        Self::new("device_down", format!("{ifname} of {endpoint} is down"), fix)
    }

    /// An endpoint of this host without a device.
    pub fn device_gone(endpoint: &dyn fmt::Display) -> Self {
        let fix = "detach it and attach the container again; overlay status says why";
        Self::new("device_gone", format!("{endpoint} has no device on this host"), fix)
    }

    /// The receiver's host is away, so everybody has withdrawn its containers.
    pub fn node_down(node: &dyn fmt::Display) -> Self {
        let fix = format!(
            "start overlay-agent on {node}, or see why the store does not hear of it: overlay node inspect {node}"
        );
        Self::new(
            "node_down",
            format!("{node}, where the receiver is, counts as down: its containers are withdrawn"),
            fix,
        )
    }

    /// This host's device to the others does not work.
    pub fn underlay_down(ifname: &str) -> Self {
        let fix = format!("ip link set {ifname} up, or plug the cable in");
        Self::new("underlay_down", format!("{ifname}, which carries the tunnels, is down"), fix)
    }

    /// Nobody answers for the next hop to another host.
    pub fn next_hop_unknown(vtep: &dyn fmt::Display, ifname: &str) -> Self {
        let fix = format!(
            "see whether that machine runs and is on the wire: ip neighbour show dev {ifname}; ping {vtep}"
        );
        Self::new(
            "next_hop_unknown",
            format!("nobody on {ifname} answers for the next hop to VTEP {vtep}"),
            fix,
        )
    }

    /// A program leaves a packet alone that it should take.
    pub fn not_ours(program: &str) -> Self {
        Self::new("not_ours", format!("{program} takes the packet for none of the overlay's"), VERIFY)
    }

    /// A program drops it.
    pub fn dropped(reason: DropReason) -> Self {
        Self::new(reason.name(), reason.description(), fix(reason))
    }
}

fn fix(reason: DropReason) -> &'static str {
    match reason {
        DropReason::ArpUnanswered | DropReason::UnknownDestination => {
            "nobody has this address, or its host is down: overlay endpoint ls, overlay node ls"
        }
        DropReason::PolicyDenied => {
            "overlay policy allow NETWORK NETWORK, or attach the container to that network too"
        }
        DropReason::NoRule | DropReason::NoFlow => {
            "add a rule (overlay policy allow … --proto --port), or label the endpoints: overlay policy ls"
        }
        DropReason::InternalNetwork => "nothing: the network was made with --internal",
        DropReason::HostLocal | DropReason::Martian => "nothing: containers cannot send there",
        DropReason::NoRoute => "this host has no gateway device: overlay status says why",
        DropReason::TooBig => {
            "the sender is told what would pass (ICMP); see that nothing filters that, or send less"
        }
        DropReason::UnknownVtep | DropReason::VtepNotMember => {
            "this host does not know the sender's, or takes it for down: overlay node ls, overlay verify"
        }
        _ => VERIFY,
    }
}
