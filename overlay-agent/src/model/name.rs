//! Names of networks, endpoints and nodes: one grammar, in store keys, paths and DNS alike.

use std::{fmt, str::FromStr};

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// A name: a letter or digit, then letters, digits, `_`, `.` and `-`; at most 63 characters.
///
/// It never needs quoting: no separator of keys, paths, shells or URLs can be in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct Name(String);

/// A text that is no name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no name: use 1 to 63 letters, digits, '_', '.' and '-', the first a letter or digit")]
pub struct InvalidName(String);

impl Name {
    /// Most characters of a name, as in a DNS label.
    pub const MAX_LEN: usize = 63;

    /// What stands for a node where there is none: that of members without an agent. No node can have this name.
    #[must_use]
    pub fn external() -> Self {
        Self("external".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        let mut bytes = text.bytes();
        text.len() <= Self::MAX_LEN
            && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    }
}

impl FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if Self::is_valid(text) { Ok(Self(text.to_owned())) } else { Err(InvalidName(text.to_owned())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;
    use proptest::prelude::*;

    #[test]
    fn path_and_shell_tricks_are_no_names() {
        let long = "x".repeat(64);
        for bad in
            ["", ".", "..", "../x", "a/b", "-rf", ".hidden", "a b", "a\0b", "näme", "a\n", "%2e", &long]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        for good in ["a", "0", "ov_net1", "web-1.example", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
    }

    proptest! {
        #[test]
        fn a_name_never_holds_a_separator(text in any::<String>()) {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert!(!name.as_str().contains(['/', '\\', '\0', ' ', '%', '$', ':', '\'', '"']));
                prop_assert!(!name.as_str().starts_with(['.', '-', '_']));
            }
        }
    }
}
