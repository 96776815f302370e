//! What this agent holds to be the store's content, and when it believes a listing that says otherwise: pure.
//!
//! A deletion that the store tells of is obeyed at once. What is merely missing from a listing may be a deletion that
//! went unseen, or the store's own loss: wiped, put back to an older state, half read. Such entries are *held* where
//! to drop them would cut containers off:
//!
//! * the store was wiped: everything, for [`HOLD`], while the owners write their records back;
//! * more than a fifth of the other nodes' endpoints would go at once: everything, for [`HOLD`];
//! * what belongs to this node's own endpoints: until it is written back, see [`super::writeback`].
//!
//! An endpoint that was collected, or whose node was removed, is missing for a reason that the listing itself gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use super::snapshot::Entries;
use crate::{
    model::{Address, ClusterRecord, Endpoint, Life, Name, Network, Node, keys::Key},
    store::{Entry, Event, Listing, Revision},
};

/// How long what a listing lacks is held.
pub const HOLD: Duration = Duration::from_secs(30);
/// Fewer endpoints than these may go at once, whatever part of all they are.
const FEW: usize = 5;
/// The part of the endpoints that may go at once: one in so many.
const PART: usize = 5;

/// How the store of a listing stands to the one that was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is the same cluster's, or the first that is seen.
    Same,
    /// It is the same cluster's, but was wiped meanwhile.
    Wiped,
    /// It is another cluster's, with this identity.
    Foreign(String),
}

/// Judges a store by the cluster's record that was known, and the one found in it.
#[must_use]
pub fn judge(known: Option<&ClusterRecord>, found: Option<&ClusterRecord>) -> Arrival {
    match (known, found) {
        (None, _) => Arrival::Same,
        (Some(_), None) => Arrival::Wiped,
        (Some(known), Some(found)) if known.id != found.id => Arrival::Foreign(found.id.clone()),
        (Some(known), Some(found)) if known.restored != found.restored => Arrival::Wiped,
        (Some(_), Some(_)) => Arrival::Same,
    }
}

/// What became of the events of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// They were taken over.
    Changed(Vec<Event>),
    /// They tell of the cluster's own record: the store was wiped or replaced, and only a listing can tell what it
    /// holds now.
    Replaced,
}

/// Why something is shown that the store does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Until(Instant),
    WrittenBack,
}

/// The other nodes' endpoints that a listing lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many it lacks.
    pub missing: usize,
    /// Of how many.
    pub known: usize,
}

impl Missing {
    /// Whether these are too many to believe that they were deleted.
    #[must_use]
    pub fn is_suspicious(self) -> bool {
        self.missing > FEW && self.missing * PART > self.known
    }
}

/// What is held to be the store's content.
#[derive(Clone, Debug)]
pub struct Known {
    node: Name,
    entries: Arc<Entries>,
    revision: Revision,
    held: BTreeMap<String, Hold>,
    missing: Missing,
}

impl Known {
    /// What a snapshot tells, or nothing.
    #[must_use]
    pub fn new(node: Name, entries: Arc<Entries>, revision: Revision) -> Self {
        Self { node, entries, revision, held: BTreeMap::new(), missing: Missing::default() }
    }

    /// All entries, also those held.
    #[must_use]
    pub fn entries(&self) -> &Arc<Entries> {
        &self.entries
    }

    /// The revision that they are complete up to.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &Name {
        &self.node
    }

    /// The entry that the store holds under a key.
    #[must_use]
    pub fn stored(&self, key: &Key) -> Option<&Entry> {
        let key = key.to_string();
        if self.held.contains_key(&key) { None } else { self.entries.get(&key) }
    }

    /// The entries that are shown although the store does not hold them.
    pub fn held(&self) -> impl Iterator<Item = &Entry> {
        self.held.keys().filter_map(|key| self.entries.get(key))
    }

    /// The other nodes' endpoints that the last listing lacked.
    #[must_use]
    pub fn missing(&self) -> Missing {
        self.missing
    }

    /// The cluster's record, whether the store holds it or not.
    #[must_use]
    pub fn identity(&self) -> Option<ClusterRecord> {
        parse(self.entries.get(&Key::Cluster.to_string())?)
    }

    /// How the store that gave this listing stands to the one that was known.
    #[must_use]
    pub fn judge(&self, listing: &Listing) -> Arrival {
        let key = Key::Cluster.to_string();
        let found = listing.entries.iter().find(|entry| entry.key == key).and_then(parse);
        judge(self.identity().as_ref(), found.as_ref())
    }

    /// Takes a listing over, and holds what is not to be dropped yet. `arrival` is what [`Known::judge`] says of it.
    pub fn absorb(&mut self, listing: Listing, arrival: &Arrival, now: Instant) {
        let found: Entries = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        self.missing = self.missing_in(&found);
        let everything = *arrival == Arrival::Wiped || self.missing.is_suspicious();
        let own = self.own_keys(&found);
        let gone = self.entries.keys().filter(|key| !found.contains_key(*key));
        let hold = |key: &String| match self.held.get(key) {
            Some(Hold::Until(end)) if *end <= now => None,
            Some(Hold::Until(end)) => Some(Hold::Until(*end)),
            _ if own.contains(key) => Some(Hold::WrittenBack),
            _ if everything => Some(Hold::Until(now + HOLD)),
            _ => None,
        };
        let held: BTreeMap<String, Hold> = gone.filter_map(|key| Some((key.clone(), hold(key)?))).collect();
        let kept: Vec<Entry> = held.keys().filter_map(|key| self.entries.get(key).cloned()).collect();
        let mut entries = found;
        entries.extend(kept.into_iter().map(|entry| (entry.key.clone(), entry)));
        (self.entries, self.held, self.revision) = (Arc::new(entries), held, listing.revision);
        self.forget(&self.superseded());
    }

    /// Takes over what a watch reports.
    pub fn apply(&mut self, mut events: Vec<Event>) -> Applied {
        if events.iter().any(|event| self.is_replacement(event)) {
            return Applied::Replaced;
        }
        let entries = Arc::make_mut(&mut self.entries);
        for event in &events {
            self.revision = self.revision.max(event.revision());
            match event {
                Event::Put(entry) => {
                    self.held.remove(&entry.key);
                    entries.insert(entry.key.clone(), entry.clone());
                }
                Event::Delete { key, .. } => {
                    self.held.remove(key);
                    entries.remove(key);
                }
            }
        }
        let superseded = self.superseded();
        self.forget(&superseded);
        let revision = self.revision;
        events.extend(superseded.into_iter().map(|key| Event::Delete { key, revision }));
        Applied::Changed(events)
    }

    /// Takes over the cluster's record, which this agent has written itself.
    pub fn adopt(&mut self, entry: Entry) {
        self.held.remove(&entry.key);
        Arc::make_mut(&mut self.entries).insert(entry.key.clone(), entry);
    }

    /// Drops entries that are held.
    pub fn forget(&mut self, keys: &[String]) {
        let entries = Arc::make_mut(&mut self.entries);
        for key in keys {
            if self.held.remove(key).is_some() {
                entries.remove(key);
            }
        }
    }

    /// Keys of other nodes' endpoints that are held, but whose address the store gives to another by now: two cannot
    /// have it. Of this node's own the writing back decides.
    fn superseded(&self) -> Vec<String> {
        let held = self.held().filter(|entry| matches!(entry.key.parse(), Ok(Key::Endpoint(..))));
        let others = held.filter_map(parse::<Endpoint>).filter(|endpoint| endpoint.node != self.node);
        let is_superseded = |endpoint: &Endpoint| {
            endpoint.addresses().any(|ip| {
                let claim = self.stored(&Key::Address(endpoint.network.clone(), ip)).and_then(parse);
                matches!(claim, Some(Address::Held { endpoint: holder }) if holder != endpoint.id)
            })
        };
        let keys = others.filter(is_superseded).flat_map(|endpoint| claims_of(&endpoint));
        keys.map(|key| key.to_string()).filter(|key| self.held.contains_key(key)).collect()
    }

    /// Whether an event says that the store is not what it was.
    fn is_replacement(&self, event: &Event) -> bool {
        match event {
            Event::Put(entry) if entry.key == Key::Cluster.to_string() => {
                judge(self.identity().as_ref(), parse(entry).as_ref()) != Arrival::Same
            }
            Event::Delete { key, .. } => *key == Key::Cluster.to_string(),
            Event::Put(_) => false,
        }
    }

    fn missing_in(&self, found: &Entries) -> Missing {
        let others = self.endpoints().filter(|endpoint| endpoint.node != self.node);
        others.fold(Missing::default(), |Missing { missing, known }, endpoint| {
            let is_missing = !is_taken_out(&endpoint, found)
                && !found.contains_key(&Key::Endpoint(endpoint.network, endpoint.id).to_string());
            Missing { missing: missing + usize::from(is_missing), known: known + 1 }
        })
    }

    /// The keys of this node and of its endpoints, with the networks that these are in. An endpoint that the listing
    /// has claims what its record says there: it may have been renamed unseen.
    fn own_keys(&self, found: &Entries) -> BTreeSet<String> {
        let own = self.endpoints().filter(|endpoint| endpoint.node == self.node);
        let own = own.filter(|endpoint| !is_taken_out(endpoint, found));
        let own = own.map(|endpoint| {
            let key = Key::Endpoint(endpoint.network.clone(), endpoint.id.clone());
            found.get(&key.to_string()).and_then(parse).unwrap_or(endpoint)
        });
        let mut keys: BTreeSet<String> = [Key::Node(self.node.clone()).to_string()].into();
        for endpoint in own {
            keys.extend(claims_of(&endpoint).iter().map(Key::to_string));
            let network =
                self.entries.get(&Key::Network(endpoint.network).to_string()).and_then(parse::<Network>);
            keys.extend(network.iter().flat_map(claims_of_network).map(|key| key.to_string()));
        }
        keys
    }

    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        below(&self.entries, "endpoints").filter_map(parse)
    }
}

/// Whether a listing says of an endpoint that it was collected or removed with its node.
fn is_taken_out(endpoint: &Endpoint, found: &Entries) -> bool {
    let Endpoint { node, network, id, .. } = endpoint;
    let is_removed = || {
        let record = found.get(&Key::Node(node.clone()).to_string()).and_then(parse::<Node>);
        record.is_some_and(|record| record.life == Life::Removed)
    };
    let is_there = found.contains_key(&Key::Endpoint(network.clone(), id.clone()).to_string());
    !is_there && (found.contains_key(&Key::Collected(node.clone(), id.clone()).to_string()) || is_removed())
}

/// The record of an endpoint, and what it claims.
#[must_use]
pub fn claims_of(endpoint: &Endpoint) -> Vec<Key> {
    let network = &endpoint.network;
    let record = [
        Key::Endpoint(network.clone(), endpoint.id.clone()),
        Key::EndpointName(network.clone(), endpoint.name.clone()),
        Key::Mac(network.clone(), endpoint.mac),
    ];
    record.into_iter().chain(endpoint.addresses().map(|ip| Key::Address(network.clone(), ip))).collect()
}

/// The record of a network, and what it claims.
#[must_use]
pub fn claims_of_network(network: &Network) -> [Key; 3] {
    [Key::Network(network.name.clone()), Key::Vni(network.vni), Key::Subnet(network.subnet)]
}

/// The entries of one kind.
pub fn below<'a>(entries: &'a Entries, kind: &str) -> impl Iterator<Item = &'a Entry> {
    let prefix = format!("{}{kind}/", crate::model::keys::ROOT);
    let from = entries.range(prefix.clone()..);
    from.take_while(move |(key, _)| key.starts_with(&prefix)).map(|(_, entry)| entry)
}

/// The record of an entry; none if it cannot be read.
#[must_use]
pub fn parse<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    serde_json::from_slice(&entry.value).ok()
}

/// Whether a key is a sign of life.
#[must_use]
pub fn is_alive(key: &str) -> bool {
    matches!(key.parse(), Ok(Key::Alive(_)))
}

#[cfg(test)]
mod tests {
    use std::{fmt::Display, net::Ipv4Addr};

    use rstest::rstest;
    use serde::Serialize;

    use super::*;

    fn record(id: &str, restored: u32) -> ClusterRecord {
        ClusterRecord { id: id.to_owned(), created_unix_s: 0, abi: 1, restored }
    }

    fn entry(key: impl Display, value: &impl Serialize) -> Entry {
        let value = serde_json::to_vec(value).unwrap();
        Entry { key: key.to_string(), value, revision: Revision(1), lease: None }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn endpoint(number: u8, node: &str) -> Endpoint {
        let ipv4 = Ipv4Addr::new(10, 0, 0, number);
        let id = format!("{number:016x}").parse().unwrap();
        Endpoint::sample(id, name("net"), name(&format!("c{number}")), name(node), ipv4)
    }

    fn entries_of(endpoint: &Endpoint) -> Vec<Entry> {
        let claims: [Key; 4] = claims_of(endpoint).try_into().expect("one address");
        let [record, name, mac, address] = claims;
        let held = Address::Held { endpoint: endpoint.id.clone() };
        vec![
            entry(record, endpoint),
            entry(name, &endpoint.id),
            entry(mac, &endpoint.id),
            entry(address, &held),
        ]
    }

    /// A cluster with so many endpoints here and elsewhere, and both nodes alive.
    fn cluster(here: u8, elsewhere: u8) -> Vec<Entry> {
        let network = serde_json::json!(
            {"name": "net", "vni": 256, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}
        );
        let mut entries = vec![
            entry(Key::Cluster, &record("x", 0)),
            entry(Key::Network(name("net")), &network),
            entry(Key::Vni(256.try_into().unwrap()), &"net"),
            entry(Key::Node(name("here")), &"a node"),
            entry(Key::Alive(name("here")), &"alive"),
            entry(Key::Alive(name("there")), &"alive"),
        ];
        entries.extend((2..2 + here).flat_map(|number| entries_of(&endpoint(number, "here"))));
        entries.extend((100..100 + elsewhere).flat_map(|number| entries_of(&endpoint(number, "there"))));
        entries
    }

    fn listing(entries: Vec<Entry>) -> Listing {
        Listing { entries, revision: Revision(9) }
    }

    fn known(entries: &[Entry]) -> Known {
        let entries: Entries = entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
        Known::new(name("here"), Arc::new(entries), Revision(1))
    }

    /// Takes a listing over as an agent does that never lost sight of the store.
    fn absorb(known: &mut Known, entries: &[Entry], now: Instant) -> Arrival {
        let listing = listing(entries.to_vec());
        let arrival = known.judge(&listing);
        known.absorb(listing, &arrival, now);
        arrival
    }

    fn shown(known: &Known, kind: &str) -> usize {
        below(known.entries(), kind).count()
    }

    #[rstest]
    #[case(None, None, Arrival::Same)]
    #[case(None, Some(record("x", 0)), Arrival::Same)]
    #[case(Some(record("x", 1)), Some(record("x", 1)), Arrival::Same)]
    #[case(Some(record("x", 0)), None, Arrival::Wiped)]
    #[case(Some(record("x", 0)), Some(record("x", 1)), Arrival::Wiped)]
    #[case(Some(record("x", 0)), Some(record("y", 0)), Arrival::Foreign("y".to_owned()))]
    fn a_store_is_judged_by_the_clusters_record(
        #[case] known: Option<ClusterRecord>,
        #[case] found: Option<ClusterRecord>,
        #[case] expected: Arrival,
    ) {
        assert_eq!(judge(known.as_ref(), found.as_ref()), expected);
    }

    #[rstest]
    #[case(0, 0, false)]
    #[case(5, 5, false)]
    #[case(6, 6, true)]
    #[case(6, 29, true)]
    #[case(6, 30, false)]
    #[case(200, 1000, false)]
    #[case(201, 1000, true)]
    fn more_than_a_fifth_and_more_than_five_at_once_is_suspicious(
        #[case] missing: usize,
        #[case] known: usize,
        #[case] expected: bool,
    ) {
        assert_eq!(Missing { missing, known }.is_suspicious(), expected);
    }

    #[test]
    fn a_few_of_the_others_endpoints_go_with_the_listing_that_lacks_them() {
        let mut known = known(&cluster(1, 30));
        absorb(&mut known, &cluster(1, 25), Instant::now());
        assert_eq!((shown(&known, "endpoints"), known.held().count()), (26, 0));
    }

    #[test]
    fn many_of_them_stay_until_they_are_back_or_time_is_up() {
        let (full, now) = (cluster(1, 30), Instant::now());
        let mut known = known(&full);
        absorb(&mut known, &cluster(1, 3), now);
        assert_eq!(shown(&known, "endpoints"), 31);
        assert_eq!(known.missing(), Missing { missing: 27, known: 30 });
        let back = endpoint(120, "there");
        known.apply(entries_of(&back).into_iter().map(Event::Put).collect());
        assert!(known.stored(&claims_of(&back)[0]).is_some());

        let mut confirmed = cluster(1, 3);
        confirmed.extend(entries_of(&back));
        absorb(&mut known, &confirmed, now + HOLD / 2);
        assert_eq!(shown(&known, "endpoints"), 31);
        absorb(&mut known, &confirmed, now + HOLD);
        assert_eq!((shown(&known, "endpoints"), known.held().count()), (5, 0));
        assert_eq!(shown(&known, "addresses"), 5);
    }

    #[rstest]
    fn endpoints_that_were_collected_or_removed_are_missing_for_a_reason(
        #[values(false, true)] removed: bool,
        #[values("here", "there")] node: &str,
    ) {
        let all = (2..12).map(|number| endpoint(number, node)).collect::<Vec<_>>();
        let mut before = cluster(0, 0);
        before.extend(all.iter().flat_map(entries_of));
        let mut after = cluster(0, 0);
        if removed {
            let record = serde_json::json!({"name": node, "id": "x", "vtep": "192.0.2.1", "vxlan_port": 4789,
                "version": "1", "life": "removed"});
            after.retain(|entry| entry.key != Key::Node(name(node)).to_string());
            after.push(entry(Key::Node(name(node)), &record));
        } else {
            after.extend(all.iter().map(|e| entry(Key::Collected(name(node), e.id.clone()), e)));
        }
        let mut known = known(&before);
        absorb(&mut known, &after, Instant::now());
        assert_eq!((shown(&known, "endpoints"), known.held().count()), (0, 0));
        assert_eq!(known.missing().missing, 0);
    }

    #[test]
    fn a_deletion_that_is_told_is_obeyed_at_once_however_many_there_are() {
        let (full, now) = (cluster(1, 30), Instant::now());
        let mut known = known(&full);
        absorb(&mut known, &cluster(1, 3), now);
        let delete = |entry: &Entry| Event::Delete { key: entry.key.clone(), revision: Revision(10) };
        let events: Vec<Event> =
            (100..130).flat_map(|n| entries_of(&endpoint(n, "there"))).map(|e| delete(&e)).collect();
        assert_eq!(known.apply(events.clone()), Applied::Changed(events));
        assert_eq!((shown(&known, "endpoints"), known.held().count()), (1, 0));
    }

    #[test]
    fn own_endpoints_stay_with_their_network_until_they_are_written_back() {
        let (full, now) = (cluster(2, 1), Instant::now());
        let mut known = known(&full);
        let rest = vec![entry(Key::Cluster, &record("x", 0))];
        for later in [Duration::ZERO, HOLD, 3 * HOLD] {
            assert_eq!(absorb(&mut known, &rest, now + later), Arrival::Same);
            assert_eq!((shown(&known, "endpoints"), shown(&known, "macs")), (2, 2));
            assert_eq!((shown(&known, "networks"), shown(&known, "vnis"), shown(&known, "nodes")), (1, 1, 1));
        }
        let keys: Vec<_> = claims_of(&endpoint(2, "here")).iter().map(Key::to_string).collect();
        known.forget(&keys);
        assert_eq!((shown(&known, "endpoints"), shown(&known, "addresses")), (1, 1));
        known.forget(&[Key::Cluster.to_string()]);
        assert!(known.identity().is_some(), "what the store holds is not forgotten");
    }

    #[test]
    fn the_name_that_an_own_endpoint_had_before_it_was_renamed_unseen_goes_at_once() {
        let mut known = known(&cluster(1, 0));
        let mut renamed = endpoint(2, "here");
        renamed.name = name("renamed");
        let mut listed = cluster(0, 0);
        listed.extend(entries_of(&renamed));
        absorb(&mut known, &listed, Instant::now());
        assert_eq!((shown(&known, "names"), known.held().count()), (1, 0));

        // Its new name is lost with the record there: that is to be written back.
        listed.retain(|entry| !entry.key.contains("/names/"));
        absorb(&mut known, &listed, Instant::now());
        assert_eq!((shown(&known, "names"), known.held().count()), (1, 1));
    }

    #[rstest]
    #[case::empty(vec![])]
    #[case::put_back_by_another(vec![entry(Key::Cluster, &record("x", 1))])]
    fn everything_stays_when_the_store_was_wiped(#[case] left: Vec<Entry>) {
        let (full, now) = (cluster(1, 2), Instant::now());
        let mut known = known(&full);
        assert_eq!(absorb(&mut known, &left, now), Arrival::Wiped);
        assert_eq!(known.entries().len(), full.len());
        assert!(known.stored(&Key::Network(name("net"))).is_none());
        // The record is back; what nobody wrote back goes when time is up, but what is this node's own.
        known.adopt(entry(Key::Cluster, &record("x", 1)));
        let restored = [entry(Key::Cluster, &record("x", 1))];
        assert_eq!(absorb(&mut known, &restored, now + HOLD / 2), Arrival::Same);
        assert_eq!(known.entries().len(), full.len());
        assert_eq!(absorb(&mut known, &restored, now + HOLD), Arrival::Same);
        assert_eq!((shown(&known, "endpoints"), shown(&known, "alive")), (1, 0));
    }

    #[test]
    fn an_endpoint_whose_address_another_has_by_now_is_held_no_longer() {
        let (full, now) = (cluster(0, 2), Instant::now());
        let mut watching = known(&full);
        assert_eq!(absorb(&mut watching, &[], now), Arrival::Wiped);
        let heir = Endpoint { id: "ffffffffffffffff".parse().unwrap(), ..endpoint(100, "new") };
        let events: Vec<Event> = entries_of(&heir).into_iter().map(Event::Put).collect();
        let Applied::Changed(changes) = watching.apply(events) else { panic!("replaced") };
        let old = claims_of(&endpoint(100, "there"))[0].to_string();
        assert!(
            changes.iter().any(|event| matches!(event, Event::Delete { key, .. } if *key == old)),
            "{changes:?}"
        );
        assert!(!watching.entries().contains_key(&old));
        assert_eq!((shown(&watching, "endpoints"), shown(&watching, "addresses")), (2, 2));

        let mut listing = known(&full);
        absorb(&mut listing, &entries_of(&heir), now);
        assert_eq!(listing.entries(), watching.entries());
    }

    #[test]
    fn events_about_the_clusters_record_ask_for_a_listing() {
        let mut known = known(&cluster(1, 1));
        let before = known.entries().clone();
        let gone = Event::Delete { key: Key::Cluster.to_string(), revision: Revision(2) };
        let network = Event::Delete { key: Key::Network(name("net")).to_string(), revision: Revision(2) };
        assert_eq!(known.apply(vec![network, gone]), Applied::Replaced);
        let other = Event::Put(entry(Key::Cluster, &record("y", 0)));
        assert_eq!(known.apply(vec![other]), Applied::Replaced);
        assert_eq!(*known.entries(), before);
        let same = Event::Put(entry(Key::Cluster, &record("x", 0)));
        assert!(matches!(known.apply(vec![same]), Applied::Changed(_)));
    }
}
