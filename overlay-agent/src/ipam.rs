//! Which VNI, subnet or address comes next: pure functions of what is taken.
//!
//! They choose, they do not claim: the store's create-if-absent decides between two agents that chose the
//! same, and the loser chooses again.
//!
//! A released address rests before it is used again, since others may still speak to the container that had
//! it. After its rest it comes before fresh ones, the longest released first, so that no more claims pile up
//! in the store than addresses are in use or at rest. An address that rests is given only on request, or when
//! nothing else is left: a small network must not refuse a container because another has just gone. How long
//! it rests the clocks of two hosts decide, so it is no more than a preference; the store's revisions say
//! which was released first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use overlay_common::vni::Vni;

use crate::{
    model::{Address, EndpointId, Name, Network, Timestamp, cluster::Versioned},
    store::Revision,
};

/// Automatic subnets lie in here, as in Docker's overlay driver.
const AUTO_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
/// Length of an automatic subnet's prefix.
const AUTO_PREFIX_LEN: u8 = 24;

/// Shortest and longest prefix of a subnet: the /30 has two hosts, the gateway and one container.
const PREFIX_LENS: RangeInclusive<u8> = 8..=30;

/// How long an address stays reserved for the front end that was given it. It makes its endpoint at once or never: one
/// that was killed in between keeps no address for good.
pub const RESERVATION: Duration = Duration::from_mins(10);

/// Blocks that no container can have addresses of (RFC 6890).
const UNUSABLE: [(Ipv4Net, &str); 5] = [
    (Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8), "\"this network\""),
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "loopback"),
    (Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16), "link-local"),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), "multicast"),
    (Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4), "reserved"),
];

/// Why there is no next one, or why the one asked for cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IpamError {
    /// All VNIs are taken.
    #[error("all VNIs from {first} to {max} are in use: remove a network", first = Vni::FIRST_AUTO, max = Vni::MAX)]
    NoVni,
    /// All automatic subnets are taken.
    #[error("no free /{AUTO_PREFIX_LEN} is left in {AUTO_POOL}: give the network a subnet of its own")]
    NoSubnet,
    /// An address where a network was meant.
    #[error("{given} has bits set behind its prefix: write {meant}")]
    HostBits {
        /// What was given.
        given: IpNet,
        /// The network that it lies in.
        meant: IpNet,
    },
    /// A subnet too large or too small.
    #[error("subnet {0}: its prefix must be /{first} to /{last}", first = PREFIX_LENS.start(), last = PREFIX_LENS.end())]
    PrefixLen(Ipv4Net),
    /// A subnet with addresses that no container can have.
    #[error("subnet {subnet} overlaps {block}, which is {kind}: use unicast addresses such as 10.0.0.0/24")]
    Unusable {
        /// The subnet.
        subnet: Ipv4Net,
        /// The block.
        block: Ipv4Net,
        /// What the block is for.
        kind: &'static str,
    },
    /// A gateway that is no host of the subnet.
    #[error("gateway {gateway} is no host of subnet {subnet}: use one from {first} to {last}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: IpNet,
        /// The subnet's first host.
        first: IpAddr,
        /// The subnet's last host.
        last: IpAddr,
    },
    /// A range outside its subnet.
    #[error("IP range {range} does not lie in subnet {subnet}")]
    RangeOutside {
        /// The range.
        range: Ipv4Net,
        /// The subnet.
        subnet: Ipv4Net,
    },
    /// A range without an address for a container.
    #[error("IP range {0} has no address for a container: use a larger one")]
    RangeEmpty(Ipv4Net),
    /// An address outside the subnet.
    #[error("address {ip} does not lie in subnet {subnet} of network {network}")]
    OutsideSubnet {
        /// The address.
        ip: IpAddr,
        /// The subnet.
        subnet: IpNet,
        /// The network.
        network: Name,
    },
    /// An address that is not for containers.
    #[error("address {ip} is the {role} of network {network} ({subnet}): use another one")]
    NotForContainers {
        /// The address.
        ip: IpAddr,
        /// What it is.
        role: &'static str,
        /// The subnet.
        subnet: IpNet,
        /// The network.
        network: Name,
    },
    /// An address that another endpoint has.
    #[error("address {ip} of network {network} is held by endpoint {endpoint}")]
    Held {
        /// The address.
        ip: IpAddr,
        /// The network.
        network: Name,
        /// Who has it.
        endpoint: EndpointId,
    },
    /// An address that a front end was given for a container that it is about to make.
    #[error("address {ip} of network {network} is reserved for a container that is being made on {node}")]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// The network.
        network: Name,
        /// On which node.
        node: Name,
    },
    /// No address is left.
    #[error("network {network}: all {count} addresses of {pool} are in use: detach a container")]
    Exhausted {
        /// The network.
        network: Name,
        /// Where addresses were looked for.
        pool: Ipv4Net,
        /// How many it has for containers.
        count: usize,
    },
    /// An IPv6 subnet too large or too small.
    #[error("subnet {0}: its prefix must be /32 to /126; an interface takes /64")]
    Ipv6PrefixLen(Ipv6Net),
    /// An IPv6 subnet with addresses that no container can have.
    #[error(
        "subnet {0} has no addresses for containers: use unique local ones such as fd00:1::/64, or global ones"
    )]
    Ipv6Unusable(Ipv6Net),
    /// An IPv6 address of a network without IPv6.
    #[error(
        "network {network} has no IPv6, so {ip} cannot be had there: create one with --ipv6 or an IPv6 --subnet"
    )]
    NoIpv6 {
        /// The address.
        ip: Ipv6Addr,
        /// The network.
        network: Name,
    },
    /// No IPv6 address is left.
    #[error("network {network}: all addresses of {pool} are in use: detach a container")]
    Ipv6Exhausted {
        /// The network.
        network: Name,
        /// Where addresses were looked for.
        pool: Ipv6Net,
    },
}

/// The lowest VNI that no network has, from 256.
pub fn next_vni(used: &BTreeSet<Vni>) -> Result<Vni, IpamError> {
    let taken = used.iter().map(|vni| vni.get());
    first_not_in(taken, Vni::FIRST_AUTO..=Vni::MAX).and_then(Vni::new).ok_or(IpamError::NoVni)
}

/// The first /24 of 10.0.0.0/8 that overlaps none of `used`.
pub fn next_subnet(used: &[Ipv4Net]) -> Result<Ipv4Net, IpamError> {
    let mut taken: Vec<Ipv4Net> = used.iter().map(Ipv4Net::trunc).collect();
    taken.sort_unstable();
    let mut taken = taken.into_iter().peekable();
    let mut candidates = AUTO_POOL.subnets(AUTO_PREFIX_LEN).map_err(|_| IpamError::NoSubnet)?;
    candidates
        .find(|candidate| {
            // Both go upward: what ends before this candidate ends before all that follow.
            while taken.next_if(|net| net.broadcast() < candidate.network()).is_some() {}
            taken.peek().is_none_or(|net| net.network() > candidate.broadcast())
        })
        .ok_or(IpamError::NoSubnet)
}

/// A network's addresses, found fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidSubnet {
    /// The subnet, without host bits.
    pub subnet: Ipv4Net,
    /// The gateway, a host of the subnet.
    pub gateway: Ipv4Addr,
    /// Where containers' addresses are given from, if not from the whole subnet.
    pub ip_range: Option<Ipv4Net>,
}

/// Checks a network's addresses against each other. The gateway is the first host if none is named.
pub fn check_network(
    subnet: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    ip_range: Option<Ipv4Net>,
) -> Result<ValidSubnet, IpamError> {
    check_subnet(subnet)?;
    let (first, last) = bounds(subnet, subnet);
    let gateway = gateway.unwrap_or(first);
    if !(first..=last).contains(&gateway) {
        return Err(IpamError::Gateway {
            gateway: gateway.into(),
            subnet: subnet.into(),
            first: first.into(),
            last: last.into(),
        });
    }
    if let Some(range) = ip_range {
        check_range(range, subnet, gateway)?;
    }
    Ok(ValidSubnet { subnet, gateway, ip_range })
}

fn check_subnet(subnet: Ipv4Net) -> Result<(), IpamError> {
    check_host_bits(subnet)?;
    if !PREFIX_LENS.contains(&subnet.prefix_len()) {
        return Err(IpamError::PrefixLen(subnet));
    }
    match UNUSABLE.iter().find(|(block, _)| block.contains(&subnet) || subnet.contains(block)) {
        Some(&(block, kind)) => Err(IpamError::Unusable { subnet, block, kind }),
        None => Ok(()),
    }
}

fn check_host_bits(given: Ipv4Net) -> Result<(), IpamError> {
    let meant = given.trunc();
    if given == meant {
        Ok(())
    } else {
        Err(IpamError::HostBits { given: given.into(), meant: meant.into() })
    }
}

fn check_range(range: Ipv4Net, subnet: Ipv4Net, gateway: Ipv4Addr) -> Result<(), IpamError> {
    check_host_bits(range)?;
    if !subnet.contains(&range) {
        return Err(IpamError::RangeOutside { range, subnet });
    }
    if pool(range, subnet, gateway).next().is_none() {
        return Err(IpamError::RangeEmpty(range));
    }
    Ok(())
}

/// An address for an endpoint, and how to claim it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<Ip> {
    /// The address.
    pub ip: Ip,
    /// Revision of the released claim that the new one replaces; if none, the claim is created.
    pub previous: Option<Revision>,
}

impl From<Choice<Ipv4Addr>> for Choice<IpAddr> {
    fn from(Choice { ip, previous }: Choice<Ipv4Addr>) -> Self {
        Self { ip: ip.into(), previous }
    }
}

impl From<Choice<Ipv6Addr>> for Choice<IpAddr> {
    fn from(Choice { ip, previous }: Choice<Ipv6Addr>) -> Self {
        Self { ip: ip.into(), previous }
    }
}

/// How long released addresses rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// This host's clock.
    pub now: Timestamp,
    /// The rest.
    pub time: Duration,
}

impl Rest {
    /// Whether an address that was released then still rests. One released in the future was so by a clock
    /// that is ahead of ours, or before ours jumped back: it rests if that is as near as the rest is long.
    fn holds(self, released: Option<Timestamp>) -> bool {
        released.is_some_and(|at| self.now.distance(at) < self.time)
    }

    /// Whether nobody has an address or waits for it to be used again.
    pub(crate) fn is_over(self, claim: &Address) -> bool {
        match claim {
            Address::Held { .. } => false,
            Address::Reserved { at, .. } => !self.is_reserved(*at),
            Address::Released { at } => !self.holds(*at),
        }
    }

    /// Whether an address that was reserved then still is.
    fn is_reserved(self, at: Timestamp) -> bool {
        self.now.distance(at) < RESERVATION
    }
}

/// The requested address, or the best free one: of those that have rested the one released longest ago,
/// else the lowest never used, else of those that rest the one released longest ago.
pub fn choose(
    network: &Network,
    claims: &BTreeMap<Ipv4Addr, Versioned<Address>>,
    requested: Option<Ipv4Addr>,
    rest: Rest,
) -> Result<Choice<Ipv4Addr>, IpamError> {
    if let Some(ip) = requested {
        return choose_requested(network, claims, ip, rest);
    }
    let range = network.ip_range.unwrap_or(network.subnet);
    let pool = || pool(range, network.subnet, network.gateway);
    let released = |wanted: &dyn Fn(&Address) -> bool| longest_released(network, range, claims, wanted);
    released(&|claim| rest.is_over(claim))
        .or_else(|| lowest_unclaimed(pool(), claims))
        .or_else(|| released(&|claim| matches!(claim, Address::Released { .. })))
        .ok_or_else(|| IpamError::Exhausted {
            network: network.name.clone(),
            pool: range,
            count: pool().count(),
        })
}

fn choose_requested(
    network: &Network,
    claims: &BTreeMap<Ipv4Addr, Versioned<Address>>,
    ip: Ipv4Addr,
    rest: Rest,
) -> Result<Choice<Ipv4Addr>, IpamError> {
    let subnet = network.subnet;
    let name = || network.name.clone();
    if !subnet.contains(&ip) {
        return Err(IpamError::OutsideSubnet { ip: ip.into(), subnet: subnet.into(), network: name() });
    }
    if let Some(role) = role(network, ip) {
        return Err(IpamError::NotForContainers {
            ip: ip.into(),
            role,
            subnet: subnet.into(),
            network: name(),
        });
    }
    claim_of(network.name.clone(), ip, claims.get(&ip), rest)
}

/// How to claim an address that was asked for, if what is known of it leaves that open.
pub(crate) fn claim_of<Ip: Copy + Into<IpAddr>>(
    network: Name,
    ip: Ip,
    claim: Option<&Versioned<Address>>,
    rest: Rest,
) -> Result<Choice<Ip>, IpamError> {
    let Some(Versioned { record, revision }) = claim else { return Ok(Choice { ip, previous: None }) };
    match record {
        Address::Held { endpoint } => {
            Err(IpamError::Held { ip: ip.into(), network, endpoint: endpoint.clone() })
        }
        Address::Reserved { node, at } if rest.is_reserved(*at) => {
            Err(IpamError::Reserved { ip: ip.into(), network, node: node.clone() })
        }
        Address::Reserved { .. } | Address::Released { .. } => Ok(Choice { ip, previous: Some(*revision) }),
    }
}

/// What an address of the subnet is, if it is not for containers.
fn role(network: &Network, ip: Ipv4Addr) -> Option<&'static str> {
    if ip == network.gateway {
        Some("gateway")
    } else if ip == network.subnet.network() {
        Some("network address")
    } else if ip == network.subnet.broadcast() {
        Some("broadcast address")
    } else {
        None
    }
}

/// First and last of the addresses of `range` that are hosts of `subnet`; the first is greater if there are none.
fn bounds(range: Ipv4Net, subnet: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    let first_host = u32::from(subnet.network()).saturating_add(1);
    let last_host = u32::from(subnet.broadcast()).saturating_sub(1);
    (range.network().max(first_host.into()), range.broadcast().min(last_host.into()))
}

/// The addresses for containers, upward.
fn pool(range: Ipv4Net, subnet: Ipv4Net, gateway: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
    let (first, last) = bounds(range, subnet);
    (first.into()..=last.into()).map(|ip: u32| Ipv4Addr::from(ip)).filter(move |ip| *ip != gateway)
}

/// How many addresses of `range` containers can have.
#[must_use]
pub fn capacity(range: Ipv4Net, subnet: Ipv4Net, gateway: Ipv4Addr) -> usize {
    let (first, last) = bounds(range, subnet);
    let hosts = u32::from(last).saturating_add(1).saturating_sub(first.into());
    hosts.saturating_sub(u32::from((first..=last).contains(&gateway))) as usize
}

fn lowest_unclaimed(
    pool: impl Iterator<Item = Ipv4Addr>,
    claims: &BTreeMap<Ipv4Addr, Versioned<Address>>,
) -> Option<Choice<Ipv4Addr>> {
    first_not_in(claims.keys().copied(), pool).map(|ip| Choice { ip, previous: None })
}

fn longest_released(
    network: &Network,
    range: Ipv4Net,
    claims: &BTreeMap<Ipv4Addr, Versioned<Address>>,
    wanted: impl Fn(&Address) -> bool,
) -> Option<Choice<Ipv4Addr>> {
    let (first, last) = bounds(range, network.subnet);
    let in_pool = |ip: Ipv4Addr| (first..=last).contains(&ip) && ip != network.gateway;
    let released = |(ip, claim): (&Ipv4Addr, &Versioned<Address>)| {
        (in_pool(*ip) && wanted(&claim.record)).then_some((claim.revision, *ip))
    };
    claims.iter().filter_map(released).min().map(|(revision, ip)| Choice { ip, previous: Some(revision) })
}

/// The first candidate that is not taken. Both go upward and are walked side by side, so it looks at no more
/// candidates than are taken, and one.
pub(crate) fn first_not_in<T: Ord>(
    taken: impl Iterator<Item = T>,
    mut candidates: impl Iterator<Item = T>,
) -> Option<T> {
    let mut taken = taken.peekable();
    candidates.find(|candidate| {
        while taken.next_if(|t| t < candidate).is_some() {}
        taken.peek() != Some(candidate)
    })
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::subsequence};
    use rstest::rstest;

    use super::*;

    type Claims = BTreeMap<Ipv4Addr, Versioned<Address>>;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn network(subnet: &str, ip_range: Option<&str>) -> Network {
        let valid = check_network(net(subnet), None, ip_range.map(net)).unwrap();
        Network {
            name: "blue".parse().unwrap(),
            vni: Vni::new(256).unwrap(),
            subnet: valid.subnet,
            gateway: valid.gateway,
            ip_range: valid.ip_range,
            ipv6: None,
            mtu: None,
            internal: false,
            multicast: false,
            labels: BTreeMap::new(),
            state: crate::model::NetworkState::Active,
            engines: BTreeMap::new(),
            made_by_engine: false,
        }
    }

    fn held() -> Versioned<Address> {
        Versioned {
            record: Address::Held { endpoint: "00112233445566ff".parse().unwrap() },
            revision: Revision(1),
        }
    }

    /// Long ago, as far as any clock tells.
    fn released(revision: u64) -> Versioned<Address> {
        Versioned { record: Address::Released { at: None }, revision: Revision(revision) }
    }

    fn released_at(revision: u64, second: u64) -> Versioned<Address> {
        let at = Some(Timestamp::from_unix(second));
        Versioned { record: Address::Released { at }, revision: Revision(revision) }
    }

    /// The clock of most tests; an address that was released in the last minute rests.
    const NOW: u64 = 1_000_000;

    fn rest() -> Rest {
        Rest { now: Timestamp::from_unix(NOW), time: Duration::from_mins(1) }
    }

    fn choose(
        network: &Network,
        claims: &Claims,
        requested: Option<Ipv4Addr>,
    ) -> Result<Choice<Ipv4Addr>, IpamError> {
        super::choose(network, claims, requested, rest())
    }

    #[test]
    fn the_next_vni_is_the_lowest_free_one_from_256() {
        let vnis = |numbers: &[u32]| numbers.iter().map(|n| Vni::new(*n).unwrap()).collect::<BTreeSet<_>>();
        let next = |numbers: &[u32]| next_vni(&vnis(numbers)).unwrap().get();
        assert_eq!(next(&[]), 256);
        assert_eq!(next(&[1, 255, 257, Vni::MAX]), 256);
        assert_eq!(next(&[1, 256, 257, 259]), 258);
    }

    #[test]
    fn there_is_no_next_one_when_all_candidates_are_taken() {
        assert_eq!(first_not_in(1..=9, 3..=8), None);
        assert_eq!(first_not_in(1..=7, 3..=8), Some(8));
        assert_eq!(first_not_in([3, 5].into_iter(), [3, 4, 5].into_iter()), Some(4));
    }

    #[rstest]
    #[case(&[], "10.0.0.0/24")]
    #[case(&["10.0.0.0/24"], "10.0.1.0/24")]
    #[case(&["10.0.2.0/24", "10.0.0.0/24"], "10.0.1.0/24")]
    #[case(&["10.0.0.128/25", "10.0.1.7/32"], "10.0.2.0/24")]
    #[case(&["10.0.0.0/16", "10.0.3.0/24"], "10.1.0.0/24")]
    #[case(&["192.168.0.0/16", "9.0.0.0/8", "11.0.0.0/8"], "10.0.0.0/24")]
    #[case(&["10.0.0.0/9"], "10.128.0.0/24")]
    #[case(&["10.0.0.9/24"], "10.0.1.0/24")]
    fn the_next_subnet_is_the_first_24_that_overlaps_none(#[case] used: &[&str], #[case] next: &str) {
        let used: Vec<Ipv4Net> = used.iter().map(|text| net(text)).collect();
        assert_eq!(next_subnet(&used), Ok(net(next)));
    }

    #[test]
    fn subnets_run_out_when_the_whole_block_is_taken() {
        assert_eq!(next_subnet(&[net("10.0.0.0/8")]), Err(IpamError::NoSubnet));
        assert_eq!(next_subnet(&[net("0.0.0.0/0")]), Err(IpamError::NoSubnet));
        assert_eq!(next_subnet(&[net("10.0.0.0/9"), net("10.128.0.0/9")]), Err(IpamError::NoSubnet));
    }

    #[rstest]
    #[case("10.0.0.0/24", None, None, "10.0.0.1")]
    #[case("10.0.0.0/8", None, Some("10.9.0.0/16"), "10.0.0.1")]
    #[case("192.168.7.4/30", Some("192.168.7.6"), None, "192.168.7.6")]
    #[case("10.0.0.0/24", Some("10.0.0.254"), Some("10.0.0.0/24"), "10.0.0.254")]
    fn a_sound_network_passes(
        #[case] subnet: &str,
        #[case] gateway: Option<&str>,
        #[case] range: Option<&str>,
        #[case] expected: &str,
    ) {
        let valid = ValidSubnet { subnet: net(subnet), gateway: ip(expected), ip_range: range.map(net) };
        assert_eq!(check_network(net(subnet), gateway.map(ip), range.map(net)), Ok(valid));
    }

    #[rstest]
    #[case("10.0.0.1/24", None, None, "10.0.0.1/24 has bits set behind its prefix: write 10.0.0.0/24")]
    #[case("10.0.0.0/31", None, None, "subnet 10.0.0.0/31: its prefix must be /8 to /30")]
    #[case("10.0.0.0/7", None, None, "10.0.0.0/7: its prefix must be /8 to /30")]
    #[case("0.0.0.0/8", None, None, "overlaps 0.0.0.0/8, which is \"this network\"")]
    #[case("127.1.0.0/16", None, None, "overlaps 127.0.0.0/8, which is loopback")]
    #[case("169.0.0.0/8", None, None, "overlaps 169.254.0.0/16, which is link-local")]
    #[case("169.254.8.0/24", None, None, "overlaps 169.254.0.0/16, which is link-local")]
    #[case("224.0.0.0/24", None, None, "overlaps 224.0.0.0/4, which is multicast")]
    #[case("255.255.255.0/24", None, None, "overlaps 240.0.0.0/4, which is reserved")]
    #[case("10.0.0.0/24", Some("10.0.0.0"), None, "use one from 10.0.0.1 to 10.0.0.254")]
    #[case("10.0.0.0/24", Some("10.0.0.255"), None, "gateway 10.0.0.255 is no host of subnet 10.0.0.0/24")]
    #[case("10.0.0.0/24", Some("10.0.1.1"), None, "gateway 10.0.1.1 is no host of subnet 10.0.0.0/24")]
    #[case(
        "10.0.0.0/24",
        None,
        Some("10.0.0.9/28"),
        "10.0.0.9/28 has bits set behind its prefix: write 10.0.0.0/28"
    )]
    #[case(
        "10.0.0.0/24",
        None,
        Some("10.0.1.0/28"),
        "IP range 10.0.1.0/28 does not lie in subnet 10.0.0.0/24"
    )]
    #[case(
        "10.0.0.0/24",
        None,
        Some("10.0.0.0/23"),
        "IP range 10.0.0.0/23 does not lie in subnet 10.0.0.0/24"
    )]
    #[case("10.0.0.0/24", None, Some("10.0.0.0/31"), "IP range 10.0.0.0/31 has no address for a container")]
    fn an_unsound_network_is_refused_with_a_sentence(
        #[case] subnet: &str,
        #[case] gateway: Option<&str>,
        #[case] range: Option<&str>,
        #[case] sentence: &str,
    ) {
        let error = check_network(net(subnet), gateway.map(ip), range.map(net)).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }

    #[rstest]
    #[case("10.0.0.9", None)]
    #[case("10.0.0.8", Some(7))]
    fn a_requested_address_is_given_fresh_or_released(#[case] wanted: &str, #[case] previous: Option<u64>) {
        // Also outside the range from which the others are given.
        let network = network("10.0.0.0/24", Some("10.0.0.128/25"));
        let claims = Claims::from([(ip("10.0.0.8"), released(7))]);
        let choice = Choice { ip: ip(wanted), previous: previous.map(Revision) };
        assert_eq!(choose(&network, &claims, Some(ip(wanted))), Ok(choice));
    }

    #[rstest]
    #[case("10.0.1.9", "address 10.0.1.9 does not lie in subnet 10.0.0.0/24 of network blue")]
    #[case("10.0.0.1", "is the gateway of network blue (10.0.0.0/24)")]
    #[case("10.0.0.0", "is the network address of network blue (10.0.0.0/24)")]
    #[case("10.0.0.255", "is the broadcast address of network blue (10.0.0.0/24)")]
    #[case("10.0.0.7", "address 10.0.0.7 of network blue is held by endpoint 00112233445566ff")]
    fn a_requested_address_that_cannot_be_had_is_refused(#[case] wanted: &str, #[case] sentence: &str) {
        let claims = Claims::from([(ip("10.0.0.7"), held())]);
        let error = choose(&network("10.0.0.0/24", None), &claims, Some(ip(wanted))).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }

    #[test]
    fn the_first_address_after_the_gateway_comes_first_and_holes_are_filled() {
        let network = network("10.0.0.0/24", None);
        let chosen = |claims: &Claims| choose(&network, claims, None).unwrap().ip;
        assert_eq!(chosen(&Claims::new()), ip("10.0.0.2"));
        let claims = ["10.0.0.2", "10.0.0.4"].map(|text| (ip(text), held()));
        assert_eq!(chosen(&Claims::from(claims)), ip("10.0.0.3"));
    }

    #[test]
    fn an_address_that_has_rested_comes_before_a_fresh_one_and_one_that_rests_after() {
        let network = network("10.0.0.0/29", None);
        let mut claims = Claims::from([
            (ip("10.0.0.2"), released_at(4, NOW - 59)),
            (ip("10.0.0.3"), released_at(2, NOW - 60)),
            (ip("10.0.0.4"), released_at(1, NOW - 61)),
        ]);
        let mut next = || {
            let choice = choose(&network, &claims, None).map(|choice| choice.ip.octets()[3]);
            if let Ok(last) = choice {
                claims.insert(Ipv4Addr::new(10, 0, 0, last), held());
            }
            choice.ok()
        };
        // The oldest that has rested first, then the fresh ones, then what rests.
        assert_eq!([(); 6].map(|()| next()), [Some(4), Some(3), Some(5), Some(6), Some(2), None]);
    }

    #[test]
    fn a_reserved_address_is_nobody_elses_until_nobody_has_come_for_it_in_time() {
        let network = network("10.0.0.0/29", None);
        let reserved = |second| {
            let at = Timestamp::from_unix(second);
            let record = Address::Reserved { node: "host2".parse().unwrap(), at };
            Claims::from([(ip("10.0.0.2"), Versioned { record, revision: Revision(7) })])
        };
        let fresh = reserved(NOW - 599);
        assert_eq!(choose(&network, &fresh, None).unwrap().ip, ip("10.0.0.3"));
        let refused = choose(&network, &fresh, Some(ip("10.0.0.2"))).unwrap_err();
        assert!(
            refused.to_string().contains("reserved for a container that is being made on host2"),
            "{refused}"
        );
        let overdue = Choice { ip: ip("10.0.0.2"), previous: Some(Revision(7)) };
        for wanted in [None, Some(ip("10.0.0.2"))] {
            assert_eq!(choose(&network, &reserved(NOW - 600), wanted), Ok(overdue));
        }
    }

    #[test]
    fn an_address_that_rests_is_given_to_who_asks_for_it_and_where_there_is_no_other() {
        let small = network("10.0.0.0/30", None);
        let claims = Claims::from([(ip("10.0.0.2"), released_at(7, NOW))]);
        let choice = Choice { ip: ip("10.0.0.2"), previous: Some(Revision(7)) };
        assert_eq!(choose(&small, &claims, None), Ok(choice));
        assert_eq!(choose(&network("10.0.0.0/24", None), &claims, Some(ip("10.0.0.2"))), Ok(choice));
        assert_ne!(choose(&network("10.0.0.0/24", None), &claims, None), Ok(choice));
    }

    #[rstest]
    #[case::just_now(NOW, true)]
    #[case::a_clock_somewhat_ahead(NOW + 30, true)]
    #[case::our_clock_jumped_back(NOW + 86_400, false)]
    #[case::our_clock_jumped_forward(0, false)]
    fn clocks_that_jump_cost_no_more_than_the_rest(#[case] at: u64, #[case] rests: bool) {
        assert_eq!(rest().holds(Some(Timestamp::from_unix(at))), rests);
        assert!(!rest().holds(None));
        assert!(!Rest { time: Duration::ZERO, ..rest() }.holds(Some(Timestamp::from_unix(at))));
    }

    #[test]
    fn a_full_network_says_which_and_how_large() {
        let network = network("10.0.0.0/29", None);
        let claims: Claims = network.subnet.hosts().map(|ip| (ip, held())).collect();
        let error = choose(&network, &claims, None).unwrap_err().to_string();
        assert_eq!(error, "network blue: all 5 addresses of 10.0.0.0/29 are in use: detach a container");
    }

    #[test]
    fn a_network_that_no_check_has_seen_is_exhausted_and_nothing_worse() {
        for subnet in ["255.255.255.255/32", "0.0.0.0/32", "10.0.0.0/31"] {
            let network = Network { subnet: net(subnet), ..network("10.0.0.0/24", None) };
            let result = choose(&network, &Claims::new(), None);
            assert!(matches!(result, Err(IpamError::Exhausted { count: 0, .. })), "{subnet}: {result:?}");
        }
    }

    #[test]
    fn large_networks_cost_no_more_than_their_claims() {
        let huge = network("10.0.0.0/8", None);
        let first = |n: u32| (0..n).map(|i| (Ipv4Addr::from(0x0a00_0002 + i), held()));
        assert_eq!(
            choose(&huge, &first(70_000).collect(), None).unwrap().ip,
            Ipv4Addr::from(0x0a00_0002 + 70_000)
        );

        let full = network("10.0.0.0/16", None);
        let mut claims: Claims = first(65_533).collect();
        assert!(matches!(choose(&full, &claims, None), Err(IpamError::Exhausted { count: 65_533, .. })));
        claims.insert(ip("10.0.200.0"), released(5));
        assert_eq!(choose(&full, &claims, None).unwrap().ip, ip("10.0.200.0"));
    }

    /// A network of up to 62 hosts, perhaps with a range, and claims on any of its addresses.
    fn network_with_claims() -> impl Strategy<Value = (Network, Claims)> {
        let claim = prop_oneof![
            Just(held()),
            (1..20_u64).prop_map(released),
            (1..20_u64, NOW - 120..=NOW).prop_map(|(revision, at)| released_at(revision, at)),
        ];
        let shape = (26..=30_u8, any::<u32>(), any::<u32>(), 0..=2_u8);
        shape.prop_flat_map(move |(len, gateway, at, narrower)| {
            let subnet = Ipv4Net::new(ip("10.1.2.64"), len).unwrap().trunc();
            let hosts: Vec<Ipv4Addr> = subnet.hosts().collect();
            let gateway = hosts[gateway as usize % hosts.len()];
            let range =
                Ipv4Net::new(hosts[at as usize % hosts.len()], (len + narrower).min(30)).unwrap().trunc();
            let network = Network { subnet, gateway, ip_range: Some(range), ..network("10.0.0.0/24", None) };
            let around: Vec<Ipv4Addr> = (0x0a01_023e..=0x0a01_0282_u32).map(Ipv4Addr::from).collect();
            let count = around.len();
            let claims = (subsequence(around, 0..=count), prop::collection::vec(claim.clone(), count));
            claims.prop_map(move |(ips, claims)| (network.clone(), ips.into_iter().zip(claims).collect()))
        })
    }

    /// The contract said plainly: every address of the range that is a host and not the gateway.
    fn candidates(network: &Network) -> Vec<Ipv4Addr> {
        let range = network.ip_range.unwrap();
        network.subnet.hosts().filter(|ip| range.contains(ip) && *ip != network.gateway).collect()
    }

    proptest! {
        #[test]
        fn a_choice_has_rested_longest_or_is_the_lowest_fresh_or_rests_longest((network, claims) in network_with_claims()) {
            let candidates = candidates(&network);
            let fresh = candidates.iter().find(|ip| !claims.contains_key(ip));
            let oldest = |rests: bool| candidates.iter()
                .filter(|ip| matches!(claims.get(ip).map(|c| &c.record), Some(Address::Released { at }) if rest().holds(*at) == rests))
                .min_by_key(|ip| (claims[ip].revision, **ip))
                .map(|ip| Choice { ip: *ip, previous: Some(claims[ip].revision) });
            let expected = oldest(false).or(fresh.map(|ip| Choice { ip: *ip, previous: None })).or(oldest(true));
            match (choose(&network, &claims, None), expected) {
                (Ok(choice), Some(expected)) => prop_assert_eq!(choice, expected),
                (Err(IpamError::Exhausted { count, .. }), None) => prop_assert_eq!(count, candidates.len()),
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn a_network_gives_each_of_its_addresses_once_and_then_none((network, mut claims) in network_with_claims()) {
            claims.retain(|_, claim| matches!(claim.record, Address::Held { .. }));
            let free = candidates(&network).iter().filter(|ip| !claims.contains_key(ip)).count();
            for _ in 0..free {
                let choice = choose(&network, &claims, None).unwrap();
                prop_assert_eq!(claims.insert(choice.ip, held()), None);
            }
            prop_assert!(choose(&network, &claims, None).is_err());
        }

        #[test]
        fn a_request_is_granted_exactly_when_nobody_else_has_the_address(
            (network, claims) in network_with_claims(),
            offset in 0..=70_u32,
        ) {
            let wanted = Ipv4Addr::from(0x0a01_023d + offset);
            let is_host = network.subnet.hosts().any(|ip| ip == wanted) && wanted != network.gateway;
            let is_held = claims.get(&wanted).is_some_and(|claim| matches!(claim.record, Address::Held { .. }));
            let choice = choose(&network, &claims, Some(wanted));
            prop_assert_eq!(choice.is_ok(), is_host && !is_held);
            if let Ok(choice) = choice {
                prop_assert_eq!((choice.ip, choice.previous), (wanted, claims.get(&wanted).map(|c| c.revision)));
            }
        }

        #[test]
        fn the_next_subnet_overlaps_none_and_no_lower_one_is_free(
            used in prop::collection::vec((0..=0x4000_u32, 14..=32_u8), 0..40)
        ) {
            let used: Vec<Ipv4Net> = used.into_iter()
                .map(|(ip, len)| Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + (ip << 4)), len).unwrap())
                .collect();
            let overlaps = |candidate: &Ipv4Net| used.iter()
                .any(|net| net.trunc().contains(candidate) || candidate.contains(&net.trunc()));
            let lowest = net("10.0.0.0/8").subnets(24).unwrap().find(|candidate| !overlaps(candidate));
            prop_assert_eq!(next_subnet(&used).ok(), lowest);
        }

        #[test]
        fn the_next_vni_is_free_and_none_lower_is(used in prop::collection::btree_set(200..300_u32, 0..100)) {
            let used: BTreeSet<Vni> = used.into_iter().filter_map(Vni::new).collect();
            let lowest = (256..).filter_map(Vni::new).find(|vni| !used.contains(vni));
            prop_assert_eq!(next_vni(&used).ok(), lowest);
        }
    }
}
