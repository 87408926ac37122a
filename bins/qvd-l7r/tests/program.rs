//! The program itself: its configuration check.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn check(dir: &Path, more: &str) -> Output {
    let file = dir.join("node.conf");
    let here = dir.display();
    let text = format!(
        "nodename = n1\ndatabase.driver = sqlite\ndatabase.path = {here}/qvd.db\npath.run = {here}/run\n{more}"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvd-l7r"));
    command.arg("--check-config").arg("-f").arg(file);
    command.env_remove("QVD_SET").env_remove("QVD_CONFIG").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_configuration_is_checked_and_nothing_done() {
    let dir = tempfile::tempdir().unwrap();
    let fine = check(dir.path(), "");
    assert!(fine.status.success(), "{fine:?}");
    for (line, named) in [
        ("l7r.port = 84x3", "l7r.port"),
        ("l7r.address = nowhere", "l7r.address"),
        ("l7r.auth.plugins = default,kerberos", "kerberos"),
        ("l7r.loadbalancer.plugin = dice", "l7r.loadbalancer.plugin"),
        ("l7r.proxy_protocol = 10.0.0.0/33", "l7r.proxy_protocol"),
        ("l7r.address = 127.0.0.1, nowhere", "nowhere"),
        ("l7r.ssl.options.SSL_version = !TLSv1_2:!TLSv1_3", "l7r.ssl.options.SSL_version"),
        ("l7r.ssl.options.SSL_cipher_list = HIGH:!AES:!CHACHA20", "l7r.ssl.options.SSL_cipher_list"),
        ("l7r.as_user = nobody-of-this-name", "l7r.as_user"),
        ("nodename =", "'nodename' is not set"),
    ] {
        let refused = check(dir.path(), line);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains(named), "{line}: {refused:?}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["node.conf"], "neither database nor run directory is made");
}
