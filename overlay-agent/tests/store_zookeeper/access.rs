//! Users and certificates.

use std::{path::Path, sync::Arc};

use overlay_agent::store::{self, Access, Secret, Store, StoreError, Target, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::{anywhere, in_a_minute, member::Member, put};

const PASSWORD: &str = "not in any error";

async fn open_as(url: &str, user: &str, password: &str) -> Result<Arc<dyn Store>, StoreError> {
    let access = Access { user: Some(user.to_owned()), password: Some(password.into()), ..Access::default() };
    store::open(&Target { url: url.to_owned(), access }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_belong_to_the_user_that_made_them_and_others_are_told_what_to_do() {
    let url = anywhere().await;
    let store = open_as(&url, "overlay", PASSWORD).await.unwrap();
    put(&*store, "t/key", 1).await;
    assert!(open_as(&url, "overlay", PASSWORD).await.unwrap().get("t/key").await.unwrap().is_some());

    let nobody = store::open(&url.as_str().into()).await.unwrap();
    let wrong = open_as(&url, "overlay", "guess").await.unwrap();
    for store in [nobody, wrong] {
        for error in [store.get("t/key").await.unwrap_err(), store.list("t/").await.unwrap_err()] {
            assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
            assert!(error.to_string().contains("--store-user and --store-password-file"), "{error}");
            assert!(!error.to_string().contains(PASSWORD), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refused_since_zookeeper_knows_none() {
    let access = Access { token: Some("x".into()), ..Access::default() };
    let error = store::open(&Target { url: "zookeeper://a".to_owned(), access }).await.err().unwrap();
    assert!(error.to_string().contains("use --store-user"), "{error}");
}

/// An authority that signs servers and clients.
struct Pki(CertifiedIssuer<'static, KeyPair>);

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn tls(&self) -> Tls {
        let (certificate, key) = self.sign("agent");
        let identity = Some((certificate.into_bytes(), Secret::from(key.as_str())));
        Tls { ca: Some(self.0.pem().into_bytes()), identity }
    }

    /// A server that serves only whom this authority signed.
    async fn server(&self, dir: &Path, name: &str) -> Member {
        let (certificate, key) = self.sign(name);
        let (own, trusted) = (dir.join("server.pem"), dir.join("ca.pem"));
        std::fs::write(&own, key + &certificate).unwrap();
        std::fs::write(&trusted, self.0.pem()).unwrap();
        let member = Member::alone(dir, |member| {
            format!(
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
                 secureClientPort={}\nssl.keyStore.location={}\nssl.keyStore.type=PEM\n\
                 ssl.trustStore.location={}\nssl.trustStore.type=PEM\nssl.clientAuth=need\n",
                member.tls_port(),
                own.display(),
                trusted.display()
            )
        });
        in_a_minute(member.serve()).await;
        member
    }
}

async fn open_with(member: &Member, tls: Option<Tls>) -> Result<Arc<dyn Store>, StoreError> {
    let url = format!("zookeeper://127.0.0.1:{}/t", member.tls_port());
    store::open(&Target { url, access: Access { tls, ..Access::default() } }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_certificates_and_wrong_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, other) = (Pki::new("ours"), Pki::new("theirs"));
    let server = pki.server(dir.path(), "127.0.0.1").await;
    let store = open_with(&server, Some(pki.tls())).await.unwrap();
    put(&*store, "t/key", 1).await;
    let lease = store.grant_lease(std::time::Duration::from_secs(9)).await.unwrap();
    store.revoke(lease).await.unwrap();

    let untrusted = Tls { ca: Some(other.0.pem().into_bytes()), ..pki.tls() };
    let unsigned = Tls { identity: other.tls().identity, ..pki.tls() };
    let anonymous = Tls { identity: None, ..pki.tls() };
    for tls in [Some(untrusted), Some(unsigned), Some(anonymous), None] {
        let wanted = if tls.is_some() { "--store-ca, --store-cert" } else { "--store-tls" };
        let error = open_with(&server, tls).await.err().unwrap();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let broken = Tls { ca: Some(b"no PEM".to_vec()), identity: None };
    let error = open_with(&server, Some(broken)).await.err().unwrap();
    assert!(error.to_string().contains("--store-ca holds no certificate"), "{error}");
}
