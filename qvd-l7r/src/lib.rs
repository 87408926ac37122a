//! The layer-7 router of QVD: the one port that clients know. It checks users, shows them their virtual machines,
//! brings a desktop up and moves its bytes.
//!
//! ```no_run
//! # async fn example(db: qvd_db::Db) -> qvd_l7r::Result<()> {
//! use qvd_l7r::Router;
//!
//! // Certificate, users, hosts and virtual machines are rows of the database.
//! let router = Router::builder(db, "node1").listen(([127, 0, 0, 1], 8443).into()).build()?.bind().await?;
//! println!("https://{}", router.local_addr());
//! router.serve(std::future::pending()).await
//! # }
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`Router`], [`BoundRouter`], [`RouterHandle`] | building, binding, serving, ending |
//! | [`Succession`] | taking the place of a router that serves |
//! | [`front`] | HTTP as clients speak it: typed requests and answers |
//! | [`auth`] | built-in authenticators |
//! | [`broker`] | the connect machine, pure |
//! | [`progress`] | what a waiting client is told |
//! | [`forward`] | the pump between client and desktop |
//!
//! A router and a host's daemon never call each other: the router writes a command into a row, the daemon obeys it.
//! No session holds a database connection, and every write to a session's row is guarded by that session's id.

#![forbid(unsafe_code)]

mod abuse;
mod arrival;
pub mod auth;
pub mod broker;
mod certificate;
mod connect;
mod connections;
mod conversation;
mod counters;
mod error;
mod farewell;
pub mod forward;
pub mod front;
mod gate;
mod instance;
mod listen;
mod login;
mod metrics;
mod node;
mod place;
pub mod progress;
mod proxied;
mod quota;
mod random;
mod ready;
mod router;
mod server;
mod session;
mod sessions;
mod shared;
mod stop;
mod strangers;
mod stream;
mod succession;
mod takeover;
mod tls;
mod upkeep;
mod workers;

pub use error::{Error, Result};
pub use listen::listen;
pub use metrics::{Figure, Snapshot, Times};
pub use ready::ReadyRouter;
pub use router::{Router, RouterBuilder};
pub use server::{BoundRouter, RouterHandle};
pub use succession::Succession;
pub use tls::Fingerprint;
