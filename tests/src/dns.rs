//! Names as containers ask for them: Debian's `dig`, and the bytes of a plain query.

use std::net::Ipv4Addr;

use crate::netns::Netns;

/// The port.
pub const PORT: u16 = 53;

/// What `dig` was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN` …; `None` if nobody answered.
    pub status: Option<String>,
    /// The data of the records, in the order they came.
    pub records: Vec<String>,
    /// Whatever the records' owners are called.
    pub owners: Vec<String>,
    /// The longest time for which a record may be kept, in seconds.
    pub ttl: u32,
}

impl Answer {
    /// The records as addresses, sorted.
    ///
    /// # Panics
    /// If one is none.
    #[must_use]
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let mut addresses: Vec<_> =
            self.records.iter().map(|data| data.parse().expect("an IPv4 address")).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Whether there is such a name.
    #[must_use]
    pub fn is(&self, status: &str) -> bool {
        self.status.as_deref() == Some(status)
    }

    fn parse(text: &str) -> Self {
        let status = text.split_once("status: ").and_then(|(_, rest)| rest.split(',').next());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| !line.starts_with(';') && !line.is_empty())
            .map(|line| line.split_whitespace().collect())
            .collect();
        let column = |at: usize| rows.iter().filter_map(move |row| Some((*row.get(at)?).to_owned()));
        Self {
            status: status.map(str::to_owned),
            records: column(4).collect(),
            owners: column(0).collect(),
            ttl: column(1).filter_map(|ttl| ttl.parse().ok()).max().unwrap_or_default(),
        }
    }
}

/// Asks a server with `dig` for a name: of what type, if not for an address, `+tcp` …
#[must_use]
#[track_caller]
pub fn dig(netns: &Netns, server: Ipv4Addr, name: &str, words: &[&str]) -> Answer {
    run(netns, server, &[&["-q", name][..], words].concat())
}

/// Asks for the name of an address.
#[must_use]
#[track_caller]
pub fn dig_address(netns: &Netns, server: Ipv4Addr, address: Ipv4Addr) -> Answer {
    run(netns, server, &["-x", &address.to_string()])
}

#[track_caller]
fn run(netns: &Netns, server: Ipv4Addr, words: &[&str]) -> Answer {
    let server = format!("@{server}");
    let fixed = ["dig", &server, "+tries=1", "+time=2", "+noall", "+comments", "+answer"];
    Answer::parse(&netns.run(&[&fixed, words].concat()).stdout)
}

/// A query for the IPv4 address of a name, with this number, and nothing else in it (RFC 1035 section 4.1).
///
/// # Panics
/// If a label of the name is too long.
#[must_use]
pub fn query(number: u16, name: &str) -> Vec<u8> {
    const RECURSION_DESIRED: u8 = 0x01;
    const TYPE_A_CLASS_IN: [u8; 4] = [0, 1, 0, 1];
    let [high, low] = number.to_be_bytes();
    let mut bytes = vec![high, low, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(TYPE_A_CLASS_IN);
    bytes
}

/// Whether this is an answer to the query of that number, with at least one record and no error.
#[must_use]
pub fn is_answer(bytes: &[u8], number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    matches!(bytes, [a, b, flags, code, _, _, records_high, records_low, ..]
        if [*a, *b] == [high, low] && flags & 0x80 != 0 && code & 0x0f == 0 && [*records_high, *records_low] != [0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dig_prints_is_read() {
        let text = ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 7\n\n;; ANSWER SECTION:\n\
                    front.\t\t5\tIN\tA\t10.0.0.3\nfront.\t\t4\tIN\tA\t10.0.0.2\n";
        let answer = Answer::parse(text);
        assert!(answer.is("NOERROR"));
        assert_eq!(answer.records, ["10.0.0.3", "10.0.0.2"]);
        assert_eq!((answer.ttl, &answer.owners[..]), (5, &["front.".to_owned(), "front.".to_owned()][..]));
        assert_eq!(answer.addresses(), [[10, 0, 0, 2], [10, 0, 0, 3]].map(Ipv4Addr::from));
        assert_eq!(Answer::parse(";; connection timed out; no servers could be reached\n").status, None);
    }
}
