//! Which IPv6 address comes next: as [`crate::ipam`] does for IPv4, from subnets that are never used up.

use std::{collections::BTreeMap, net::Ipv6Addr, ops::RangeInclusive};

use ipnet::{IpNet, Ipv6Net};

use crate::{
    ipam::{Choice, IpamError, Rest, claim_of, first_not_in},
    model::{Address, Name, NetworkIpv6, cluster::Versioned},
};

/// Addresses that a container can have: global unicast and unique local ones (RFC 4291, RFC 4193).
const USABLE: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
];

/// Shortest and longest prefix of a subnet.
const PREFIX_LENS: RangeInclusive<u8> = 32..=126;

/// Length of an automatic subnet's prefix.
const AUTO_PREFIX_LEN: u8 = 64;

/// Claims on a network's addresses.
pub type Claims = BTreeMap<Ipv6Addr, Versioned<Address>>;

/// A unique local /64 (RFC 4193) that nobody else has: its 56 bits are random.
#[must_use]
pub fn random_subnet() -> Ipv6Net {
    let bits = u128::from(rand::random::<u64>() >> 8) << 64;
    let first = Ipv6Addr::from(0xfd << 120 | bits);
    Ipv6Net::new_assert(first, AUTO_PREFIX_LEN)
}

/// Checks a network's IPv6 addresses against each other. The gateway is the first host if none is named.
///
/// # Errors
/// If they do not fit each other, or containers cannot have them.
pub fn check_network(subnet: Ipv6Net, gateway: Option<Ipv6Addr>) -> Result<NetworkIpv6, IpamError> {
    let meant = subnet.trunc();
    if subnet != meant {
        return Err(IpamError::HostBits { given: subnet.into(), meant: meant.into() });
    }
    if !PREFIX_LENS.contains(&subnet.prefix_len()) {
        return Err(IpamError::Ipv6PrefixLen(subnet));
    }
    if !USABLE.iter().any(|usable| usable.contains(&subnet)) {
        return Err(IpamError::Ipv6Unusable(subnet));
    }
    let (first, last) = (host(subnet, 1), subnet.broadcast());
    let gateway = gateway.unwrap_or(first);
    if !(first..=last).contains(&gateway) {
        return Err(IpamError::Gateway {
            gateway: gateway.into(),
            subnet: subnet.into(),
            first: first.into(),
            last: last.into(),
        });
    }
    Ok(NetworkIpv6 { subnet, gateway })
}

/// The address so many behind the subnet's first.
fn host(subnet: Ipv6Net, offset: u128) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(subnet.network()).saturating_add(offset))
}

/// The requested address, or the best free one: of those that have rested the one released longest ago, else the lowest
/// never used. Those that rest are given on request alone: there are always others.
///
/// # Errors
/// If the requested one cannot be had, or there is no other.
pub fn choose(
    network: &Name,
    ipv6: &NetworkIpv6,
    claims: &Claims,
    requested: Option<Ipv6Addr>,
    rest: Rest,
) -> Result<Choice<Ipv6Addr>, IpamError> {
    if let Some(ip) = requested {
        return choose_requested(network, ipv6, claims, ip, rest);
    }
    let rested = |(ip, claim): (&Ipv6Addr, &Versioned<Address>)| {
        (role(ipv6, *ip).is_none() && rest.is_over(&claim.record)).then_some((claim.revision, *ip))
    };
    let rested = claims.iter().filter_map(rested).min();
    let rested = rested.map(|(revision, ip)| Choice { ip, previous: Some(revision) });
    let fresh = || {
        let (first, last) = (host(ipv6.subnet, 2), u128::from(ipv6.subnet.broadcast()));
        let pool = (u128::from(first)..=last).map(Ipv6Addr::from).filter(|ip| *ip != ipv6.gateway);
        first_not_in(claims.keys().copied(), pool).map(|ip| Choice { ip, previous: None })
    };
    rested
        .or_else(fresh)
        .ok_or_else(|| IpamError::Ipv6Exhausted { network: network.clone(), pool: ipv6.subnet })
}

fn choose_requested(
    network: &Name,
    ipv6: &NetworkIpv6,
    claims: &Claims,
    ip: Ipv6Addr,
    rest: Rest,
) -> Result<Choice<Ipv6Addr>, IpamError> {
    let subnet = IpNet::from(ipv6.subnet);
    if !ipv6.subnet.contains(&ip) {
        return Err(IpamError::OutsideSubnet { ip: ip.into(), subnet, network: network.clone() });
    }
    if let Some(role) = role(ipv6, ip) {
        return Err(IpamError::NotForContainers { ip: ip.into(), role, subnet, network: network.clone() });
    }
    claim_of(network.clone(), ip, claims.get(&ip), rest)
}

/// What an address of the subnet is, if it is not for containers. The first one is all routers' (RFC 4291 section 2.6.1).
fn role(ipv6: &NetworkIpv6, ip: Ipv6Addr) -> Option<&'static str> {
    if ip == ipv6.gateway {
        Some("gateway")
    } else if ip == ipv6.subnet.network() {
        Some("subnet-router anycast address")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::{model::Timestamp, store::Revision};

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn network(subnet: &str) -> NetworkIpv6 {
        check_network(subnet.parse().unwrap(), None).unwrap()
    }

    fn chosen(ipv6: &NetworkIpv6, claims: &Claims, requested: Option<&str>) -> Result<Ipv6Addr, String> {
        let rest = Rest { now: Timestamp::from_unix(1_000_000), time: Duration::from_mins(1) };
        let choice = choose(&"blue".parse().unwrap(), ipv6, claims, requested.map(ip), rest);
        choice.map(|choice| choice.ip).map_err(|e| e.to_string())
    }

    fn held() -> Versioned<Address> {
        let endpoint = "00112233445566ff".parse().unwrap();
        Versioned { record: Address::Held { endpoint }, revision: Revision(1) }
    }

    fn released(second: u64) -> Versioned<Address> {
        let at = Some(Timestamp::from_unix(second));
        Versioned { record: Address::Released { at }, revision: Revision(second) }
    }

    #[rstest]
    #[case("fd00::/64", None, "fd00::1")]
    #[case("2001:db8:0:7::/64", Some("2001:db8:0:7::ff"), "2001:db8:0:7::ff")]
    #[case("fd00::4/126", Some("fd00::7"), "fd00::7")]
    fn a_sound_network_passes(#[case] subnet: &str, #[case] gateway: Option<&str>, #[case] expected: &str) {
        let checked = check_network(subnet.parse().unwrap(), gateway.map(ip)).unwrap();
        assert_eq!(checked, NetworkIpv6 { subnet: subnet.parse().unwrap(), gateway: ip(expected) });
    }

    #[rstest]
    #[case("fd00::1/64", None, "fd00::1/64 has bits set behind its prefix: write fd00::/64")]
    #[case("fd00::/127", None, "its prefix must be /32 to /126")]
    #[case("fe80::/64", None, "fe80::/64 has no addresses for containers")]
    #[case("::ffff:10.0.0.0/120", None, "has no addresses for containers")]
    #[case("ff02::/64", None, "has no addresses for containers")]
    #[case("fd00::/64", Some("fd00:1::1"), "gateway fd00:1::1 is no host of subnet fd00::/64")]
    #[case(
        "fd00::/64",
        Some("fd00::"),
        "gateway fd00:: is no host of subnet fd00::/64: use one from fd00::1"
    )]
    fn an_unsound_network_is_refused(
        #[case] subnet: &str,
        #[case] gateway: Option<&str>,
        #[case] message: &str,
    ) {
        let error = check_network(subnet.parse().unwrap(), gateway.map(ip)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn addresses_come_from_the_start_of_the_subnet_and_rested_ones_first() {
        let (net, mut claims) = (network("fd00::/64"), Claims::new());
        assert_eq!(chosen(&net, &claims, None).unwrap(), ip("fd00::2"));
        claims.insert(ip("fd00::2"), held());
        claims.insert(ip("fd00::3"), released(999_999));
        assert_eq!(chosen(&net, &claims, None).unwrap(), ip("fd00::4"), "it rests");
        claims.insert(ip("fd00::9"), released(9));
        claims.insert(ip("fd00::8"), released(8));
        assert_eq!(chosen(&net, &claims, None).unwrap(), ip("fd00::8"), "it was released first");
    }

    #[test]
    fn a_small_subnet_has_an_end() {
        let net = network("fd00::/126");
        let claims = Claims::from([(ip("fd00::2"), held()), (ip("fd00::3"), held())]);
        assert!(chosen(&net, &claims, None).unwrap_err().contains("all addresses of fd00::/126 are in use"));
    }

    #[rstest]
    #[case("fd00::77", None)]
    #[case("fd00::3", None)]
    #[case("fd00::2", Some("is held by endpoint 00112233445566ff"))]
    #[case("fd00::1", Some("is the gateway of network blue"))]
    #[case("fd00::", Some("is the subnet-router anycast address"))]
    #[case("fd01::2", Some("does not lie in subnet fd00::/64"))]
    fn a_request_is_granted_if_nobody_else_has_the_address(
        #[case] wanted: &str,
        #[case] refusal: Option<&str>,
    ) {
        let claims = Claims::from([(ip("fd00::2"), held()), (ip("fd00::3"), released(999_999))]);
        match (chosen(&network("fd00::/64"), &claims, Some(wanted)), refusal) {
            (Ok(got), None) => assert_eq!(got, ip(wanted)),
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn automatic_subnets_are_unique_local_and_differ() {
        let (one, other) = (random_subnet(), random_subnet());
        assert_ne!(one, other);
        assert_eq!((one.prefix_len(), one.network().octets()[0]), (64, 0xfd));
        check_network(one, None).unwrap();
    }
}
