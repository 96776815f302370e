//! What opens the store: flags of the daemon and of the commands that go to a store themselves, and a table of
//! the configuration file. Secrets come from files: a command line can be read by everybody.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Deserialize;

use crate::store::{Access, Secret, Tls};

/// Where credentials and certificates lie; the file has them in its table `[store_access]`, without `store-`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AccessSettings {
    /// File with the token for Consul
    #[arg(long = "store-token-file", value_name = "FILE", env = "OVERLAY_STORE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// User of the store (etcd, ZooKeeper)
    #[arg(long = "store-user", value_name = "NAME", env = "OVERLAY_STORE_USER")]
    user: Option<String>,
    /// File with that user's password
    #[arg(long = "store-password-file", value_name = "FILE", env = "OVERLAY_STORE_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// Speak TLS with the store [default: true if a certificate is named]
    #[arg(long = "store-tls", value_name = "BOOL", env = "OVERLAY_STORE_TLS", num_args = 0..=1, default_missing_value = "true")]
    tls: Option<bool>,
    /// Certificates (PEM) of the authorities that sign the store's servers [default: the system's]
    #[arg(long = "store-ca", value_name = "FILE", env = "OVERLAY_STORE_CA")]
    ca: Option<PathBuf>,
    /// Our own certificate (PEM), where the store asks for one
    #[arg(long = "store-cert", value_name = "FILE", env = "OVERLAY_STORE_CERT")]
    cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long = "store-key", value_name = "FILE", env = "OVERLAY_STORE_KEY")]
    key: Option<PathBuf>,
}

/// Why a store cannot be opened with what was given.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("cannot read {path}, which is to open the store: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of two that go together.
    #[error("{given} needs {missing} too")]
    Half {
        /// The flag that was given.
        given: &'static str,
        /// The flag that was not.
        missing: &'static str,
    },
}

impl AccessSettings {
    /// These settings, and the other's where these have none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            token_file: self.token_file.or(other.token_file),
            user: self.user.or(other.user),
            password_file: self.password_file.or(other.password_file),
            tls: self.tls.or(other.tls),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// If one cannot be read, or one of a pair is missing.
    pub fn read(&self) -> Result<Access, AccessError> {
        let pair = (&self.user, &self.password_file);
        check_pair(pair.0.is_some(), "--store-user", pair.1.is_some(), "--store-password-file")?;
        check_pair(self.cert.is_some(), "--store-cert", self.key.is_some(), "--store-key")?;
        Ok(Access {
            token: read(self.token_file.as_deref(), Secret::read)?,
            user: self.user.clone(),
            password: read(self.password_file.as_deref(), Secret::read)?,
            tls: self.read_tls()?,
        })
    }

    fn read_tls(&self) -> Result<Option<Tls>, AccessError> {
        if !self.tls.unwrap_or(self.ca.is_some() || self.cert.is_some()) {
            return Ok(None);
        }
        let ca = read(self.ca.as_deref(), |path| fs::read(path))?;
        let certificate = read(self.cert.as_deref(), |path| fs::read(path))?;
        let key = read(self.key.as_deref(), Secret::read_whole)?;
        Ok(Some(Tls { ca, identity: certificate.zip(key) }))
    }
}

fn check_pair(a: bool, flag_a: &'static str, b: bool, flag_b: &'static str) -> Result<(), AccessError> {
    match (a, b) {
        (true, false) => Err(AccessError::Half { given: flag_a, missing: flag_b }),
        (false, true) => Err(AccessError::Half { given: flag_b, missing: flag_a }),
        _ => Ok(()),
    }
}

/// What a file holds, if one is named.
fn read<T>(
    path: Option<&Path>,
    reading: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<Option<T>, AccessError> {
    let error = |path: &Path, source| AccessError::Read { path: path.to_owned(), source };
    path.map(|path| reading(path).map_err(|source| error(path, source))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "geheim\n").unwrap();
        let settings = AccessSettings { token_file: Some(file), ..AccessSettings::default() };
        let access = settings.read().unwrap();
        assert_eq!(access.token.as_ref().map(Secret::expose), Some("geheim"));
        assert!(!format!("{access:?}").contains("geheim"));
    }

    #[test]
    fn half_of_a_pair_is_refused_with_the_other_flag() {
        let user = AccessSettings { user: Some("root".to_owned()), ..AccessSettings::default() };
        assert_eq!(user.read().unwrap_err().to_string(), "--store-user needs --store-password-file too");
        let key = AccessSettings { key: Some("k".into()), ..AccessSettings::default() };
        assert_eq!(key.read().unwrap_err().to_string(), "--store-key needs --store-cert too");
    }

    #[test]
    fn a_certificate_means_tls_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        fs::write(&file, "pem").unwrap();
        let with_ca = AccessSettings { ca: Some(file.clone()), ..AccessSettings::default() };
        assert_eq!(with_ca.read().unwrap().tls.unwrap().ca.unwrap(), b"pem");
        let off = AccessSettings { tls: Some(false), ..with_ca };
        assert_eq!(off.read().unwrap().tls, None);
        assert_eq!(AccessSettings::default().read().unwrap().tls, None);
        let missing = AccessSettings { ca: Some(dir.path().join("none")), ..AccessSettings::default() };
        assert!(missing.read().unwrap_err().to_string().contains("none, which is to open the store"));
    }
}
