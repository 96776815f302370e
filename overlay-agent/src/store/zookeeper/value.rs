//! Values as they lie in a node.
//!
//! A node without data is only a parent of others: it holds no value. What a value is bound to stands in a last
//! line of the node, which most values do not have:
//!
//! ```text
//! {"id":"…","vtep":"192.0.2.1:4789"}
//! # lease 0x10000a2b0000
//! ```

use crate::store::LeaseId;

/// Starts the last line of a node with a lease.
const LEASE: &[u8] = b"\n# lease 0x";
/// Is the last line of a node whose value would be taken for something else without it.
const PLAIN: &[u8] = b"\n# no lease";

/// The data of the node that holds a value.
pub(super) fn encode(value: &[u8], lease: Option<LeaseId>) -> Vec<u8> {
    let mut data = value.to_vec();
    if let Some(LeaseId(id)) = lease {
        data.extend_from_slice(LEASE);
        data.extend_from_slice(format!("{id:x}").as_bytes());
    } else if data.is_empty() || decode(&data).is_none_or(|(plain, _)| plain.len() < data.len()) {
        data.extend_from_slice(PLAIN);
    }
    data
}

/// The value in a node's data, and its lease. `None` if the node holds none.
pub(super) fn decode(data: &[u8]) -> Option<(&[u8], Option<LeaseId>)> {
    if data.is_empty() {
        return None;
    }
    if let Some(value) = data.strip_suffix(PLAIN) {
        return Some((value, None));
    }
    Some(leased(data).unwrap_or((data, None)))
}

fn leased(data: &[u8]) -> Option<(&[u8], Option<LeaseId>)> {
    let line = data.iter().rposition(|byte| *byte == b'\n')?;
    let id = std::str::from_utf8(data[line..].strip_prefix(LEASE)?).ok()?;
    let id = u64::from_str_radix(id, 16).ok()?;
    Some((&data[..line], Some(LeaseId(id.into()))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_value_is_stored_as_it_is_and_a_lease_stands_below_it() {
        assert_eq!(encode(b"{}", None), b"{}");
        assert_eq!(encode(b"{}", Some(LeaseId(0x1f))), b"{}\n# lease 0x1f");
        assert_eq!(encode(b"{}", Some(LeaseId::from(-1))), b"{}\n# lease 0xffffffffffffffff");
        assert_eq!(decode(b""), None);
    }

    #[rstest]
    #[case(b"")]
    #[case(b"\n# no lease")]
    #[case(b"x\n# lease 0x1f")]
    #[case(b"x\n# lease 0x1f\n# no lease")]
    #[case(b"x\n# lease 0xzz")]
    #[case(b"\xff\n# lease ")]
    fn every_value_comes_back(#[case] value: &[u8]) {
        for lease in [None, Some(LeaseId(7)), Some(LeaseId::from(-7))] {
            assert_eq!(decode(&encode(value, lease)), Some((value, lease)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(value: Vec<u8>, id: Option<i64>) {
            let lease = id.map(LeaseId::from);
            let data = encode(&value, lease);
            prop_assert_eq!(decode(&data), Some((&value[..], lease)));
        }
    }
}
