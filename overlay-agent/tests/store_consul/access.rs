//! Tokens and certificates.

use std::{path::Path, sync::Arc};

use overlay_agent::store::{self, Access, Secret, Store, StoreError, Target, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use xtask::servers::Server;

use crate::{put, server};

const MASTER: &str = "8d4ab7e2-55d1-4a1e-9a8e-0c1c65e3b0aa";
const STRANGER: &str = "11111111-2222-3333-4444-555555555555";

async fn open_as(url: &str, token: Option<&str>) -> Result<Arc<dyn Store>, StoreError> {
    let access = Access { token: token.map(Secret::from), ..Access::default() };
    store::open(&Target { url: url.to_owned(), access }).await
}

/// A server with more settings than all have.
fn server_with(dir: &tempfile::TempDir, settings: &str) -> Server {
    std::fs::write(dir.path().join("more.hcl"), settings).unwrap();
    server(dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_a_store_and_others_are_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let acl = format!(
        "acl {{ enabled = true default_policy = \"deny\" tokens {{ master = \"{MASTER}\" agent = \"{MASTER}\" }} }}"
    );
    let server = server_with(&dir, &acl);
    let url = format!("{}/t", server.url());
    let store = loop {
        // The token is there a moment after the leader.
        if let Ok(store) = open_as(&url, Some(MASTER)).await {
            break store;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    put(&*store, "t/key", 1).await;
    store.grant_lease(std::time::Duration::from_secs(60)).await.unwrap();
    for token in [None, Some(STRANGER)] {
        let error = match open_as(&url, token).await {
            Ok(store) => store.list("t/").await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("permission denied") && text.contains("--store-token-file"), "{text}");
        assert!(!text.contains(STRANGER), "{text}");
    }
    let garbage = open_as(&url, Some("no\ttoken")).await.err().unwrap();
    assert!(matches!(garbage, StoreError::Unusable { .. }), "{garbage:?}");
    let user = Access { user: Some("root".to_owned()), ..Access::default() };
    let user = store::open(&Target { url, access: user }).await.err().unwrap().to_string();
    assert!(user.contains("use --store-token-file"), "{user}");
}

/// An authority, and a server that serves only whom it signed.
struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { authority: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn ca(&self) -> Vec<u8> {
        self.authority.pem().into_bytes()
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (Vec<u8>, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem())
    }

    fn tls(&self) -> Tls {
        let (certificate, key) = self.sign("agent");
        Tls { ca: Some(self.ca()), identity: Some((certificate, Secret::from(key.as_str()))) }
    }

    /// Settings of a server, and where it speaks TLS.
    fn settings(&self, dir: &Path) -> (String, u16) {
        let (certificate, key) = self.sign("127.0.0.1");
        let write = |file: &str, content: &[u8]| {
            let path = dir.join(file);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "ports {{ https = {port} }}\ncert_file = {:?}\nkey_file = {:?}\nca_file = {:?}\n\
             verify_incoming_https = true\n",
            write("cert.pem", &certificate),
            write("key.pem", key.as_bytes()),
            write("ca.pem", &self.ca()),
        );
        (settings, port)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_open_a_store_and_others_are_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new("ours");
    let (settings, port) = pki.settings(dir.path());
    let server = server_with(&dir, &settings);
    let open_with = async |port: u16, tls: Option<Tls>| {
        let url = format!("consul://127.0.0.1:{port}");
        store::open(&Target { url, access: Access { tls, ..Access::default() } }).await
    };
    put(&*open_with(port, Some(pki.tls())).await.unwrap(), "t/key", 1).await;

    let unknown = Tls { ca: Some(Pki::new("others").ca()), ..pki.tls() };
    let anonymous = Tls { identity: None, ..pki.tls() };
    for (port, tls, remedy) in [
        (port, Some(unknown), "check --store-ca"),
        (port, Some(anonymous), "--store-cert and --store-key"),
        (port, None, "if the server speaks TLS, use --store-tls"),
        (server.address().port(), Some(pki.tls()), "if the server does not speak TLS, leave --store-tls out"),
    ] {
        let mut error = open_with(port, tls.clone()).await.err().unwrap().to_string();
        // Beside a server that holds ten thousands of keys, this one may be late.
        for _ in 0..5 {
            if !error.contains("no answer within") {
                break;
            }
            error = open_with(port, tls.clone()).await.err().unwrap().to_string();
        }
        assert!(error.contains(remedy), "{error}");
    }
    let broken = Tls { ca: Some(b"no certificate".to_vec()), identity: None };
    let error = open_with(port, Some(broken)).await.err().unwrap();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
}
