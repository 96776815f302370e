//! Endpoints that an operation works on just now.
//!
//! Between the store's commit and the veth an endpoint has one half only. The reconciler would take it for
//! the remains of an accident and collect it.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::{
    model::{EndpointId, Name, Owner},
    netns::NetnsId,
    paths,
};

/// What is being attached to what, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The network.
    pub network: Name,
    /// The container's namespace.
    pub netns: NetnsId,
    /// The front end that asked, if one did.
    pub owner: Option<Owner>,
    /// The interface that was asked for.
    pub ifname: Option<String>,
}

impl Attachment {
    /// Whether both want the same: of two at once, one is refused.
    fn clashes(&self, other: &Self) -> bool {
        let same_place = (&self.network, self.netns) == (&other.network, other.netns);
        let same_owner = self.owner.is_some() && self.owner == other.owner && self.ifname == other.ifname;
        same_place || same_owner
    }
}

/// The endpoints that are being made or removed; those that are being made with what they attach.
#[derive(Debug, Default)]
pub struct InProgress(watch::Sender<BTreeMap<EndpointId, Option<Attachment>>>);

/// Keeps an endpoint in progress until dropped.
#[derive(Debug)]
pub struct Guard {
    endpoints: Arc<InProgress>,
    id: EndpointId,
}

impl InProgress {
    /// Marks an endpoint that is being made; `None` if the same namespace is just being attached to the same
    /// network, or the same attachment is made for its owner.
    #[must_use]
    pub fn begin_attach(self: &Arc<Self>, id: &EndpointId, attachment: Attachment) -> Option<Guard> {
        let is_free = self.0.send_if_modified(|endpoints| {
            let is_free = !endpoints.values().flatten().any(|other| other.clashes(&attachment));
            if is_free {
                endpoints.insert(id.clone(), Some(attachment));
            }
            is_free
        });
        is_free.then(|| Guard { endpoints: Arc::clone(self), id: id.clone() })
    }

    /// Waits until nothing is being made any more for an owner, under this name of the interface or any.
    pub async fn attached(&self, owner: &Owner, ifname: Option<&str>) {
        let is_meant = |attachment: &Attachment| {
            attachment.owner.as_ref() == Some(owner)
                && (ifname.is_none() || attachment.ifname.as_deref() == ifname)
        };
        let mut endpoints = self.0.subscribe();
        let ended = endpoints.wait_for(|endpoints| !endpoints.values().flatten().any(is_meant));
        drop(ended.await.expect("the sender lives as long as this"));
    }

    /// Marks an endpoint that is being made for a container that is not there yet.
    #[must_use]
    pub fn begin_hand_over(self: &Arc<Self>, id: &EndpointId) -> Guard {
        self.begin_detach(id)
    }

    /// Marks an endpoint that is being removed.
    #[must_use]
    pub fn begin_detach(self: &Arc<Self>, id: &EndpointId) -> Guard {
        self.0.send_modify(|endpoints| drop(endpoints.insert(id.clone(), None)));
        Guard { endpoints: Arc::clone(self), id: id.clone() }
    }

    /// Whether an endpoint is in progress.
    #[must_use]
    pub fn contains(&self, id: &EndpointId) -> bool {
        self.0.borrow().contains_key(id)
    }

    /// Names of the host veths that the endpoints in progress have or will have.
    #[must_use]
    pub fn host_veths(&self) -> Vec<String> {
        self.0.borrow().keys().map(paths::host_veth).collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.endpoints.0.send_modify(|endpoints| drop(endpoints.remove(&self.id)));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::model::FrontEnd;

    fn attachment(netns: u64, owner: Option<&str>, ifname: &str) -> Attachment {
        let owner = owner.map(|id| Owner {
            front_end: FrontEnd::Cni,
            network: "blue".parse().unwrap(),
            id: id.parse().unwrap(),
        });
        let network = "ov_net1".parse().unwrap();
        Attachment { network, netns: NetnsId::sample(netns), owner, ifname: Some(ifname.to_owned()) }
    }

    #[test]
    fn of_two_attachments_at_once_to_one_place_or_for_one_owner_the_second_is_refused() {
        let endpoints = Arc::<InProgress>::default();
        let begin = |attachment| endpoints.begin_attach(&EndpointId::random(), attachment);
        let first = begin(attachment(1, Some("a"), "eth0"));
        assert!(first.is_some());
        assert!(begin(attachment(1, Some("b"), "eth1")).is_none(), "the same namespace");
        assert!(begin(attachment(2, Some("a"), "eth0")).is_none(), "the same owner and interface");
        assert!(begin(attachment(2, Some("a"), "eth1")).is_some());
        assert!(begin(attachment(3, None, "eth0")).is_some());
        drop(first);
        assert!(begin(attachment(1, Some("a"), "eth0")).is_some());
    }

    #[tokio::test]
    async fn who_waits_for_an_owner_waits_until_its_attachment_is_made_and_not_for_others() {
        let endpoints = Arc::<InProgress>::default();
        let making = attachment(1, Some("a"), "eth0");
        let owner = making.owner.clone().unwrap();
        let guard = endpoints.begin_attach(&EndpointId::random(), making);
        let other = Owner { id: "b".parse().unwrap(), ..owner.clone() };
        assert!(endpoints.attached(&other, None).now_or_never().is_some());
        assert!(endpoints.attached(&owner, Some("eth1")).now_or_never().is_some());
        assert!(endpoints.attached(&owner, None).now_or_never().is_none());
        let mut waiting = std::pin::pin!(endpoints.attached(&owner, Some("eth0")));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(guard);
        waiting.await;
    }
}
