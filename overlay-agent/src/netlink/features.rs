//! Offload features of a device, as `ethtool -k` and `-K` show and set them, over ethtool's netlink.
//!
//! The ethtool crate reads features but cannot set them: the message for that is put together here. Both
//! open a connection for one question, in the calling thread's namespace, as these are asked rarely.

use std::{convert::Infallible, io};

use ethtool::{EthtoolAttr, EthtoolError, EthtoolFeatureAttr, EthtoolHandle, EthtoolMessage};
use futures::{StreamExt, TryStreamExt};
use rtnetlink::{
    packet_core::{
        DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
        NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    proto,
    sys::{SocketAddr, protocols::NETLINK_GENERIC},
};
use tokio::{task::JoinSet, time::timeout};

use super::{Netlink, NetlinkError, check_ifname, request::ANSWER_TIMEOUT};

/// Checksums of every protocol at any offset: what a packet inside a tunnel needs.
const GENERIC_CHECKSUM: &str = "tx-checksum-ip-generic";
/// Generic receive offload.
const GRO: &str = "rx-gro";

// Numbers of linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_GENL_VERSION: u8 = 1;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 1 << 1;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

impl Netlink {
    /// Whether a device computes checksums of any protocol at any offset, now.
    ///
    /// # Errors
    /// If there is no such device or the kernel cannot be asked.
    pub async fn has_generic_checksum(&self, ifname: &str) -> Result<bool, NetlinkError> {
        self.feature(ifname, GENERIC_CHECKSUM).await
    }

    /// Whether generic receive offload is on.
    ///
    /// # Errors
    /// If there is no such device or the kernel cannot be asked.
    pub async fn has_gro(&self, ifname: &str) -> Result<bool, NetlinkError> {
        self.feature(ifname, GRO).await
    }

    /// Turns generic receive offload on or off.
    ///
    /// # Errors
    /// If there is no such device or it refuses.
    pub async fn set_gro(&self, ifname: &str, on: bool) -> Result<(), NetlinkError> {
        self.set_feature(ifname, GRO, on).await?;
        // The kernel acknowledges even what the device does not do.
        if self.feature(ifname, GRO).await? == on {
            Ok(())
        } else {
            Err(NetlinkError::FeatureRefused { ifname: ifname.to_owned(), feature: GRO })
        }
    }

    /// The features that are on.
    ///
    /// # Errors
    /// If there is no such device or the kernel cannot be asked.
    pub async fn features(&self, ifname: &str) -> Result<Vec<String>, NetlinkError> {
        check_ifname(ifname)?;
        let operation = format!("read the features of interface {ifname:?}");
        let no_answer = || NetlinkError::NoAnswer { operation: operation.clone() };
        let (mut ethtool, _task) = ethtool_handle()?;
        let read = async {
            let answers = ethtool.feature().get(Some(ifname)).execute().await?;
            answers.try_collect::<Vec<_>>().await
        };
        let answers = timeout(ANSWER_TIMEOUT, read).await.map_err(|_| no_answer())?;
        let answers = answers.map_err(|error| ethtool_error(error, ifname, &operation))?;
        let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
        attributes.filter_map(active).next().ok_or_else(no_answer)
    }

    async fn feature(&self, ifname: &str, feature: &str) -> Result<bool, NetlinkError> {
        Ok(self.features(ifname).await?.iter().any(|active| active == feature))
    }

    async fn set_feature(&self, ifname: &str, feature: &str, on: bool) -> Result<(), NetlinkError> {
        check_ifname(ifname)?;
        let operation = format!("set {feature} of interface {ifname:?}");
        let no_answer = || NetlinkError::NoAnswer { operation: operation.clone() };
        let family = ethtool_family(&operation).await?;
        let (connection, handle, _) =
            proto::new_connection::<GenericMessage>(NETLINK_GENERIC).map_err(NetlinkError::Socket)?;
        let mut task = JoinSet::new();
        task.spawn(connection);
        let mut request = NetlinkMessage::from(set_message(family, ifname, feature, on));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut answers = handle.request(request, SocketAddr::new(0, 0)).map_err(|_| no_answer())?;
        let answer = timeout(ANSWER_TIMEOUT, answers.next()).await.map_err(|_| no_answer())?;
        match answer.map(|message| message.payload) {
            Some(NetlinkPayload::Error(error)) => {
                let error = NetlinkError::Kernel { operation, source: error.to_io() };
                Err(if error.is_gone() { NetlinkError::NoSuchLink(ifname.to_owned()) } else { error })
            }
            _ => Ok(()),
        }
    }
}

/// A connection, and the task that it lives on, for as long as that is kept.
fn ethtool_handle() -> Result<(EthtoolHandle, JoinSet<()>), NetlinkError> {
    let (connection, handle, _) = ethtool::new_connection().map_err(NetlinkError::Socket)?;
    let mut task = JoinSet::new();
    task.spawn(connection);
    Ok((handle, task))
}

/// The number that this kernel gave to ethtool's messages.
async fn ethtool_family(operation: &str) -> Result<u16, NetlinkError> {
    let (ethtool, _task) = ethtool_handle()?;
    let family = timeout(ANSWER_TIMEOUT, ethtool.handle.resolve_family::<EthtoolMessage>()).await;
    match family {
        Ok(Ok(family)) => Ok(family.id),
        _ => Err(NetlinkError::NoAnswer { operation: operation.to_owned() }),
    }
}

fn ethtool_error(error: EthtoolError, ifname: &str, operation: &str) -> NetlinkError {
    let EthtoolError::NetlinkError(message) = error else {
        return NetlinkError::NoAnswer { operation: operation.to_owned() };
    };
    let errno = message.code.map_or(0, |code| code.get().abs());
    let error =
        NetlinkError::Kernel { operation: operation.to_owned(), source: io::Error::from_raw_os_error(errno) };
    if error.is_gone() { NetlinkError::NoSuchLink(ifname.to_owned()) } else { error }
}

fn active(attribute: EthtoolAttr) -> Option<Vec<String>> {
    match attribute {
        EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => {
            Some(bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name).collect())
        }
        _ => None,
    }
}

/// A generic netlink message: its family and everything after the netlink header.
#[derive(Debug)]
struct GenericMessage {
    family: u16,
    payload: Vec<u8>,
}

impl NetlinkSerializable for GenericMessage {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for GenericMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { family: header.message_type, payload: payload.to_vec() })
    }
}

impl From<GenericMessage> for NetlinkPayload<GenericMessage> {
    fn from(message: GenericMessage) -> Self {
        Self::InnerMessage(message)
    }
}

fn set_message(family: u16, ifname: &str, feature: &str, on: bool) -> GenericMessage {
    let header = nested(
        ETHTOOL_A_FEATURES_HEADER,
        &[
            text(ETHTOOL_A_HEADER_DEV_NAME, ifname),
            DefaultNla::new(ETHTOOL_A_HEADER_FLAGS, ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes().to_vec()),
        ],
    );
    let mut bit = vec![text(ETHTOOL_A_BITSET_BIT_NAME, feature)];
    if on {
        bit.push(DefaultNla::new(ETHTOOL_A_BITSET_BIT_VALUE, Vec::new()));
    }
    let bits = nested(ETHTOOL_A_BITSET_BITS, &[nested(ETHTOOL_A_BITSET_BITS_BIT, &bit)]);
    let wanted = nested(ETHTOOL_A_FEATURES_WANTED, &[bits]);
    let mut payload = vec![ETHTOOL_MSG_FEATURES_SET, ETHTOOL_GENL_VERSION, 0, 0];
    payload.extend(bytes(&[header, wanted]));
    GenericMessage { family, payload }
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, bytes(attributes))
}

fn text(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, [value.as_bytes(), b"\0"].concat())
}

fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}
