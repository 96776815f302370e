//! Looking at maps, links and devices without changing them: the reconciler's answer to `overlay verify`.
//!
//! The reconciler itself looks, between two passes: what it sees is never half of a change of its own. The host
//! is looked at anew, by a copy of what the reconciler knows of it, so that nothing it believes goes unchecked.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{
    devices,
    host::Host,
    lock,
    reconciler::{PassError, Reconciler, hooks},
    underlay::UnderlayError,
};
use crate::{
    model::{Cluster, Name},
    paths,
    reconcile::{Kept, desired},
    store::Revision,
    verify::{self, Concerns, Difference, Layer, maps},
};

/// What was seen.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The state that things were held against.
    pub revision: Revision,
    /// What is not as that state asks for.
    pub differences: Vec<Difference>,
}

impl Reconciler {
    /// Looks at everything that passes make true, and leaves it as it is.
    pub(super) async fn inspect(&mut self) -> Result<Inspection, PassError> {
        let cluster = self.cluster();
        let in_force = self.in_force(&cluster);
        let (host, underlay) = self.host().seen(&cluster).await?;
        let mut differences = host_differences(&host, &cluster, &in_force);
        differences.extend(underlay.err().map(|e| unusable(&host, &e)));
        let found = lock(self.datapath()).observe()?;
        let kept = Kept::of(self.written().unwrap_or(&found));
        let (hook, decapsulates) = self.xdp(&host);
        let local = host.local(&cluster, decapsulates, kept);
        let wanted = desired(&cluster, &local);
        differences.extend(maps::differences(&cluster, &local, &found, &wanted));
        let hooks = hooks(&host, &local, hook);
        let broken = lock(self.datapath()).broken(&hooks, &host.underlay().0.xdp_programs)?;
        differences.extend(broken.iter().map(|broken| verify::broken(&cluster, broken)));
        Ok(Inspection { revision: cluster.revision, differences })
    }
}

fn host_differences(host: &Host, cluster: &Cluster, in_force: &BTreeSet<String>) -> Vec<Difference> {
    let faults = host.faults(in_force).into_iter().map(|fault: devices::Fault| fault.difference(cluster));
    let here = cluster.endpoints.values().map(|e| &e.record).filter(|e| e.node == *host.node());
    let devices: BTreeSet<&str> = host.veths().map(|veth| veth.name.as_str()).collect();
    let without_veth = here.filter(|e| {
        let veth = paths::host_veth(&e.id);
        in_force.contains(&veth) && !devices.contains(veth.as_str())
    });
    let without_veth = without_veth.map(|endpoint| Difference {
        layer: Layer::Device,
        subject: paths::host_veth(&endpoint.id),
        found: None,
        wanted: Some("there".to_owned()),
        reason: "the container is gone: its endpoint is about to be collected".to_owned(),
        concerns: Concerns::endpoint(endpoint),
    });
    faults
        .chain(without_veth)
        .chain(host.lost_neighbours().map(|addr| neighbour(host, cluster, addr)))
        .collect()
}

fn unusable(host: &Host, reason: &UnderlayError) -> Difference {
    Difference {
        layer: Layer::Device,
        subject: host.underlay().0.name.clone(),
        found: None,
        wanted: Some("an underlay device".to_owned()),
        reason: reason.to_string(),
        concerns: Concerns::node(host.node()),
    }
}

/// A neighbour that nobody keeps resolved, as a difference.
pub(super) fn neighbour(host: &Host, cluster: &Cluster, addr: Ipv4Addr) -> Difference {
    let node = cluster.nodes.values().map(|n| &n.record).find(|n| n.vtep == addr);
    Difference {
        layer: Layer::Neighbour,
        subject: format!("{addr} on {}", host.underlay().0.name),
        found: None,
        wanted: Some("kept resolved by the kernel".to_owned()),
        reason: "packets to that host wait for its hardware address: the entry is gone".to_owned(),
        concerns: node.map_or_else(Concerns::default, |node| Concerns::node(&Name::clone(&node.name))),
    }
}
