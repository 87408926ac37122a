//! The client side of QVD: log in, choose a virtual machine, connect, show its desktop.
//!
//! | part | knows |
//! |---|---|
//! | [`login`] | credentials and what is sent with them |
//! | [`list`] | the list of virtual machines and how one of them is chosen |
//! | [`options`] | what a session asks of its virtual machine |
//! | [`machine`] | the order of requests and answers; a pure value |
//! | [`trust`] | what is wrong with a certificate, what was accepted before, who decides |
//! | [`connect`] | sockets and TLS: drives the machine |
//! | [`tunnel`] | the local end: `nxproxy` and the relay |
//!
//! The crate names no TLS provider: the program installs one
//! (`rustls::crypto::CryptoProvider::install_default`) before it connects.
//!
//! ```no_run
//! use qvd_client::{Client, Credentials, Judge, list::Choice, options::SessionOptions, tunnel::NxProxy};
//! use qvd_client::trust::{Decision, Question};
//!
//! #[derive(Debug)]
//! struct AskNobody;
//!
//! #[async_trait::async_trait]
//! impl Judge for AskNobody {
//!     async fn decide(&self, _: &Question) -> Decision { Decision::Reject }
//! }
//!
//! # async fn run() -> Result<(), qvd_client::Error> {
//! let client = Client::builder("vdi.example", 8443, Credentials::basic("alice", "s3cret"))
//!     .judge(AskNobody)
//!     .on_progress(|progress| eprintln!("{progress}"))
//!     .build()?;
//! let session = client.connect(&Choice::Only, &SessionOptions::default()).await?;
//! NxProxy::find("nxproxy")?.run(session, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod connect;
mod error;
pub mod list;
pub mod login;
pub mod machine;
pub mod options;
mod progress;
pub mod trust;
pub mod tunnel;

pub use connect::{Client, ClientBuilder, Session};
pub use error::{Error, Result};
pub use login::Credentials;
pub use progress::Progress;
pub use trust::Judge;
