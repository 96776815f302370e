//! Which store, and how it knows us.

use std::{fmt, fs, io, path::Path};

/// A store's address with what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `SCHEME://…`; holds no secrets.
    pub url: String,
    /// Credentials and certificates.
    pub access: Access,
}

impl From<&str> for Target {
    /// A store that is open to everybody.
    fn from(url: &str) -> Self {
        Self { url: url.to_owned(), access: Access::default() }
    }
}

/// How a store over the network knows us, and we it. All that is absent is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Consul's ACL token.
    pub token: Option<Secret>,
    /// User of etcd, or of ZooKeeper's digest scheme.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
    /// TLS; without it connections are in the clear.
    pub tls: Option<Tls>,
}

/// How a connection is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates (PEM) of the authorities that servers are signed by; the system's if absent.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and its key (PEM), for servers that ask for one.
    pub identity: Option<(Vec<u8>, Secret)>,
}

/// What must not appear in logs, errors or process lists.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The first line of a file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        Ok(Self(text.lines().next().unwrap_or_default().to_owned()))
    }

    /// A whole file, such as a private key.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_whole(path: &Path) -> io::Result<Self> {
        fs::read_to_string(path).map(Self)
    }

    /// The secret itself: for the store's protocol and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
