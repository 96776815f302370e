//! What of the host's packet filter stands in the way.

use std::net::{Ipv4Addr, UdpSocket};

use super::{Finding, Patient};
use crate::{
    nat::{self, ClosedChain, NatError},
    netlink::Netlink,
    paths,
};

/// Looks at the tunnels' port and the packet filter.
pub(super) async fn examine(patient: &Patient, netlink: &Netlink) -> Vec<Finding> {
    let vxlan_port = patient.vxlan_port();
    let mut findings = vec![port(vxlan_port, netlink).await];
    match nat::closed_chains(vxlan_port).await {
        Ok(chains) => {
            findings.push(Finding::ok("nft", "answers"));
            findings.push(forward(&chains, patient.agent.is_ok()));
            findings.push(input(&chains, vxlan_port));
        }
        Err(e) => findings.push(no_nft(&e)),
    }
    findings
}

/// Who receives on the port. The slow path's device makes the kernel's socket.
async fn port(port: u16, netlink: &Netlink) -> Finding {
    if let Ok(Some(_)) = netlink.link_by_name(paths::TUNNEL_IFNAME).await {
        return Finding::ok("UDP port", format!("{port}: {} receives on it", paths::TUNNEL_IFNAME));
    }
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Finding::ok("UDP port", format!("{port} is free")),
        Err(e) => Finding::wrong(
            "UDP port",
            format!("{port} cannot be had: {e}"),
            format!(
                "see who has it (ss -lnpu 'sport = :{port}', ip -d link show type vxlan) and end that, or use another --vxlan-port on all hosts"
            ),
        ),
    }
}

fn no_nft(error: &NatError) -> Finding {
    match error {
        NatError::NoNft(_) => Finding::wrong(
            "nft",
            "there is no nft: containers reach no other network and no port can be published",
            "apt-get install nftables",
        ),
        e if !nix::unistd::geteuid().is_root() => {
            Finding::note("nft", e.to_string(), "run this as root to see the rules")
        }
        e => {
            Finding::wrong("nft", e.to_string(), "load the kernel module nf_tables, or install nftables anew")
        }
    }
}

/// Chains that drop what is forwarded. An agent opens them for containers.
fn forward(chains: &[ClosedChain], agent_runs: bool) -> Finding {
    let dropping: Vec<&ClosedChain> = chains.iter().filter(|chain| chain.forwards).collect();
    let shut: Vec<&str> =
        dropping.iter().filter(|chain| !chain.is_open).map(|chain| chain.name.as_str()).collect();
    match (dropping.len(), shut.is_empty()) {
        (0, _) => Finding::ok("FORWARD", "no chain drops by policy"),
        (_, true) => Finding::ok("FORWARD", "the policy is drop, and containers are let through"),
        (_, false) if agent_runs => Finding::wrong(
            "FORWARD",
            format!(
                "{} drops by policy, and our rules are not there: containers are kept inside",
                shut.join(", ")
            ),
            "overlay verify --repair; if it does not last, see what rewrites the rules (firewalld, docker)",
        ),
        (_, false) => Finding::ok(
            "FORWARD",
            format!("{} drops by policy; the agent lets containers through", shut.join(", ")),
        ),
    }
}

/// A chain that drops what arrives, and no rule of which speaks of the tunnels' port.
fn input(chains: &[ClosedChain], port: u16) -> Finding {
    let shut = chains.iter().find(|chain| !chain.forwards && !chain.is_open);
    match shut {
        None => Finding::ok("INPUT", format!("nothing is known to drop UDP port {port}")),
        Some(chain) => Finding::note(
            "INPUT",
            format!("{} drops by policy, and no rule in it names UDP port {port}", chain.name),
            format!(
                "nft insert rule {} udp dport {port} accept: what takes the slow path arrives there",
                chain.name
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    fn chain(forwards: bool, is_open: bool) -> ClosedChain {
        ClosedChain { name: "ip filter X".to_owned(), forwards, is_open }
    }

    #[test]
    fn a_forward_policy_that_drops_is_wrong_only_beside_an_agent_that_did_not_open_it() {
        assert_eq!(forward(&[], true).health, Health::Ok);
        assert_eq!(forward(&[chain(true, true)], true).health, Health::Ok);
        assert_eq!(forward(&[chain(true, false)], false).health, Health::Ok);
        assert_eq!(forward(&[chain(true, true), chain(true, false)], true).health, Health::Wrong);
        assert_eq!(forward(&[chain(false, false)], true).health, Health::Ok);
    }

    #[test]
    fn an_input_policy_that_drops_is_noted_with_the_rule_that_opens_it() {
        assert_eq!(input(&[chain(true, false), chain(false, true)], 4789).health, Health::Ok);
        let shut = input(&[chain(false, false)], 4789);
        assert_eq!(shut.health, Health::Note);
        assert!(shut.fix.unwrap().starts_with("nft insert rule ip filter X udp dport 4789 accept"));
    }
}
