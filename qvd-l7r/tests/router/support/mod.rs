//! A world of one node for a test: database, router, virtual machine, agent, desktop, client.

mod browser;
mod client;
mod desktop;
mod glewlwyd;
mod log;
mod node_issuer;
mod server;
mod slapd;
mod worker;
mod world;

use std::future::Future;
use std::time::Duration;

pub(crate) use client::{Client, Response, basic, believer, config, plain, request};
pub(crate) use desktop::{Answer, Desktop};
pub(crate) use glewlwyd::{Glewlwyd, OTHER_CLIENT, OUR_CLIENT};
pub(crate) use log::logged;
pub(crate) use node_issuer::{AUDIENCE, NodeIssuer};
pub(crate) use slapd::{ADMINISTRATOR_PASSWORD, DIRECTORY_PASSWORD, Slapd};
pub(crate) use worker::Worker;
pub(crate) use world::{Options, PASSWORD, World, machine, publish_driver, running_host, serve, user};

/// Nothing that a test waits for takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something, not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// Waits until a condition of the database holds; there is no event for those.
pub(crate) async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    let wait = async {
        while !condition().await {
            poll.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
