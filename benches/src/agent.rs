//! Stand-ins of agents: every desktop that is asked for listens.
//!
//! A desktop that was asked for is `listening` once; any other question finds it `suspended`, as after a visit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use qvd_core::hypervisor::{VMA_SOCKET, X_SOCKET};
use qvd_core::proto::http1::{Limits, encode_head, parse_request, status_line};
use qvd_core::proto::vma_rpc::{CONTENT_TYPE, encode_result, method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

use crate::client::Stream;
use crate::desktop;

/// Agents of all machines of a site on one port; a machine is told by the address at which it was called.
///
/// # Errors
///
/// When no port can be had.
pub async fn on_tcp() -> Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0").await.context("cannot listen")?;
    let port = listener.local_addr().context("a listener has an address")?.port();
    let agents: Mutex<HashMap<IpAddr, Arc<Agent>>> = Mutex::default();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(called) = stream.local_addr() else { continue };
            let _ = stream.set_nodelay(true);
            let mut agents = agents.lock().unwrap_or_else(PoisonError::into_inner);
            let agent = Arc::clone(agents.entry(called.ip()).or_default());
            // A caller that goes away got its answer or wants none.
            tokio::spawn(async move { agent.answer(stream).await.ok() });
        }
    });
    Ok(port)
}

/// Agent and desktop of one machine at the sockets of its directory, which is made.
///
/// # Errors
///
/// When the sockets cannot be made.
pub fn in_directory(dir: &Path) -> Result<()> {
    let (called, shown) = (dir.join(VMA_SOCKET), dir.join(X_SOCKET));
    for socket in [&called, &shown] {
        let parent = socket.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let listen = |socket: &Path| {
        UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))
    };
    let (calls, viewers) = (listen(&called)?, listen(&shown)?);
    let agent = Arc::new(Agent::default());
    tokio::spawn(async move {
        while let Ok((stream, _)) = calls.accept().await {
            let agent = Arc::clone(&agent);
            tokio::spawn(async move { agent.answer(stream).await.ok() });
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = viewers.accept().await {
            // A viewer may leave at any time.
            tokio::spawn(async move { desktop::serve(stream).await.ok() });
        }
    });
    Ok(())
}

#[derive(Debug, Default)]
struct Agent {
    asked_for: AtomicBool,
}

impl Agent {
    async fn answer(&self, mut stream: impl Stream) -> Result<()> {
        let mut received = Vec::new();
        let head = loop {
            if let Some((head, _)) = parse_request(&received, &Limits::default())? {
                break head;
            }
            ensure!(stream.read_buf(&mut received).await? > 0, "the caller left");
        };
        let (code, body) = match self.result(method(head.path())) {
            Some(value) => (200, encode_result(&value.into())),
            None => (404, "no such method\n".to_owned()),
        };
        let length = body.len().to_string();
        let head =
            encode_head(&status_line(code), &[("Content-Type", CONTENT_TYPE), ("Content-Length", &length)]);
        stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await?;
        Ok(())
    }

    fn result(&self, method: Option<&str>) -> Option<&'static str> {
        match method? {
            "ping" => Some("1"),
            "x_start" => {
                self.asked_for.store(true, Ordering::Relaxed);
                Some("starting")
            }
            "x_state" => {
                Some(if self.asked_for.swap(false, Ordering::Relaxed) { "listening" } else { "suspended" })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desktop_listens_once_after_it_was_asked_for() {
        let agent = Agent::default();
        let ask = |method| agent.result(Some(method));
        assert_eq!(ask("x_state"), Some("suspended"));
        assert_eq!(ask("x_start"), Some("starting"));
        assert_eq!(ask("x_state"), Some("listening"));
        assert_eq!(ask("x_state"), Some("suspended"));
        assert_eq!(ask("x_dance"), None);
    }
}
