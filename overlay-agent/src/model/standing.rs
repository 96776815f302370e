//! What the store says of a node's life.
//!
//! Two things speak: the sign of life, which goes with the agent's lease, and the record, in which an agent
//! that ends in order says goodbye. Together they tell a node that is being upgraded, whose data path goes
//! on, from one that died.

use super::{Cluster, Life, Node};

/// A node's life, as far as the store tells. Whether one that is silent counts as down is a matter of time:
/// see [`crate::agent::presence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its agent runs.
    Up,
    /// Its agent said goodbye; its data path goes on.
    Stopped,
    /// Its agent neither gives a sign of life nor said goodbye.
    Silent,
    /// Its endpoints were collected, or it was removed.
    Gone,
}

impl Cluster {
    /// A node's life.
    #[must_use]
    pub fn standing(&self, node: &Node) -> Standing {
        match (node.life, self.alive.contains(&node.name)) {
            (Life::Collected | Life::Removed, _) => Standing::Gone,
            (_, true) => Standing::Up,
            (Life::Stopped, false) => Standing::Stopped,
            (Life::Running, false) => Standing::Silent,
        }
    }

    /// Whether a running node has the VTEP address of one that does not run: then nothing sent there
    /// reaches the latter.
    #[must_use]
    pub fn address_was_taken(&self, node: &Node) -> bool {
        let others = self.nodes.values().map(|n| &n.record).filter(|other| other.name != node.name);
        !self.alive.contains(&node.name)
            && others.into_iter().any(|other| other.vtep == node.vtep && self.alive.contains(&other.name))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rstest::rstest;

    use super::*;
    use crate::{model::cluster::Versioned, store::Revision};

    fn node(name: &str, life: Life) -> Node {
        Node {
            name: name.parse().unwrap(),
            id: String::new(),
            vtep: Ipv4Addr::new(192, 0, 2, 1),
            vxlan_port: 4789,
            version: String::new(),
            epoch: 1,
            registered: None,
            life,
            since: None,
            draining: None,
        }
    }

    fn cluster(nodes: &[&Node], alive: &[&str]) -> Cluster {
        let versioned =
            |node: &&Node| (node.name.clone(), Versioned { record: (*node).clone(), revision: Revision(1) });
        Cluster {
            nodes: nodes.iter().map(versioned).collect(),
            alive: alive.iter().map(|name| name.parse().unwrap()).collect(),
            ..Cluster::default()
        }
    }

    #[rstest]
    #[case(Life::Running, true, Standing::Up)]
    #[case(Life::Running, false, Standing::Silent)]
    #[case(Life::Stopped, false, Standing::Stopped)]
    #[case(Life::Stopped, true, Standing::Up)]
    #[case(Life::Collected, false, Standing::Gone)]
    #[case(Life::Removed, true, Standing::Gone)]
    fn a_nodes_life_follows_from_its_record_and_its_sign_of_life(
        #[case] life: Life,
        #[case] alive: bool,
        #[case] expected: Standing,
    ) {
        let node = node("a", life);
        let alive: &[&str] = if alive { &["a"] } else { &[] };
        assert_eq!(cluster(&[&node], alive).standing(&node), expected);
    }

    #[test]
    fn the_address_of_a_node_that_does_not_run_is_taken_by_one_that_does() {
        let (stopped, other) = (node("a", Life::Stopped), node("b", Life::Running));
        let taken = |alive: &[&str]| cluster(&[&stopped, &other], alive).address_was_taken(&stopped);
        assert!(taken(&["b"]));
        assert!(!taken(&[]) && !taken(&["a", "b"]) && !taken(&["a"]));
        let elsewhere = Node { vtep: Ipv4Addr::new(192, 0, 2, 2), ..other.clone() };
        assert!(!cluster(&[&stopped, &elsewhere], &["b"]).address_was_taken(&stopped));
    }
}
