//! Addresses of stores that are servers: `SCHEME://HOST[:PORT],HOST[:PORT],…[/PREFIX]`.

use std::fmt;

use super::StoreError;

/// Servers of one store, any of which will do, and where in it our keys lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    scheme: String,
    /// `HOST:PORT` of each; an IPv6 address in brackets.
    pub hosts: Vec<String>,
    /// Put before every key: empty, or with a slash at its end and none at its start.
    pub prefix: String,
}

impl Servers {
    /// Takes an address apart.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if it is none; the error says how to write it.
    pub fn parse(url: &str, default_port: u16) -> Result<Self, StoreError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let unusable = |reason: String| StoreError::Unusable { url: super::without_secrets(url), reason };
        if rest.contains(['@', '?', '#']) {
            return Err(unusable(
                "credentials do not belong in the address, which others can read: use --store-token-file, \
                 --store-user and --store-password-file"
                    .to_owned(),
            ));
        }
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = hosts
            .split(',')
            .map(|host| host_and_port(host, default_port))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| unusable(format!("write it as {scheme}://HOST:PORT,HOST:PORT/PREFIX")))?;
        let prefix = prefix.trim_matches('/');
        let climbs = prefix.split('/').any(|part| part == "." || part == "..");
        if climbs || prefix.contains("//") || prefix.contains(|c: char| !is_prefix_char(c)) {
            return Err(unusable(format!(
                "the prefix {prefix:?} may hold letters, digits, and . _ - between single slashes, and no part of dots alone"
            )));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { scheme: scheme.to_owned(), hosts, prefix })
    }

    /// The key in the store for a key of ours.
    #[must_use]
    pub fn outer(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Our key for a key in the store; `None` if it lies elsewhere.
    #[must_use]
    pub fn inner<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.hosts.join(","))?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix.trim_end_matches('/')) }
    }
}

fn is_prefix_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-/".contains(c)
}

/// `HOST:PORT` of what a user wrote; `None` if that is neither a name nor an address.
fn host_and_port(text: &str, default_port: u16) -> Option<String> {
    let bracketed_end = text.rfind(']');
    let (host, port) = match text.rfind(':') {
        Some(colon) if bracketed_end.is_none_or(|end| end < colon) => {
            (&text[..colon], text[colon + 1..].parse().ok().filter(|port| *port != 0)?)
        }
        _ => (text, default_port),
    };
    let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)),
    };
    valid.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("consul://127.0.0.1", "consul://127.0.0.1:8500", "")]
    #[case("etcd://a:1,b:2,c:3/site/one/", "etcd://a:1,b:2,c:3/site/one", "site/one/")]
    #[case("zookeeper://[2001:db8::1]:2181,[::1]/x", "zookeeper://[2001:db8::1]:2181,[::1]:8500/x", "x/")]
    fn an_address_is_taken_apart(#[case] url: &str, #[case] shown: &str, #[case] prefix: &str) {
        let servers = Servers::parse(url, 8500).unwrap();
        assert_eq!((servers.to_string().as_str(), servers.prefix.as_str()), (shown, prefix));
        assert_eq!(servers.inner(&servers.outer("overlay/v1/x")), Some("overlay/v1/x"));
        assert_eq!(servers.inner("elsewhere/x").is_none(), !prefix.is_empty());
    }

    #[rstest]
    fn anything_else_is_no_address(
        #[values(
            "consul://",
            "consul://:8500",
            "consul://a:0",
            "consul://a:65536",
            "consul://a:b",
            "consul://a,",
            "consul://::1",
            "consul://[::1",
            "consul://a b",
            "consul://a/b//c",
            "consul://a/b c",
            "consul://a/..%2f",
            "consul://a/b/../c",
            "consul://a/."
        )]
        url: &str,
    ) {
        let error = Servers::parse(url, 8500).unwrap_err();
        assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_shown() {
        let error = Servers::parse("etcd://root:geheim@127.0.0.1:2379", 2379).unwrap_err().to_string();
        assert!(error.contains("--store-password-file") && !error.contains("geheim"), "{error}");
    }
}
