//! Which front end had an endpoint made, and what it calls it.
//!
//! A front end knows its attachments by names of its own. They are kept with the endpoint, so that it finds again what it
//! made, and nothing else, whatever became of the network, the namespace or its own files.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// Who makes endpoints for a container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontEnd {
    /// A runtime that speaks the Container Network Interface, such as Podman 4, containerd or CRI-O.
    Cni,
    /// Docker, by its remote driver protocol.
    Docker,
    /// Podman 5, by a netavark plugin.
    Netavark,
}

impl FrontEnd {
    /// Its name in records, views and filters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cni => "cni",
            Self::Docker => "docker",
            Self::Netavark => "netavark",
        }
    }
}

impl fmt::Display for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a front end calls something: 1 to 255 printable ASCII characters, no space among them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct ForeignId(String);

/// A text that no front end can call something.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} cannot be an identifier: it has 1 to 255 printable ASCII characters and no space")]
pub struct InvalidForeignId(String);

impl ForeignId {
    const MAX_LEN: usize = 255;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ForeignId {
    type Err = InvalidForeignId;
    fn from_str(text: &str) -> Result<Self, InvalidForeignId> {
        let is_valid =
            (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if is_valid { Ok(Self(text.to_owned())) } else { Err(InvalidForeignId(text.to_owned())) }
    }
}

impl fmt::Display for ForeignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// For whom an endpoint was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Who asked for it.
    pub front_end: FrontEnd,
    /// What it calls the network: the name in a CNI or netavark configuration, the id of Docker's network.
    pub network: ForeignId,
    /// What it calls the attachment; with the interface's name for those who attach a container more than once: CNI's
    /// container id, netavark's, Docker's endpoint id.
    pub id: ForeignId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { front_end, network, id } = self;
        f.pad(&format!("{front_end}, network {network}, id {id}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_ends_ids_are_taken_as_they_are_if_they_can_be_shown_and_stored() {
        for good in ["a", "0123456789abcdef", "pod_1.x-y", &"f".repeat(255)] {
            assert_eq!(good.parse::<ForeignId>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "ä", &"f".repeat(256)] {
            assert!(bad.parse::<ForeignId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_owner_is_stored_under_names_that_stay() {
        let json = r#"{"front_end":"cni","network":"blue","id":"4f2a"}"#;
        let owner: Owner = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&owner).unwrap(), json);
        assert_eq!(owner.to_string(), "cni, network blue, id 4f2a");
    }
}
