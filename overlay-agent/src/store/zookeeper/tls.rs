//! TLS as the client library wants it.

use std::{env, fs, path::PathBuf};

use rustls::crypto::aws_lc_rs;
use zookeeper_client::TlsOptions;

use crate::store::Tls;

/// Where systems keep the certificates of the authorities that they trust, all in one file.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The library's options, or why there are none and what to do.
pub(super) fn options(tls: &Tls) -> Result<TlsOptions, String> {
    // Another store's client may bring in another cryptography; the library takes the process's default and
    // panics where two could be meant. Whoever set one first is right.
    let _ = aws_lc_rs::default_provider().install_default();
    let authorities = match &tls.ca {
        Some(ca) => String::from_utf8(ca.clone()).map_err(|_| "--store-ca is no PEM file".to_owned())?,
        None => system_authorities()?,
    };
    let options = TlsOptions::new()
        .with_pem_ca(&authorities)
        .map_err(|error| format!("--store-ca holds no certificate to trust: {error}"))?;
    let Some((certificate, key)) = &tls.identity else { return Ok(options) };
    let certificate = str::from_utf8(certificate).map_err(|_| "--store-cert is no PEM file".to_owned())?;
    options
        .with_pem_identity(certificate, key.expose())
        .map_err(|error| format!("--store-cert and --store-key do not fit: {error}"))
}

fn system_authorities() -> Result<String, String> {
    let named = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let places = named.into_iter().chain(SYSTEM.map(PathBuf::from));
    let found = places.filter_map(|path| fs::read_to_string(path).ok()).next();
    found.ok_or_else(|| "the system has no file of trusted authorities: name one with --store-ca".to_owned())
}
