//! A client without a screen: logs in and lists the user's virtual machines.
//!
//! `headless_client HOST:PORT LOGIN FINGERPRINT`; the password is the first line of standard input. The fingerprint is
//! the one that the server prints when it starts: nobody is asked, so the certificate must be known beforehand.
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use anyhow::{Context as _, Result};
use qvd_client::trust::{Fingerprint, Fixed};
use qvd_client::{Client, Credentials, list::printable};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Libraries leave the choice of a TLS provider to the program.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [server, login, fingerprint] = words.as_slice() else {
        anyhow::bail!("usage: headless_client HOST:PORT LOGIN FINGERPRINT");
    };
    let fingerprint: Fingerprint = fingerprint.parse()?;
    let mut password = String::new();
    std::io::stdin().read_line(&mut password).context("no password on standard input")?;

    let client = Client::builder(server, 8443, Credentials::basic(login, password.trim_end_matches('\n')))
        .judge(Fixed::Only(fingerprint))
        .on_progress(|step| eprintln!("{step}"))
        .build()?;
    for vm in client.list().await? {
        println!("{} {} {}", vm.id, printable(&vm.name), vm.state);
    }
    Ok(())
}
