//! Where keys and the store's own records lie in ZooKeeper's tree.
//!
//! A key is a path: `overlay/v1/cluster` is the node `/PREFIX/overlay/v1/cluster`. Only what ZooKeeper refuses
//! in a path is escaped, so that the keys of the agent read as they are.

use std::fmt::Write as _;

use crate::store::{LeaseId, address::Servers};

/// Holds the store's own records, beside the keys.
const OWN: &str = "overlay-store";

/// Names beside the keys that are not ours to use: our own records, and those of the server.
const RESERVED: [&str; 2] = [OWN, "zookeeper"];

/// How many nodes count deletions, see [`Layout::grave`].
pub(super) const GRAVES: u32 = 16;

/// The paths of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The node below which the keys lie; empty for ZooKeeper's own root.
    root: String,
}

impl Layout {
    pub(super) fn new(servers: &Servers) -> Self {
        let segments = servers.prefix.split_terminator('/');
        Self { root: segments.fold(String::new(), |path, segment| format!("{path}/{}", escaped(segment))) }
    }

    /// The node below which the keys lie; empty for ZooKeeper's own root.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// The node of a key.
    pub(super) fn node(&self, key: &str) -> String {
        let mut path = self.root.clone();
        for (depth, segment) in key.split('/').enumerate() {
            path.push('/');
            if depth == 0 && RESERVED.contains(&segment) {
                path.push_str(&guarded(segment));
            } else {
                path.push_str(&escaped(segment));
            }
        }
        path
    }

    /// The key of a node; `None` if no key of ours lies there.
    pub(super) fn key(&self, node: &str) -> Option<String> {
        let inner = node.strip_prefix(&self.root)?.strip_prefix('/')?;
        let key = inner.split('/').map(unescaped).collect::<Option<Vec<_>>>()?.join("/");
        (self.node(&key) == node).then_some(key)
    }

    /// Holds the store's own records.
    pub(super) fn own(&self) -> String {
        format!("{}/{OWN}", self.root)
    }

    /// Holds the changelog: one node for each commit, numbered without gaps.
    pub(super) fn changes(&self) -> String {
        format!("{}/changes", self.own())
    }

    /// A commit's node. ZooKeeper numbers nodes that are created as sequential ones in this form.
    pub(super) fn change(&self, number: u32) -> String {
        format!("{}{number:010}", self.new_change())
    }

    /// The path to create a commit's node at, which ZooKeeper puts the number behind.
    pub(super) fn new_change(&self) -> String {
        format!("{}/", self.changes())
    }

    /// Holds the leases.
    pub(super) fn leases(&self) -> String {
        format!("{}/leases", self.own())
    }

    /// A lease's node: names the keys that may be bound to it.
    pub(super) fn lease(&self, lease: LeaseId) -> String {
        format!("{}/{:#x}", self.leases(), lease.0)
    }

    /// The ephemeral node that lives as long as a lease.
    pub(super) fn alive(&self, lease: LeaseId) -> String {
        format!("{}/alive", self.lease(lease))
    }

    /// The lease of a node at or below a lease's.
    pub(super) fn lease_of(&self, node: &str) -> Option<LeaseId> {
        let name = node.strip_prefix(&self.leases())?.strip_prefix('/')?.split('/').next()?;
        u64::from_str_radix(name.strip_prefix("0x")?, 16).ok().map(|id| LeaseId(id.into()))
    }

    /// Holds the nodes that count deletions.
    pub(super) fn graves(&self) -> String {
        format!("{}/graves", self.own())
    }

    /// The node whose version counts the deletions of nodes that fall to it.
    ///
    /// A node that is deleted and created again has its old version again: version and this count together
    /// tell the two from each other.
    pub(super) fn grave(&self, number: u32) -> String {
        format!("{}/{number:02}", self.graves())
    }

    /// Which node counts the deletions of this one: FNV-1a, the same in every client.
    pub(super) fn grave_of(node: &str) -> u32 {
        let hash = node
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        hash % GRAVES
    }
}

/// The nodes above this one, the nearest first, up to and without `root`.
pub(super) fn ancestors<'a>(node: &'a str, root: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let depth = root.len();
    std::iter::successors(parent(node), |node| parent(node)).take_while(move |node| node.len() > depth)
}

/// The node above; `None` at the root of all.
pub(super) fn parent(node: &str) -> Option<&str> {
    node.rsplit_once('/').map(|(parent, _)| parent)
}

/// What ZooKeeper refuses in a path, besides control characters, which no key holds. It sees UTF-16, and
/// refuses the halves that a character beyond U+FFFF is written with.
fn is_refused(c: char) -> bool {
    c == '%' || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// A segment of a key as the name of a node.
fn escaped(segment: &str) -> String {
    match segment {
        // Nothing else has a bare percent sign.
        "" => "%".to_owned(),
        "." | ".." => segment.replace('.', "%2E"),
        _ => segment.chars().fold(String::new(), |mut name, c| {
            if is_refused(c) {
                escape(&mut name, c);
            } else {
                name.push(c);
            }
            name
        }),
    }
}

/// A segment that is a reserved name, under another one.
fn guarded(segment: &str) -> String {
    let mut name = String::new();
    let mut chars = segment.chars();
    chars.by_ref().take(1).for_each(|c| escape(&mut name, c));
    name + chars.as_str()
}

fn escape(name: &mut String, c: char) {
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        // Writing to a string cannot fail.
        let _ = write!(name, "%{byte:02X}");
    }
}

fn unescaped(name: &str) -> Option<String> {
    if name == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut parts = name.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn layout(url: &str) -> Layout {
        Layout::new(&Servers::parse(url, 2181).unwrap())
    }

    #[rstest]
    #[case("overlay/v1/addresses/net/10.0.0.1", "/s/overlay/v1/addresses/net/10.0.0.1")]
    #[case("overlay/v1/addresses/net/fd00::1", "/s/overlay/v1/addresses/net/fd00::1")]
    #[case("t/../.", "/s/t/%2E%2E/%2E")]
    #[case("t/... .a", "/s/t/... .a")]
    #[case("/a//b/", "/s/%/a/%/b/%")]
    #[case("100%", "/s/100%25")]
    #[case("ä ö/\u{10ffff}", "/s/ä ö/%F4%8F%BF%BF")]
    #[case("overlay-store/changes", "/s/%6Fverlay-store/changes")]
    #[case("zookeeper", "/s/%7Aookeeper")]
    #[case("a/zookeeper", "/s/a/zookeeper")]
    fn a_key_is_a_path_and_only_what_zookeeper_refuses_is_escaped(#[case] key: &str, #[case] node: &str) {
        let layout = layout("zookeeper://a/s");
        assert_eq!(layout.node(key), node);
        assert_eq!(layout.key(node).as_deref(), Some(key));
    }

    proptest! {
        #[test]
        fn every_key_has_a_node_of_its_own(key in "[^\\p{Cc}]{1,40}") {
            for layout in [layout("zookeeper://a"), layout("zookeeper://a/x/..y")] {
                let node = layout.node(&key);
                prop_assert!(!node.starts_with(&layout.own()));
                prop_assert_eq!(layout.key(&node), Some(key.clone()));
            }
        }
    }

    #[rstest]
    fn what_others_put_there_is_no_key(
        #[values("/s", "/other/a", "/s/overlay-store/changes", "/s/zookeeper", "/s/%zz", "/s/a%4", "/s/%41")]
        node: &str,
    ) {
        assert_eq!(layout("zookeeper://a/s").key(node), None);
    }

    #[test]
    fn the_nodes_above_end_at_the_prefix() {
        assert_eq!(ancestors("/s/a/b/c", "/s").collect::<Vec<_>>(), ["/s/a/b", "/s/a"]);
        assert_eq!(ancestors("/a/b", "").collect::<Vec<_>>(), ["/a"]);
        assert_eq!(ancestors("/a", "").count(), 0);
    }

    #[test]
    fn a_lease_is_named_as_zookeeper_shows_its_session() {
        let layout = layout("zookeeper://a");
        for id in [0x1000_0a2b_0000, -2] {
            assert_eq!(layout.lease_of(&layout.alive(LeaseId::from(id))), Some(LeaseId::from(id)));
        }
        assert_eq!(layout.alive(LeaseId(0x10)), "/overlay-store/leases/0x10/alive");
        assert_eq!(layout.lease_of("/overlay-store/leases"), None);
    }
}
