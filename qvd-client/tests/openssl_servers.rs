//! Servers that no Rust library would be: version 1 certificates, short keys, outdated TLS. OpenSSL plays them.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Witness, builder, list, skip};
use qvd_client::Error;
use qvd_client::trust::{Decision, Flaw, Policy};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

fn openssl(dir: &Path, line: &str) -> bool {
    let ran = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.is_ok_and(|status| status.success())
}

/// A certificate of version 1 (`v1.pem`) and one with a 1024 bit key (`weak.pem`), with their keys; `None` without OpenSSL.
fn certificates() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let made = openssl(
        dir.path(),
        "req -new -newkey rsa:2048 -nodes -keyout v1.key -out v1.csr -subj /CN=127.0.0.1",
    ) && openssl(dir.path(), "x509 -req -in v1.csr -signkey v1.key -sha1 -days 30 -out v1.pem")
        && openssl(
            dir.path(),
            "req -x509 -newkey rsa:1024 -nodes -keyout weak.key -out weak.pem -days 30 -subj /CN=127.0.0.1",
        );
    made.then_some(dir)
}

/// Starts `openssl s_server` with this certificate and these options; its port.
async fn server(dir: &Path, name: &str, options: &str) -> Option<(Child, u16)> {
    let line = format!(
        "s_server -accept 127.0.0.1:0 -cert {name}.pem -key {name}.key -cipher ALL:@SECLEVEL=0 -www {options}"
    );
    let mut child = tokio::process::Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // ACCEPT 127.0.0.1:40123
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            let port = address.trim().rsplit(':').next()?.parse().ok()?;
            return Some((child, port));
        }
    }
    None
}

#[tokio::test]
async fn certificates_of_version_1_reach_the_judge() {
    let Some(dir) = certificates() else { return skip("openssl cannot make the certificates") };
    for version in ["-tls1_2", "-tls1_3"] {
        let Some((_server, port)) = server(dir.path(), "v1", version).await else {
            return skip("openssl s_server does not start");
        };
        let witness = Witness::new(Decision::Once);
        let error = list(&builder(port).judge(witness.clone()).build().unwrap()).await.unwrap_err();
        let questions = witness.questions();
        let flaws: Vec<_> = questions[0].report.problems.iter().map(|p| &p.flaw).collect();
        assert_eq!(flaws, [&Flaw::SelfSigned, &Flaw::WeakHash("SHA-1")], "{version}");
        assert!(!matches!(error, Error::Tls { .. }), "{version}: {error:?}");
    }
}

#[tokio::test]
async fn short_keys_are_refused_by_name() {
    let Some(dir) = certificates() else { return skip("openssl cannot make the certificates") };
    let Some((_server, port)) = server(dir.path(), "weak", "-tls1_2").await else {
        return skip("openssl s_server does not start");
    };
    let everything = {
        let mut policy = Policy::default();
        policy.allow_weak_key = true;
        policy
    };
    let client = builder(port).judge(Witness::new(Decision::Once)).policy(everything).build().unwrap();
    let error = list(&client).await.unwrap_err();
    assert!(matches!(error, Error::CertificateUnacceptable { .. }), "{error:?}");
    assert!(error.to_string().contains("only 1024 bits"), "{error}");
}

#[tokio::test]
async fn outdated_versions_are_named() {
    let Some(dir) = certificates() else { return skip("openssl cannot make the certificates") };
    let Some((_server, port)) = server(dir.path(), "v1", "-tls1_1").await else {
        return skip("openssl s_server does not speak TLS 1.1");
    };
    let error = list(&builder(port).judge(Witness::new(Decision::Once)).build().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::TlsTooOld { .. }), "{error:?}");
}
