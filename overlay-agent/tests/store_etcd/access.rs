//! Users and certificates.

use etcd_client::{Client, ConnectOptions, Permission, PermissionType, TlsOptions};
use overlay_agent::store::{self, Access, Revision, Secret, Store, StoreError, Target, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::{path::Path, sync::Arc};
use xtask::servers::Server;

use crate::{
    in_a_minute,
    member::{Member, administrator},
    put, server, values_until, watch_from_now,
};

const PASSWORD: &str = "not in any error";

async fn open_as(url: &str, user: &str, password: &str) -> Result<Arc<dyn Store>, StoreError> {
    let access = Access { user: Some(user.to_owned()), password: Some(password.into()), ..Access::default() };
    store::open(&Target { url: url.to_owned(), access }).await
}

/// A server that asks who one is, and lets `overlay` write below `t/`.
async fn with_users(server: &Server) {
    let mut root = Client::connect([server.address().to_string()], None).await.unwrap();
    for user in ["root", "overlay", "stranger"] {
        root.user_add(user, PASSWORD, None).await.unwrap();
    }
    for role in ["root", "overlay"] {
        root.role_add(role).await.unwrap();
        root.user_grant_role(role, role).await.unwrap();
    }
    let below = Permission::new(PermissionType::Readwrite, "t/").with_prefix();
    root.role_grant_permission("overlay", below).await.unwrap();
    root.auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_known_by_name_and_password_and_others_are_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    with_users(&server).await;
    let url = format!("{}/t", server.url());

    let store = open_as(&url, "overlay", PASSWORD).await.unwrap();
    put(&*store, "t/key", 1).await;

    let nobody = store::open(&url.as_str().into()).await.err().unwrap();
    assert!(nobody.to_string().contains("use --store-user and --store-password-file"), "{nobody}");
    let wrong = open_as(&url, "overlay", "guess").await.err().unwrap();
    assert!(wrong.to_string().contains("check --store-user and --store-password-file"), "{wrong}");
    let stranger = open_as(&url, "stranger", PASSWORD).await.unwrap().list("t/").await.unwrap_err();
    assert!(stranger.to_string().contains("permission denied; grant the user a role"), "{stranger}");
    let all = open_as(&server.url(), "overlay", PASSWORD).await.unwrap();
    assert_eq!(
        all.list("t/t/").await.unwrap().entries.len(),
        1,
        "what he may read does not hang on the prefix"
    );
    let elsewhere = all.watch("other/", Revision(0)).await.err().unwrap();
    assert!(elsewhere.to_string().contains("permission denied"), "{elsewhere}");
    for error in [nobody, wrong, stranger, elsewhere] {
        assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
        assert!(!error.to_string().contains(PASSWORD), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_where_nobody_is_asked_for_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let error = open_as(&server.url(), "overlay", PASSWORD).await.err().unwrap();
    assert!(error.to_string().contains("leave out --store-user"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_no_longer_valid_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    with_users(&server).await;
    let store = open_as(&format!("{}/t", server.url()), "overlay", PASSWORD).await.unwrap();
    let mut watch = watch_from_now(&*store).await;
    put(&*store, "t/key", 1).await;
    // Whoever gets a password, even the same, must show it again.
    let as_root = ConnectOptions::new().with_user("root", PASSWORD);
    let mut root = Client::connect([server.address().to_string()], Some(as_root)).await.unwrap();
    root.user_change_password("overlay", PASSWORD).await.unwrap();
    put(&*store, "t/key", 2).await;
    root.user_change_password("overlay", PASSWORD).await.unwrap();
    server.kill();
    server.resume().unwrap();
    assert_eq!(in_a_minute(values_until(&mut watch, 2)).await, [1, 2]);
    put(&*store, "t/key", 3).await;
    assert_eq!(in_a_minute(values_until(&mut watch, 3)).await, [3]);
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

    fn server(&self, dir: &Path, name: &str) -> Member {
        let (certificate, key) = self.sign(name);
        let write = |file: &str, content: &[u8]| {
            let path = dir.join(file);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let arguments = [
            "--cert-file".to_owned(),
            write("cert.pem", &certificate),
            "--key-file".to_owned(),
            write("key.pem", key.as_bytes()),
            "--trusted-ca-file".to_owned(),
            write("ca.pem", &self.ca()),
            "--client-cert-auth".to_owned(),
        ];
        Member::alone(dir, "https", &arguments)
    }

    async fn wait_for(&self, member: &Member) {
        let (certificate, key) = self.sign("administrator");
        let tls = TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(self.ca()))
            .identity(etcd_client::Identity::from_pem(certificate, key))
            .domain_name("127.0.0.1");
        let options = ConnectOptions::new().with_tls(tls);
        in_a_minute(administrator(&format!("https://{}", member.address()), options)).await;
    }
}

async fn open_with(member: &Member, tls: Option<Tls>) -> Result<Arc<dyn Store>, StoreError> {
    let url = format!("etcd://{}", member.address());
    store::open(&Target { url, access: Access { tls, ..Access::default() } }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_open_a_store_and_others_are_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new("ours");
    let member = pki.server(dir.path(), "127.0.0.1");
    pki.wait_for(&member).await;
    let store = open_with(&member, Some(pki.tls())).await.unwrap();
    put(&*store, "t/key", 1).await;

    let unknown = Tls { ca: Some(Pki::new("others").ca()), ..pki.tls() };
    let anonymous = Tls { identity: None, ..pki.tls() };
    let foreign = Tls { identity: Pki::new("others").tls().identity, ..pki.tls() };
    for (tls, remedy) in [
        (Some(unknown), "with --store-ca"),
        (Some(anonymous), "if it asks for a certificate, use --store-cert and --store-key"),
        (Some(foreign), "check --store-cert and --store-key"),
        (None, "if the store speaks TLS, use --store-tls"),
    ] {
        let error = open_with(&member, tls).await.err().unwrap().to_string();
        assert!(error.contains(remedy), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_the_clear_and_a_file_that_holds_no_certificate_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let tls =
        |ca: &[u8]| Access { tls: Some(Tls { ca: Some(ca.to_vec()), identity: None }), ..Access::default() };
    let clear = store::open(&Target { url: server.url(), access: tls(&Pki::new("others").ca()) }).await;
    let clear = clear.err().unwrap().to_string();
    assert!(clear.contains("if the store does not speak TLS"), "{clear}");
    let broken = b"-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n";
    let error = store::open(&Target { url: server.url(), access: tls(broken) }).await.err().unwrap();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
}
