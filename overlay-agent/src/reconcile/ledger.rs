//! What the maps should hold, kept from pass to pass with an account of what each container is due, so that one more
//! container on another host costs what one entry costs, and one more host what one host costs.
//!
//! It is a shortcut, never another truth: where a change reaches further, or where two containers claim the same entry,
//! there is no shortcut and everything is computed anew. Proptests hold the two ways against each other.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::{
    fdb::{FdbEntry, FdbKey},
    neigh::{Neigh, NeighKey},
    policy::{RuleBits, RuleBitsKey},
    vtep::{self, VtepMemberKey},
};

use super::{
    desired::{Basis, Kept, Local, Remote, add_local, ground},
    flood,
    plan::{Edits, Plan},
    tables::Tables,
};
use crate::model::{Cluster, EndpointId};

/// The tables of one state of the cluster, on a host as it was then.
#[derive(Clone, Debug)]
pub struct Ledger {
    tables: Tables,
    /// The part of them that no container is due.
    ground: Tables,
    basis: Basis,
    local: Local,
    remotes: BTreeMap<EndpointId, Remote>,
    /// How many containers each membership is due to.
    members: BTreeMap<VtepMemberKey, usize>,
    /// No entry is claimed twice, and none waits for a network or node that is not known yet.
    plain: bool,
}

impl Ledger {
    /// Computes everything.
    #[must_use]
    pub fn new(cluster: &Cluster, local: Local) -> Self {
        let (ground, basis) = ground(cluster, &local);
        let mut tables = ground.clone();
        let (mut remotes, mut members) = (BTreeMap::new(), BTreeMap::new());
        let mut waiting = 0;
        for endpoint in cluster.endpoints.values().map(|e| &e.record) {
            if endpoint.node == local.node {
                add_local(&mut tables, endpoint, cluster, &local, &basis);
            } else if let Some(remote) = Remote::of(endpoint, cluster, &basis) {
                remote.add_to(&mut tables);
                remote.members.iter().for_each(|member| *members.entry(*member).or_default() += 1);
                remotes.insert(endpoint.id.clone(), remote);
            } else {
                waiting += 1;
            }
        }
        flood::add(&mut tables, cluster, &local, &basis);
        let claims = remotes.len() + tables.endpoints.len();
        let own = tables.endpoints.values().map(|own| 1 + usize::from(own.has_ipv6()));
        let addresses = remotes.values().map(|remote: &Remote| remote.neigh.len()).chain(own).sum::<usize>();
        let plain = waiting == 0
            && tables.fdb.len() == claims
            && tables.neigh.len() == addresses + ground.neigh.len();
        let local = Local { kept: Kept::of(&tables), ..local };
        Self { tables, ground, basis, local, remotes, members, plain }
    }

    /// What the maps should hold.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The host, as it was.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// The same after changes of these endpoints, with the plan that leads there; of what they stand on too, if `local`
    /// says how the host is now. Where there is no shortcut, the tables as they were.
    ///
    /// # Errors
    /// If everything has to be computed anew.
    pub fn follow(
        mut self,
        cluster: &Cluster,
        local: Option<Local>,
        changed: &BTreeSet<&EndpointId>,
    ) -> Result<(Self, Plan), Box<Tables>> {
        let new_ground = match local.map(|local| self.on_new_ground(cluster, local)) {
            Some(None) => return Err(Box::new(self.tables)),
            Some(ground) => ground,
            None => None,
        };
        let mut touched = Touched::default();
        if !self.plain || self.change(cluster, changed, &mut touched).is_none() {
            return Err(Box::new(touched.undo(self.tables)));
        }
        let mut plan = touched.plan(&self.tables);
        if let Some(ground) = new_ground {
            let before = std::mem::replace(&mut self.ground, ground);
            let difference = Plan::between(&before, &self.ground);
            difference.carry_out(&mut self.tables);
            plan.extend(difference);
        }
        self.local.kept = Kept::of(&self.ground);
        Ok((self, plan))
    }

    /// Takes over how the host and what endpoints stand on are now, if that leaves all entries as they are. Returns the
    /// new ground.
    fn on_new_ground(&mut self, cluster: &Cluster, local: Local) -> Option<Tables> {
        let (ground, basis) = ground(cluster, &local);
        let is_used = |index| self.remotes.values().any(|remote| remote.fdb.1.vtep == index);
        let holds = self.basis.holds_in(&basis, is_used)
            && self.ground.neigh.keys().eq(ground.neigh.keys())
            && self.local.host_veths == local.host_veths
            && self.local.node == local.node;
        holds.then(|| {
            self.basis = basis;
            self.local = local;
            ground
        })
    }

    /// What the maps should hold, alone.
    #[must_use]
    pub fn into_tables(self) -> Tables {
        self.tables
    }

    fn change(
        &mut self,
        cluster: &Cluster,
        changed: &BTreeSet<&EndpointId>,
        touched: &mut Touched,
    ) -> Option<()> {
        for id in changed {
            match self.remotes.remove(*id) {
                // Its VTEP goes with it, if no other machine is behind that.
                Some(old) if old.peer == vtep::EXTERNAL || self.is_flooded(&old) => return None,
                Some(old) => self.take_out(&old, touched)?,
                // It was one of ours.
                None if self.local.host_veths.contains_key(*id) => return None,
                None => {}
            }
        }
        for endpoint in changed.iter().filter_map(|id| cluster.endpoints.get(*id)).map(|e| &e.record) {
            if endpoint.node == self.local.node || endpoint.is_external() {
                return None;
            }
            let remote = Remote::of(endpoint, cluster, &self.basis)?;
            if self.is_flooded(&remote) {
                return None;
            }
            self.put_in(&remote, touched)?;
            self.remotes.insert(endpoint.id.clone(), remote);
        }
        Some(())
    }

    /// Whether its network's lists of receivers change with it.
    fn is_flooded(&self, remote: &Remote) -> bool {
        self.basis.multicast.contains(&remote.fdb.0.vni)
    }

    /// Fails if an entry is not there.
    fn take_out(&mut self, old: &Remote, touched: &mut Touched) -> Option<()> {
        let fdb = self.tables.fdb.remove(&old.fdb.0)?;
        touched.fdb.entry(old.fdb.0).or_insert(Some(fdb));
        for key in old.neigh.keys() {
            let before = self.tables.neigh.remove(key)?;
            touched.neigh.entry(*key).or_insert(Some(before));
        }
        for key in old.rule_bits.keys() {
            let before = self.tables.rule_bits.remove(key)?;
            touched.rule_bits.entry(*key).or_insert(Some(before));
        }
        for member in &old.members {
            let due_to = self.members.get_mut(member)?;
            *due_to -= 1;
            if *due_to == 0 {
                self.members.remove(member);
                let before = self.tables.vtep_members.remove(member);
                touched.members.entry(*member).or_insert(before);
            }
        }
        Some(())
    }

    /// Fails if another endpoint has one of the entries.
    fn put_in(&mut self, new: &Remote, touched: &mut Touched) -> Option<()> {
        let fdb = self.tables.fdb.insert(new.fdb.0, new.fdb.1);
        touched.fdb.entry(new.fdb.0).or_insert(fdb);
        let mut is_taken = fdb.is_some();
        for (key, entry) in &new.neigh {
            let before = self.tables.neigh.insert(*key, *entry);
            touched.neigh.entry(*key).or_insert(before);
            is_taken |= before.is_some();
        }
        if is_taken {
            return None;
        }
        for (key, bits) in &new.rule_bits {
            let before = self.tables.rule_bits.insert(*key, *bits);
            touched.rule_bits.entry(*key).or_insert(before);
        }
        for member in &new.members {
            *self.members.entry(*member).or_default() += 1;
            let before = self.tables.vtep_members.insert(*member, new.peer);
            touched.members.entry(*member).or_insert(before);
        }
        Some(())
    }
}

/// Entries that were touched, as they were before.
#[derive(Default)]
struct Touched {
    fdb: BTreeMap<FdbKey, Option<FdbEntry>>,
    neigh: BTreeMap<NeighKey, Option<Neigh>>,
    members: BTreeMap<VtepMemberKey, Option<u32>>,
    rule_bits: BTreeMap<RuleBitsKey, Option<RuleBits>>,
}

impl Touched {
    fn plan(&self, after: &Tables) -> Plan {
        Plan {
            vtep_members: Edits::of(&self.members, &after.vtep_members),
            fdb: Edits::of(&self.fdb, &after.fdb),
            neigh: Edits::of(&self.neigh, &after.neigh),
            rule_bits: Edits::of(&self.rule_bits, &after.rule_bits),
            ..Plan::default()
        }
    }

    fn undo(self, mut tables: Tables) -> Tables {
        put_back(self.members, &mut tables.vtep_members);
        put_back(self.fdb, &mut tables.fdb);
        put_back(self.neigh, &mut tables.neigh);
        put_back(self.rule_bits, &mut tables.rule_bits);
        tables
    }
}

fn put_back<K: Ord, V>(before: BTreeMap<K, Option<V>>, table: &mut BTreeMap<K, V>) {
    for (key, value) in before {
        match value {
            Some(value) => drop(table.insert(key, value)),
            None => drop(table.remove(&key)),
        }
    }
}
