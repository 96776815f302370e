//! What can go wrong between the agent and the kernel's network configuration.

use std::{fmt, io, net::Ipv4Addr};

use nix::errno::Errno;

use super::link::InvalidIfname;
use crate::netns::NetnsError;

/// Which end of a veth pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VethSide {
    /// Beside the underlay device.
    Host,
    /// In the container.
    Container,
}

impl fmt::Display for VethSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "on the host: see `ip link`, and remove it if it is a left-over",
            Self::Container => "in the container: choose another name with --ifname",
        })
    }
}

/// A failure, with what was being done to what.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel said no.
    #[error("cannot {operation}: {source}")]
    Kernel {
        /// What was to be done to what.
        operation: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel said nothing, or something that is no answer.
    #[error("cannot {operation}: the kernel's answer is missing or not understood")]
    NoAnswer {
        /// What was to be done to what.
        operation: String,
    },
    /// The list changed each time it was read.
    #[error("cannot {operation}: the list keeps changing while it is read; try again")]
    Restless {
        /// What was to be done to what.
        operation: String,
    },
    /// No interface name.
    #[error(transparent)]
    Ifname(#[from] InvalidIfname),
    /// No such interface.
    #[error("there is no network interface {0:?} here: see `ip link` for those that there are")]
    NoSuchLink(String),
    /// The name is taken.
    #[error("there is already a network interface {ifname:?} {side}")]
    IfnameExists {
        /// The name.
        ifname: String,
        /// Where it is taken.
        side: VethSide,
    },
    /// Another device has the UDP port.
    #[error(
        "cannot receive VXLAN packets on UDP port {0}: another vxlan device or process uses it; choose another with --vxlan-port, the same on all hosts"
    )]
    PortTaken(u16),
    /// No way to an address.
    #[error("there is no usable IPv4 route to {0}: see `ip route get {0}`")]
    NoRoute(Ipv4Addr),
    /// The device does not do it.
    #[error("cannot set {feature} of interface {ifname:?}: the device refuses")]
    FeatureRefused {
        /// The interface.
        ifname: String,
        /// Name of the feature as `ethtool -k` prints it.
        feature: &'static str,
    },
    /// A setting of the kernel's cannot be written.
    #[error("cannot write {path}: {source}")]
    Sysctl {
        /// Path below `/proc/sys`.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

impl NetlinkError {
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    /// Whether the subject of the operation does not exist (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let gone = [Errno::ENODEV, Errno::ENOENT, Errno::ENXIO, Errno::ESRCH];
        matches!(self, Self::NoSuchLink(_)) || self.errno().is_some_and(|errno| gone.contains(&errno))
    }
}

/// What is gone need not be removed.
pub(super) fn gone_is_success(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.is_gone() => Ok(()),
        other => other,
    }
}

/// What is gone is nothing.
pub(super) fn gone_is_none<T>(result: Result<T, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}
