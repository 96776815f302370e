//! What may be said once for IPv4 and once for IPv6: addresses and subnets as users give them, in any order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Two values where one of each family is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {first} and {second} are of one family: give one of each")]
pub struct SameFamily {
    what: &'static str,
    first: String,
    second: String,
}

/// At most one value of each family.
pub type PerFamily<T4, T6> = (Option<T4>, Option<T6>);

/// Addresses by their family; `what` they are is for the error.
///
/// # Errors
/// If two are of one.
pub fn addresses(
    what: &'static str,
    given: impl IntoIterator<Item = IpAddr>,
) -> Result<PerFamily<Ipv4Addr, Ipv6Addr>, SameFamily> {
    let (mut ipv4, mut ipv6) = (None, None);
    for ip in given {
        match ip {
            IpAddr::V4(ip) => once(what, &mut ipv4, ip)?,
            IpAddr::V6(ip) => once(what, &mut ipv6, ip)?,
        }
    }
    Ok((ipv4, ipv6))
}

/// Subnets by their family.
///
/// # Errors
/// If two are of one.
pub fn subnets(
    what: &'static str,
    given: impl IntoIterator<Item = IpNet>,
) -> Result<PerFamily<Ipv4Net, Ipv6Net>, SameFamily> {
    let (mut ipv4, mut ipv6) = (None, None);
    for net in given {
        match net {
            IpNet::V4(net) => once(what, &mut ipv4, net)?,
            IpNet::V6(net) => once(what, &mut ipv6, net)?,
        }
    }
    Ok((ipv4, ipv6))
}

fn once<T: ToString>(what: &'static str, slot: &mut Option<T>, given: T) -> Result<(), SameFamily> {
    let second = given.to_string();
    match slot.replace(given) {
        None => Ok(()),
        Some(first) => Err(SameFamily { what, first: first.to_string(), second }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart_by_their_family_whatever_their_order() {
        let [v4, v6, other] = ["10.0.0.9", "fd00::9", "10.0.0.8"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(addresses("--ip", [v6, v4]), Ok((Some([10, 0, 0, 9].into()), "fd00::9".parse().ok())));
        assert_eq!(addresses("--ip", []), Ok((None, None)));
        let error = addresses("--ip", [v4, v6, other]).unwrap_err().to_string();
        assert_eq!(error, "--ip 10.0.0.9 and 10.0.0.8 are of one family: give one of each");
        let nets = ["fd00::/64", "fd01::/64"].map(|net| net.parse::<IpNet>().unwrap());
        assert_eq!(subnets("--subnet", [nets[0]]), Ok((None, "fd00::/64".parse().ok())));
        assert!(subnets("--subnet", nets).is_err());
    }
}
