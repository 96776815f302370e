//! The device that carries the tunnels.

use overlay_common::wire::outer::MTU_OVERHEAD;

use super::{Agent, Finding, Patient};
use crate::{
    agent::{underlay, xdp},
    api::types::Status,
    config::Config,
    datapath::links,
    netlink::{Link, Netlink},
};

/// What most containers and servers expect to be able to send in one packet.
const USUAL_MTU: u32 = 1500;

/// Looks at the underlay device.
pub(super) async fn examine(patient: &Patient, netlink: &Netlink) -> Vec<Finding> {
    let link = match (&patient.agent, &patient.config) {
        (Ok(agent), _) => of_agent(&agent.status, netlink).await,
        (Err(_), Ok(config)) => of_config(config, netlink).await,
        (Err(_), Err(_)) => Err(Finding::note("underlay", "not known without settings", "mend the settings")),
    };
    let link = match link {
        Ok(link) => link,
        Err(finding) => return vec![finding],
    };
    let mut findings = vec![device(&link)];
    findings.push(headroom(link.mtu, patient.agent.as_ref().ok()));
    findings.push(tcx(&link));
    findings.push(xdp_mode(&link, patient));
    findings.extend(offloads(&link, patient, netlink).await);
    findings
}

/// The device that the agent uses, as it is in this namespace.
async fn of_agent(status: &Status, netlink: &Netlink) -> Result<Link, Finding> {
    let used = &status.underlay;
    match netlink.link_by_name(&used.ifname).await {
        Ok(Some(link)) if link.ifindex == used.ifindex => Ok(link),
        Ok(_) => Err(Finding::wrong(
            "underlay",
            format!("the agent's device {} (index {}) is not here", used.ifname, used.ifindex),
            "run this where the agent runs: nsenter --net=/proc/PID/ns/net overlay doctor",
        )),
        Err(e) => Err(Finding::wrong("underlay", e.to_string(), "try again")),
    }
}

async fn of_config(config: &Config, netlink: &Netlink) -> Result<Link, Finding> {
    let found = underlay::find(netlink, config).await;
    found.map(|(link, _)| link).map_err(|e| {
        // The sentence says what to do.
        let text = e.to_string();
        let (found, fix) = text.split_once(": ").unwrap_or((&text, "name the device with --underlay"));
        Finding::wrong("underlay", found, fix)
    })
}

fn device(link: &Link) -> Finding {
    let found = format!("{}, MTU {}", link.name, link.mtu);
    if link.up {
        Finding::ok("underlay", found)
    } else {
        let fix = format!("ip link set {} up", link.name);
        Finding::wrong("underlay", format!("{found}, is down: no other host is reached"), fix)
    }
}

/// Whether the tunnels leave containers what their networks promise.
fn headroom(underlay: u32, agent: Option<&Agent>) -> Finding {
    let most = underlay.saturating_sub(MTU_OVERHEAD as u32);
    let networks = agent.iter().flat_map(|agent| &agent.networks);
    let too_large: Vec<String> = networks
        .filter(|network| u32::from(network.mtu) > most)
        .map(|network| network.name.to_string())
        .collect();
    if !too_large.is_empty() {
        return Finding::wrong(
            "MTU",
            format!("{most} is left to containers, and {} have more", too_large.join(", ")),
            format!(
                "give the underlay an MTU of {} or those networks a smaller one",
                USUAL_MTU + MTU_OVERHEAD as u32
            ),
        );
    }
    let raised = USUAL_MTU + MTU_OVERHEAD as u32;
    let better = if most < USUAL_MTU {
        format!("; {USUAL_MTU} with an MTU of {raised} on all underlay devices")
    } else {
        String::new()
    };
    Finding::ok("MTU", format!("{most} is left to containers{better}"))
}

fn tcx(link: &Link) -> Finding {
    match links::programs_at_ingress(&link.name) {
        Ok(programs) => Finding::ok("tcx", format!("{programs} programs at the ingress of {}", link.name)),
        Err(_) if !nix::unistd::geteuid().is_root() => {
            Finding::note("tcx", "cannot be asked for without privileges", "run this as root")
        }
        Err(reason) => Finding::wrong(
            "tcx",
            reason,
            "use Linux 6.6 or newer with CONFIG_NET_XGRESS and CONFIG_BPF_SYSCALL",
        ),
    }
}

/// The mode in force, or the one that the agent would choose.
fn xdp_mode(link: &Link, patient: &Patient) -> Finding {
    if let Some(status) = patient.status() {
        return Finding::ok("XDP", format!("{} ({})", status.xdp.mode, status.xdp.reason));
    }
    let Ok(config) = &patient.config else {
        return Finding::note("XDP", "not known without settings", "mend the settings");
    };
    let mut choice = xdp::Choice::new(config.xdp);
    let wanted = choice.hook(link).is_some();
    let (mode, reason) = choice.describe();
    match link.xdp_programs.first() {
        Some(program) if wanted => Finding::note(
            "XDP",
            format!("program {program} is at the hook of {} already: ours gets no place there", link.name),
            "take it off (ip link set dev DEVICE xdp off), or set xdp = \"off\"",
        ),
        _ => Finding::ok("XDP", format!("{mode} ({reason})")),
    }
}

async fn offloads(link: &Link, patient: &Patient, netlink: &Netlink) -> Vec<Finding> {
    let name = &link.name;
    let features = match netlink.features(name).await {
        Ok(features) => features,
        Err(e) => return vec![Finding::note("offloads", e.to_string(), "look at `ethtool -k`")],
    };
    let has = |feature: &str| features.iter().any(|active| active == feature);
    let has_xdp = patient.status().is_some_and(|status| status.xdp.mode != "off");
    vec![
        gro(name, has("rx-gro")),
        checksum(name, has("tx-checksum-ip-generic")),
        vlan(name, has("rx-vlan-hw-parse"), has_xdp),
    ]
}

fn gro(ifname: &str, is_on: bool) -> Finding {
    if is_on {
        Finding::ok("GRO", "on")
    } else {
        Finding::note(
            "GRO",
            format!("off on {ifname}: each packet is decapsulated by itself, several times slower for TCP"),
            format!("ethtool -K {ifname} gro on"),
        )
    }
}

fn checksum(ifname: &str, is_generic: bool) -> Finding {
    if is_generic {
        Finding::ok("checksum offload", "generic: checksums inside tunnels are the device's work")
    } else {
        Finding::note(
            "checksum offload",
            format!("{ifname} computes none inside tunnels: the sender's processor does"),
            format!("ethtool -K {ifname} tx-checksum-ip-generic on, if the driver can"),
        )
    }
}

/// XDP cannot see a tag that the device took off: see the limits in the README.
fn vlan(ifname: &str, is_stripped: bool, has_xdp: bool) -> Finding {
    match (is_stripped, has_xdp) {
        (true, true) => Finding::note(
            "VLAN offload",
            format!("{ifname} takes tags off: XDP takes tunnels of other VLANs on it for the underlay's"),
            format!("ethtool -K {ifname} rxvlan off, if there are VLANs on it"),
        ),
        (true, false) => Finding::ok("VLAN offload", "on; tc sees the tags"),
        (false, _) => Finding::ok("VLAN offload", "off"),
    }
}

#[cfg(test)]
mod tests {
    use overlay_common::mac::Mac;

    use super::*;
    use crate::doctor::Health;

    fn link(up: bool) -> Link {
        Link {
            ifindex: 2,
            name: "eth0".to_owned(),
            mac: Mac::default(),
            mtu: 1500,
            up,
            has_carrier: true,
            kind: None,
            controller: None,
            xdp_programs: Vec::new(),
        }
    }

    #[test]
    fn a_device_that_is_down_carries_nothing() {
        assert_eq!(device(&link(true)).health, Health::Ok);
        let down = device(&link(false));
        assert_eq!((down.health, down.fix.as_deref()), (Health::Wrong, Some("ip link set eth0 up")));
    }

    #[test]
    fn the_tunnels_take_fifty_bytes() {
        assert_eq!(headroom(1550, None).found, "1500 is left to containers");
        let usual = headroom(1500, None);
        assert_eq!(
            (usual.health, usual.found.as_str()),
            (Health::Ok, "1450 is left to containers; 1500 with an MTU of 1550 on all underlay devices")
        );
    }

    #[test]
    fn offloads_that_are_missed_are_no_fault() {
        let missed = [gro("eth0", false), checksum("eth0", false), vlan("eth0", true, true)];
        assert!(missed.iter().all(|finding| finding.health == Health::Note && finding.fix.is_some()));
        let fine =
            [gro("eth0", true), checksum("eth0", true), vlan("eth0", true, false), vlan("eth0", false, true)];
        assert!(fine.iter().all(|finding| finding.health == Health::Ok));
    }
}
