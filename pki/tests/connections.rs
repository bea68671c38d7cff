//! Real TLS connections over loopback: who is let in, who is refused, and what each side is told.

#![expect(clippy::unwrap_used, reason = "a step that fails here fails its test")]

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_pki::{
    Accepted, Allow, Authority, Credentials, Expect, Identity, Incoming, Issued, Limits, PeerRefusal, Problem, Role,
    Trust, Validity, accept, anonymous_client_config, connect, explain,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;

/// Far longer than anything here takes; a test that needs it has failed.
const LONG: Duration = Duration::from_secs(20);

fn authority(cluster: &str) -> Authority {
    Authority::generate(cluster, Validity::days(SystemTime::now(), 10)).unwrap()
}

fn issue(authority: &Authority, role: Role, name: &str) -> Issued {
    let identity = Identity::new(authority.cluster(), role, name).unwrap();
    authority.issue(&identity, &[], Validity::days(SystemTime::now(), 1)).unwrap()
}

fn credentials(authority: &Authority, role: Role, name: &str) -> Credentials {
    Credentials::from_issued(&issue(authority, role, name)).unwrap()
}

/// Serves as `controller c1` of `authority`.
async fn serve(authority: &Authority, allow: Allow, limits: Limits) -> (Incoming, SocketAddr) {
    serve_with(&credentials(authority, Role::Controller, "c1"), allow, limits).await
}

async fn serve_with(credentials: &Credentials, allow: Allow, limits: Limits) -> (Incoming, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (accept(listener, credentials.server_config(allow), limits), address)
}

async fn next(incoming: &mut Incoming) -> Accepted {
    incoming.next().await.unwrap().unwrap()
}

fn controller() -> Expect {
    Expect::any(Role::Controller)
}

/// Why a client with this configuration fails.
async fn problem(address: SocketAddr, config: Arc<ClientConfig>) -> Problem {
    connect(&address.to_string(), config, LONG).await.unwrap_err().problem
}

/// A client that believes every server: what an attacker would use, and what our own client would never be.
fn believing(issued: Option<&Issued>, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer));
    let mut config = match issued {
        Some(issued) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Believer;

impl rustls::client::danger::ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The log of this thread, line by line, while the guard lives.
fn log() -> (mpsc::UnboundedReceiver<String>, tracing::subscriber::DefaultGuard) {
    #[derive(Clone)]
    struct Lines(mpsc::UnboundedSender<String>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (sender, lines) = mpsc::unbounded_channel();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter("berth_pki=debug")
        .with_writer(move || Lines(sender.clone()))
        .finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

/// Reads the log up to the line that has all of these words.
async fn logged(lines: &mut mpsc::UnboundedReceiver<String>, words: &[&str]) {
    let mut seen = String::new();
    let found = async {
        loop {
            let line = lines.recv().await.unwrap();
            if words.iter().all(|word| line.contains(word)) {
                return;
            }
            seen.push_str(&line);
        }
    };
    let in_time = tokio::time::timeout(LONG, found).await;
    assert!(in_time.is_ok(), "no line with {words:?} in:\n{seen}");
}

/// A good client still gets through.
async fn still_serves(incoming: &mut Incoming, address: SocketAddr, authority: &Authority) {
    let client = credentials(authority, Role::Controller, "c2").client_config(controller());
    connect(&address.to_string(), client, LONG).await.unwrap();
    assert_eq!(next(incoming).await.peer.name(), "c2");
}

#[tokio::test]
async fn members_of_one_cluster_meet_and_each_knows_the_other() {
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::only([Role::Host]), Limits::default()).await;
    let host = credentials(&lab, Role::Host, "h1");
    for expect in [controller(), Expect::named(Role::Controller, "c1")] {
        let mut client = connect(&address.to_string(), host.client_config(expect), LONG).await.unwrap();
        let mut server = next(&mut incoming).await;
        assert_eq!(server.peer.to_string(), "berth://lab/host/h1");
        assert_eq!(server.peer_addr, client.get_ref().0.local_addr().unwrap());
        let (_, tls) = client.get_ref();
        assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
        let seen = Identity::from_certificate(&tls.peer_certificates().unwrap()[0]).unwrap();
        assert_eq!(seen.to_string(), "berth://lab/controller/c1");

        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        server.write_all(b"pong").await.unwrap();
        server.shutdown().await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"pong");
    }
}

#[tokio::test]
async fn what_the_server_says_at_once_is_not_lost_to_the_wait_for_acceptance() {
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    let config = credentials(&lab, Role::Host, "h1").client_config(controller());
    let speaking = tokio::spawn(async move {
        let mut server = next(&mut incoming).await;
        server.write_all(&[7; 10_000]).await.unwrap();
        server.shutdown().await.unwrap();
        // Kept open until the client closes.
        let _ = server.read(&mut [0]).await;
    });
    let mut client = connect(&address.to_string(), config, LONG).await.unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [7; 10_000]);
    drop(client);
    speaking.await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_and_told_so() {
    let (mut lines, _guard) = log();
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    let trust = Trust::from_pem("lab", lab.cert_pem().as_bytes()).unwrap();
    let found = problem(address, anonymous_client_config(trust, controller())).await;
    assert_eq!(found, Problem::NoCertificate);
    assert!(found.is_ours());
    assert!(found.to_string().contains("wants a client certificate"), "{found}");
    logged(&mut lines, &["handshake failed", "127.0.0.1", "peer sent no certificates"]).await;
    still_serves(&mut incoming, address, &lab).await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_even_if_its_cluster_has_the_same_id() {
    let (mut lines, _guard) = log();
    let (lab, twin) = (authority("lab"), authority("lab"));
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    let intruder = issue(&twin, Role::Operator, "eve");

    // Our own client looks at the server first.
    let honest = Credentials::from_issued(&intruder).unwrap().client_config(controller());
    assert_eq!(problem(address, honest).await, Problem::ServerOfOtherCa);
    logged(&mut lines, &["handshake failed", "received fatal alert", "UnknownCA"]).await;

    // One that trusts both is refused by the server.
    let both = format!("{}{}", lab.cert_pem(), twin.cert_pem());
    let both = Credentials::from_pem(both.as_bytes(), intruder.cert_pem.as_bytes(), intruder.key_pem.as_bytes());
    let found = problem(address, both.unwrap().client_config(controller())).await;
    assert_eq!(found, Problem::CertificateOfOtherCa);
    logged(&mut lines, &["client certificate refused", "127.0.0.1", "not issued by this cluster's CA"]).await;
    still_serves(&mut incoming, address, &lab).await;
}

#[tokio::test]
async fn another_cluster_is_refused_by_either_side() {
    let (mut lines, _guard) = log();
    let (lab, other) = (authority("lab"), authority("other"));
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    let stranger = issue(&other, Role::Operator, "eve");

    let honest = Credentials::from_issued(&stranger).unwrap().client_config(controller());
    assert_eq!(problem(address, honest).await, Problem::ServerOfOtherCa);
    assert_eq!(problem(address, believing(Some(&stranger), TLS13)).await, Problem::CertificateOfOtherCa);

    // One CA that issued for two clusters, as after a careless copy: the cluster's id decides.
    let elsewhere = credentials_of_two_clusters(&lab, "other", Role::Operator);
    let honest = Credentials::from_issued(&elsewhere).unwrap().client_config(controller());
    let found = problem(address, honest).await;
    let Problem::ServerIsOther(PeerRefusal::OtherCluster { expected, presented }) = found else {
        panic!("{found:?}");
    };
    assert_eq!((expected.as_str(), presented.to_string().as_str()), ("other", "berth://lab/controller/c1"));
    assert_eq!(problem(address, believing(Some(&elsewhere), TLS13)).await, Problem::CertificateOfOtherCluster);
    logged(&mut lines, &["client certificate refused", "berth://other/operator/x", "this is cluster \"lab\""]).await;
    still_serves(&mut incoming, address, &lab).await;
}

/// A certificate of cluster `cluster` under the key of another cluster's CA; `Authority` itself refuses to issue it.
fn credentials_of_two_clusters(lab: &Authority, cluster: &str, role: Role) -> Issued {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
    let pem = lab.to_pem();
    let issuer = Issuer::from_ca_cert_pem(&pem.cert_pem, KeyPair::from_pem(&pem.key_pem).unwrap()).unwrap();
    let identity = Identity::new(cluster, role, "x").unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert_pem = params.signed_by(&key, &issuer).unwrap().pem();
    Issued { identity, ca_pem: pem.cert_pem, cert_pem, key_pem: key.serialize_pem().into() }
}

#[tokio::test]
async fn a_role_that_is_not_allowed_is_refused_in_the_handshake() {
    let (mut lines, _guard) = log();
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::only([Role::Controller]), Limits::default()).await;
    for role in [Role::Host, Role::Operator, Role::Facade, Role::Scraper] {
        let client = credentials(&lab, role, "x1").client_config(controller());
        let found = problem(address, client).await;
        assert_eq!(found, Problem::RoleRefused);
        assert!(found.to_string().contains("another role"), "{found}");
        let who = format!("berth://lab/{role}/x1");
        logged(&mut lines, &["client certificate refused", &who, "expected here: controller"]).await;
    }
    still_serves(&mut incoming, address, &lab).await;
}

#[tokio::test]
async fn a_client_refuses_a_server_of_another_role_or_name() {
    let (mut lines, _guard) = log();
    let lab = authority("lab");
    let (_incoming, address) =
        serve_with(&credentials(&lab, Role::Host, "h1"), Allow::AnyRole, Limits::default()).await;
    let client = credentials(&lab, Role::Controller, "c1");
    let found = problem(address, client.client_config(controller())).await;
    assert!(matches!(&found, Problem::ServerIsOther(PeerRefusal::WrongRole { .. })), "{found:?}");
    assert!(found.to_string().contains("berth://lab/host/h1 is in the role host"), "{found}");
    logged(&mut lines, &["handshake failed", "received fatal alert"]).await;
    let found = problem(address, client.client_config(Expect::named(Role::Host, "h2"))).await;
    assert!(matches!(&found, Problem::ServerIsOther(PeerRefusal::WrongName { .. })), "{found:?}");
    assert!(!found.is_ours());
}

#[tokio::test]
async fn a_role_that_only_calls_cannot_pose_as_a_server() {
    let lab = authority("lab");
    let (_incoming, address) =
        serve_with(&credentials(&lab, Role::Operator, "eve"), Allow::AnyRole, Limits::default()).await;
    let client = credentials(&lab, Role::Host, "h1");
    let found = problem(address, client.client_config(Expect::any(Role::Operator))).await;
    assert!(matches!(&found, Problem::ServerCertificate(_)), "{found:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_the_server_and_at_loading() {
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    let identity = Identity::new("lab", Role::Operator, "late").unwrap();
    let hour = Duration::from_secs(3600);
    let past = Validity::starting(SystemTime::now() - 2 * hour, hour);
    let expired = lab.issue(&identity, &[], past).unwrap();
    assert_eq!(problem(address, believing(Some(&expired), TLS13)).await, Problem::CertificateExpired);
    let message = Credentials::from_issued(&expired).unwrap_err().to_string();
    assert!(message.contains("berth://lab/operator/late") && message.contains("expired"), "{message}");
    still_serves(&mut incoming, address, &lab).await;
}

#[tokio::test]
async fn tls_1_2_and_plain_text_are_refused() {
    let (mut lines, _guard) = log();
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    let old = believing(Some(&issue(&lab, Role::Operator, "old")), &[&rustls::version::TLS12]);
    let found = problem(address, old).await;
    assert!(matches!(&found, Problem::Tls(why) if why.contains("ProtocolVersion")), "{found:?}");

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    logged(&mut lines, &["handshake failed", "corrupt message"]).await;
    still_serves(&mut incoming, address, &lab).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = credentials(&lab, Role::Operator, "o").client_config(controller());
    let (found, ()) = tokio::join!(problem(address, client), async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    });
    assert_eq!(found, Problem::NotTls);
}

#[tokio::test]
async fn stalled_handshakes_do_not_hold_up_others() {
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits { handshake: LONG, handshakes: 20 }).await;
    let mut stalled = Vec::new();
    for _ in 0..19 {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        // The head of a record whose body never comes.
        tcp.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        stalled.push(tcp);
    }
    for _ in 0..5 {
        still_serves(&mut incoming, address, &lab).await;
    }
}

#[tokio::test]
async fn a_stalled_handshake_gives_up_its_place_at_its_deadline() {
    let (mut lines, _guard) = log();
    let lab = authority("lab");
    let limits = Limits { handshake: Duration::from_secs(2), handshakes: 1 };
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, limits).await;
    let mut stalled = TcpStream::connect(address).await.unwrap();
    logged(&mut lines, &["not finished within 2 s"]).await;
    assert_eq!(stalled.read(&mut [0]).await.unwrap(), 0, "closed");
    still_serves(&mut incoming, address, &lab).await;
}

#[tokio::test]
async fn many_clients_at_once_all_get_in() {
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits { handshakes: 8, ..Limits::default() }).await;
    let config = credentials(&lab, Role::Operator, "o").client_config(controller());
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let config = config.clone();
            tokio::spawn(async move { connect(&address.to_string(), config, LONG).await.map(drop) })
        })
        .collect();
    for _ in 0..100 {
        next(&mut incoming).await;
    }
    for client in clients {
        client.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn dropping_the_stream_closes_the_port_and_spares_connections() {
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    let config = credentials(&lab, Role::Operator, "o").client_config(controller());
    let mut client = connect(&address.to_string(), config.clone(), LONG).await.unwrap();
    let mut server = next(&mut incoming).await;
    drop(incoming);
    // The accepting task ends at its next turn; until then the kernel may still take a connection and drop it.
    while !matches!(problem(address, config.clone()).await, Problem::Refused) {
        tokio::task::yield_now().await;
    }
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn refusal_silence_and_hanging_up_are_told_apart() {
    let lab = authority("lab");
    let config = || credentials(&lab, Role::Operator, "o").client_config(controller());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();

    let silent = connect(&address.to_string(), config(), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(silent.problem, Problem::TimedOut);
    assert!(silent.to_string().starts_with(&format!("cannot connect to {address}: no answer in time")), "{silent}");
    assert_eq!(io::Error::from(silent).kind(), io::ErrorKind::TimedOut);
    drop(listener.accept().await.unwrap());

    let (found, ()) = tokio::join!(problem(address, config()), async {
        drop(listener.accept().await.unwrap());
    });
    assert_eq!(found, Problem::Closed);

    drop(listener);
    assert_eq!(problem(address, config()).await, Problem::Refused);
    let unknown = connect("no-such-host.invalid:1", config(), LONG).await.unwrap_err();
    assert!(matches!(unknown.problem, Problem::Unreachable(_)), "{unknown:?}");
    let odd = connect("no port", config(), LONG).await.unwrap_err();
    assert!(matches!(odd.problem, Problem::Unreachable(_)), "{odd:?}");
}

#[tokio::test]
async fn a_refusal_seen_at_the_first_read_is_explained_through_every_wrapping() {
    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Transport(#[source] Box<dyn std::error::Error + Send + Sync>);

    let lab = authority("lab");
    let (_incoming, address) = serve(&lab, Allow::only([Role::Controller]), Limits::default()).await;
    let config = credentials(&lab, Role::Host, "h1").client_config(controller());

    // A client that does not wait: its handshake succeeds, and the refusal comes with the first read.
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("ignored").unwrap();
    let mut tls = TlsConnector::from(config.clone()).connect(name, tcp).await.unwrap();
    let _ = tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let error = tls.read(&mut [0; 100]).await.unwrap_err();
    assert_eq!(explain(&error), Some(Problem::RoleRefused));
    let wrapped = Transport(Box::new(Transport(Box::new(error))));
    assert_eq!(explain(&wrapped), Some(Problem::RoleRefused));

    let error = connect(&address.to_string(), config, LONG).await.unwrap_err();
    assert_eq!(explain(&Transport(Box::new(io::Error::from(error)))), Some(Problem::RoleRefused));
    assert_eq!(explain(&"x".parse::<u8>().unwrap_err()), None);
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let lab = authority("lab");
    let (mut incoming, address) = serve(&lab, Allow::AnyRole, Limits::default()).await;
    // This configuration keeps tickets and would resume.
    let config = believing(Some(&issue(&lab, Role::Operator, "o")), TLS13);
    for _ in 0..3 {
        let client = connect(&address.to_string(), config.clone(), LONG).await.unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        let server = next(&mut incoming).await;
        assert_eq!(server.io.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

fn save(folder: &Path, issued: &Issued) -> Credentials {
    issued.save(folder).unwrap();
    Credentials::load(folder).unwrap()
}

#[tokio::test]
async fn certificates_and_ca_are_replaced_without_a_restart_and_spare_what_is_connected() {
    let (server_folder, client_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = authority("lab");
    let server = save(server_folder.path(), &issue(&old, Role::Controller, "c1"));
    let client = save(client_folder.path(), &issue(&old, Role::Host, "h1"));
    let (mut incoming, address) = serve_with(&server, Allow::AnyRole, Limits::default()).await;
    let config = client.client_config(controller());
    let (address, own) = (address.to_string(), |tls: &tokio_rustls::client::TlsStream<TcpStream>| {
        tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    });

    let mut first = connect(&address, config.clone(), LONG).await.unwrap();
    let mut first_server = next(&mut incoming).await;
    assert!(!server.reload().unwrap(), "nothing was replaced");

    // A new certificate of the same CA.
    issue(&old, Role::Controller, "c1").save(server_folder.path()).unwrap();
    assert!(server.reload().unwrap());
    let second = connect(&address, config.clone(), LONG).await.unwrap();
    assert_ne!(own(&first), own(&second));

    // A new CA: first everyone trusts both, then the certificates change, then the old CA goes.
    let new = authority("lab");
    let both = format!("{}{}", old.cert_pem(), new.cert_pem());
    for (folder, credentials) in [(&server_folder, &server), (&client_folder, &client)] {
        std::fs::write(folder.path().join("ca.pem"), &both).unwrap();
        assert!(!credentials.reload().unwrap());
    }
    connect(&address, config.clone(), LONG).await.unwrap();
    let mut issued = issue(&new, Role::Controller, "c1");
    issued.ca_pem.clone_from(&both);
    issued.save(server_folder.path()).unwrap();
    server.reload().unwrap();
    connect(&address, config.clone(), LONG).await.unwrap();
    issue(&new, Role::Host, "h1").save(client_folder.path()).unwrap();
    client.reload().unwrap();
    connect(&address, config.clone(), LONG).await.unwrap();
    std::fs::write(server_folder.path().join("ca.pem"), new.cert_pem()).unwrap();
    server.reload().unwrap();
    connect(&address, config, LONG).await.unwrap();
    let left_behind = believing(Some(&issue(&old, Role::Host, "h1")), TLS13);
    let found = connect(&address, left_behind, LONG).await.unwrap_err().problem;
    assert_eq!(found, Problem::CertificateOfOtherCa);

    first.write_all(b"x").await.unwrap();
    first.flush().await.unwrap();
    assert_eq!(first_server.read_u8().await.unwrap(), b'x', "the first connection lives");
}

#[tokio::test]
async fn a_bad_reload_changes_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (lab, other) = (authority("lab"), authority("lab"));
    let good = issue(&lab, Role::Controller, "c1");
    let server = save(folder.path(), &good);
    let (mut incoming, address) = serve_with(&server, Allow::AnyRole, Limits::default()).await;
    let refused = |what: &str| {
        let message = server.reload().unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
        good.save(folder.path()).unwrap();
    };
    issue(&lab, Role::Controller, "c2").save(folder.path()).unwrap();
    refused("berth://lab/controller/c2");
    std::fs::write(folder.path().join("ca.pem"), other.cert_pem()).unwrap();
    refused("not issued by this cluster's CA");
    std::fs::write(folder.path().join("key.pem"), issue(&lab, Role::Controller, "c1").key_pem.as_bytes()).unwrap();
    refused("the key does not belong to the certificate");
    std::fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
    refused("the certificate is not usable");
    std::fs::remove_file(folder.path().join("key.pem")).unwrap();
    refused("key.pem");
    {
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(folder.path().join("key.pem"), open).unwrap();
    }
    refused("chmod 600");
    assert!(!server.reload().unwrap());
    still_serves(&mut incoming, address, &lab).await;
}
