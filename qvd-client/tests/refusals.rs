//! Every way in which a server says no, over real TLS: the right error, words that a user understands, and no
//! credentials to a server that was not accepted.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use common::{LIMIT, LIST, SWITCH, Witness, builder, connect, list, router, router_with, trusting};
use qvd_client::trust::{Decision, Fixed, Flaw, TrustAnchors};
use qvd_client::{Client, Credentials, Error};
use qvd_core::ErrorKind;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

fn answer(code: &str, body: &str) -> String {
    format!("HTTP/1.1 {code} X\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn the_list_is_refused() {
    for (code, body, words, kind) in [
        ("401", "401 Unauthorized", "wrong user name or password", ErrorKind::Denied),
        ("503", "Server is blocked", "not available: Server is blocked", ErrorKind::Unavailable),
        ("404", "<html>", "not a QVD server", ErrorKind::NotFound),
        ("500", "oops", "the server answers 500: oops", ErrorKind::Internal),
    ] {
        let router = router(&[&answer(code, body)]).await;
        let error = list(&trusting(router.port)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{code}: {error}");
        assert_eq!(error.kind(), kind, "{code}");
    }
}

#[tokio::test]
async fn the_connect_is_refused() {
    let down = "The requested virtual machine is not available: Unable to start VM 7, retry later";
    let wrapped =
        "HTTP/1.1 404\r\n403 Forbidden\r\nThe requested virtual machine is offline for maintenance\r\n\r\n";
    for (answer, words, kind) in [
        (answer("401", "no"), "wrong user name or password", ErrorKind::Denied),
        (answer("403", "You are not allowed"), "You are not allowed", ErrorKind::Denied),
        (answer("404", "The requested virtual machine does not exist"), "not exist", ErrorKind::NotFound),
        (answer("426", "Upgrade Required"), "more up-to-date client", ErrorKind::Unsupported),
        (answer("503", down), "Unable to start VM 7", ErrorKind::Unavailable),
        (wrapped.to_owned(), "offline for maintenance", ErrorKind::Denied),
    ] {
        let progress = "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Starting virtual machine\r\n\r\n";
        let router = router(&[LIST, &format!("{progress}{answer}")]).await;
        let error = connect(&trusting(router.port)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{answer}: {error}");
        assert_eq!(error.kind(), kind, "{answer}");
        assert_eq!(router.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_session_comes_with_key_and_early_bytes() {
    let router = router(&[LIST, &format!("{SWITCH}NXPROXY")]).await;
    let session = connect(&trusting(router.port)).await.unwrap();
    assert_eq!(session.vm(), 7);
    assert_eq!(session.slave_key().unwrap().expose(), "k3y");
    let (mut stream, mut bytes) = session.into_stream();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"NXPROXY");
    let requests = router.requests();
    assert!(requests.iter().all(|r| r.contains("Authorization: Basic YWxpY2U6czNjcmV0\r\n")), "{requests:?}");
    assert!(requests[1].starts_with("GET /qvd/connect_to_vm?id=7&qvd.client.keyboard=pc105%2Fus&"));
}

#[tokio::test]
async fn an_unaccepted_server_learns_nothing() {
    let router = router(&[LIST]).await;
    let error = list(&builder(router.port).build().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::CertificateRejected { .. }), "{error:?}");
    assert!(error.to_string().contains("self-signed"), "{error}");
    assert!(router.requests().is_empty());
}

#[tokio::test]
async fn what_was_accepted_is_remembered_and_a_change_shouted_about() {
    let dir = tempfile::tempdir().unwrap();
    let memory = dir.path().join("accepted_certs.json");
    let witness = Witness::new(Decision::Always);
    let client =
        |port, witness: &Witness| builder(port).judge(witness.clone()).remember_in(&memory).build().unwrap();
    let first = router(&[LIST, LIST]).await;
    for _ in 0..2 {
        assert_eq!(list(&client(first.port, &witness)).await.unwrap(), 1);
    }
    let questions = witness.questions();
    assert_eq!(questions.len(), 1, "asked once, remembered then");
    assert_eq!(questions[0].report.problems[0].flaw, Flaw::SelfSigned);
    let remembered = questions[0].report.fingerprint();

    // The same address with another key: what an attacker in between looks like.
    let replies = [LIST, LIST];
    let other =
        router_with(&replies, Some(common::server_config(common::self_signed())), 0, common::closing()).await;
    let text = std::fs::read_to_string(&memory).unwrap();
    let moved = text.replace(&format!(":{}\"", first.port), &format!(":{}\"", other.port));
    std::fs::write(&memory, moved).unwrap();

    let careless =
        builder(other.port).judge(Fixed::AcceptUnlessChanged).remember_in(&memory).build().unwrap();
    let error = list(&careless).await.unwrap_err();
    assert!(error.to_string().contains("HAS CHANGED"), "{error}");
    assert!(other.requests().is_empty(), "credentials went to a changed server");

    let witness = Witness::new(Decision::Always);
    assert_eq!(list(&client(other.port, &witness)).await.unwrap(), 1);
    assert_eq!(witness.questions()[0].changed_from, Some(remembered));
    let unasked = Witness::new(Decision::Reject);
    assert_eq!(list(&client(other.port, &unasked)).await.unwrap(), 1, "the new one is remembered now");
}

#[tokio::test]
async fn a_trusted_certificate_asks_nobody() {
    let identity = common::self_signed();
    let anchors = TrustAnchors::new(identity.chain.clone());
    let router = router_with(&[LIST], Some(common::server_config(identity)), 0, common::closing()).await;
    let witness = Witness::new(Decision::Reject);
    let client = builder(router.port).judge(witness.clone()).trust_anchors(anchors).build().unwrap();
    assert_eq!(list(&client).await.unwrap(), 1);
    assert!(witness.questions().is_empty());
}

#[tokio::test]
async fn a_trusted_server_that_suddenly_vouches_for_itself_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let memory = dir.path().join("accepted_certs.json");
    let identity = common::self_signed();
    let anchors = TrustAnchors::new(identity.chain.clone());
    let trusted = router_with(&[LIST], Some(common::server_config(identity)), 0, common::closing()).await;
    let client = |port| {
        let builder = builder(port).judge(Fixed::AcceptUnlessChanged).trust_anchors(anchors.clone());
        builder.remember_in(&memory).build().unwrap()
    };
    assert_eq!(list(&client(trusted.port)).await.unwrap(), 1);

    let other = router(&[LIST]).await;
    let text = std::fs::read_to_string(&memory).unwrap();
    std::fs::write(&memory, text.replace(&format!(":{}\"", trusted.port), &format!(":{}\"", other.port)))
        .unwrap();
    let error = list(&client(other.port)).await.unwrap_err();
    assert!(matches!(error, Error::CertificateChanged { .. }), "{error:?}");
    assert!(other.requests().is_empty(), "credentials went to a changed server");
}

#[tokio::test]
async fn a_trusted_server_is_served_where_nothing_can_be_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let identity = common::self_signed();
    let anchors = TrustAnchors::new(identity.chain.clone());
    let router = router_with(&[LIST], Some(common::server_config(identity)), 0, common::closing()).await;
    // Its directory leads to nowhere: absent when read, and nothing can be made there.
    let memory = dir.path().join("missing").join("accepted_certs.json");
    std::os::unix::fs::symlink("/proc/self/nowhere", dir.path().join("missing")).unwrap();
    let client = builder(router.port).trust_anchors(anchors).remember_in(memory).build().unwrap();
    assert_eq!(list(&client).await.unwrap(), 1);
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_asked_for() {
    common::install_provider();
    let (server, user) = (common::self_signed(), common::self_signed());
    let mut roots = RootCertStore::empty();
    roots.add(user.chain[0].clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.chain, server.key)
        .unwrap();
    let router = router_with(&[LIST], Some(config), 0, common::closing()).await;
    let with = builder(router.port)
        .judge(Witness::new(Decision::Once))
        .identity(user.chain.clone(), user.key.clone_key())
        .build()
        .unwrap();
    assert_eq!(list(&with).await.unwrap(), 1);
    let error = list(&trusting(router.port)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn ways_that_lead_nowhere() {
    common::install_provider();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = list(&trusting(port)).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionRefused { .. }), "{error:?}");

    let unknown = Client::builder("no-such-host.invalid", 1, Credentials::basic("a", "b")).build().unwrap();
    let error = list(&unknown).await.unwrap_err();
    assert!(error.to_string().contains("'no-such-host.invalid' cannot be resolved"), "{error}");

    let plain = router_with(&[LIST], None, 0, common::closing()).await;
    let without = builder(plain.port).without_tls().build().unwrap();
    assert_eq!(list(&without).await.unwrap(), 1);
}

/// A server that answers the client's hello with these bytes.
async fn answering(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 2048]).await;
            common::send(&mut stream, bytes).await;
            // Held open until the client is done with it.
            let _ = stream.read(&mut [0; 16]).await;
        }
    });
    port
}

#[tokio::test]
async fn what_is_no_tls_or_too_old_is_told_apart() {
    let too_old = [b"\x15\x03\x01\x00\x02\x02\x46".as_slice(), b"\x15\x03\x01\x00\x02\x02\x28"];
    for alert in too_old {
        let error = list(&trusting(answering(alert).await)).await.unwrap_err();
        assert!(error.to_string().contains("outdated encryption"), "{error:?}");
    }
    let http = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = list(&trusting(http)).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error:?}");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let short = std::time::Duration::from_millis(50);
    let client = builder(port).without_tls().patience(short, short).build().unwrap();
    let error = tokio::time::timeout(LIMIT, client.list()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    drop(listener);
}
