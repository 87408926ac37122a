//! A link that breaks where a test wants it to: between a client's nxproxy and the agent's socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Where the link breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// When so many bytes went from the client to the agent.
    Up(u64),
    /// When so many bytes went from the agent to the client.
    Down(u64),
    /// So long after the first byte of the client.
    After(Duration),
}

/// One relayed connection. Dropping it breaks the link.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens at `socket`; the one connection that comes is passed on to `agent` until the cut.
    pub(crate) fn start(socket: PathBuf, agent: PathBuf, cut: Cut) -> Self {
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let task = tokio::spawn(carry(listener, agent, cut));
        Self { socket, task }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the link is broken.
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(listener: UnixListener, agent: PathBuf, cut: Cut) {
    let (client, _) = listener.accept().await.unwrap();
    let agent = UnixStream::connect(agent).await.unwrap();
    let (client_read, client_write) = client.into_split();
    let (agent_read, agent_write) = agent.into_split();
    let (up, down, after) = match cut {
        Cut::Up(bytes) => (Some(bytes), None, None),
        Cut::Down(bytes) => (None, Some(bytes), None),
        Cut::After(time) => (None, None, Some(time)),
    };
    let begun = Notify::new();
    let timer = async {
        begun.notified().await;
        match after {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    // Whichever ends first breaks both directions at once, as a lost network does.
    tokio::select! {
        () = copy(client_read, agent_write, up, Some(&begun)) => {}
        () = copy(agent_read, client_write, down, None) => {}
        () = timer => {}
    }
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    limit: Option<u64>,
    begun: Option<&Notify>,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    loop {
        let room = limit.map_or(u64::MAX, |limit| limit - passed).min(buffer.len() as u64);
        if room == 0 {
            return;
        }
        let Ok(read @ 1..) = from.read(&mut buffer[..usize::try_from(room).unwrap()]).await else { return };
        if passed == 0
            && let Some(begun) = begun
        {
            begun.notify_one();
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        passed += read as u64;
    }
}
