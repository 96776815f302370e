//! Paths that are narrower than their link. A router on the way says so with an ICMP message about one of our outer packets;
//! the kernel, whose tunnel socket it concerns, remembers it with the route (an exception, for ten minutes:
//! `net.ipv4.route.mtu_expires`). Of that nobody is told, but the messages are counted.

use std::fs;

/// Of the namespace that this process is in.
const COUNTERS: &str = "/proc/self/net/snmp";

/// Whether the kernel may have learned of a path since the last look.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    seen: u64,
}

impl Messages {
    /// Looks; true the first time too, if there were any.
    pub fn look(&mut self) -> bool {
        // Without counters no path is ever known to be narrow, as before.
        let now = fs::read_to_string(COUNTERS).ok().and_then(|text| unreachable(&text)).unwrap_or_default();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

/// The received messages of type `destination unreachable`, of which those about paths are some.
fn unreachable(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut counters = names.split(' ').zip(values.split(' '));
    counters.find(|(name, _)| *name == "InDestUnreachs")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_by_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nIcmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds\nIcmp: 9 1 2 7 3\nIcmpMsg: InType3\nIcmpMsg: 7\n";
        assert_eq!(unreachable(text), Some(7));
        assert_eq!(unreachable("Ip: Forwarding\nIp: 1\n"), None);
        assert!(unreachable(&fs::read_to_string(COUNTERS).unwrap()).is_some());
    }
}
