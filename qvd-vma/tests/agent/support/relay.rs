//! A link that breaks where a test wants it to, or is slow: between a client's nxproxy and the agent's socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    reached: Arc<AtomicBool>,
}

impl Relay {
    /// Listens at `socket`; the one connection that comes is passed on to `agent` until the cut.
    pub(crate) fn start(socket: PathBuf, agent: PathBuf, cut: Cut) -> Self {
        Self::carry(socket, agent, Some(cut), None)
    }

    /// As [`start`](Self::start), whole, and so slow that a kilobyte takes `pace` in each direction.
    pub(crate) fn slow(socket: PathBuf, agent: PathBuf, pace: Duration) -> Self {
        Self::carry(socket, agent, None, Some(pace))
    }

    fn carry(socket: PathBuf, agent: PathBuf, cut: Option<Cut>, pace: Option<Duration>) -> Self {
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let reached = Arc::<AtomicBool>::default();
        let task = tokio::spawn(carry(listener, agent, cut, pace, Arc::clone(&reached)));
        Self { socket, task, reached }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the link is broken.
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Whether it was the cut that broke it.
    pub(crate) fn was_cut(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    listener: UnixListener,
    agent: PathBuf,
    cut: Option<Cut>,
    pace: Option<Duration>,
    reached: Arc<AtomicBool>,
) {
    let (client, _) = listener.accept().await.unwrap();
    let agent = UnixStream::connect(agent).await.unwrap();
    let (client_read, client_write) = client.into_split();
    let (agent_read, agent_write) = agent.into_split();
    let (up, down, after) = match cut {
        None => (None, None, None),
        Some(Cut::Up(bytes)) => (Some(bytes), None, None),
        Some(Cut::Down(bytes)) => (None, Some(bytes), None),
        Some(Cut::After(time)) => (None, None, Some(time)),
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
    let was_cut = tokio::select! {
        limit = copy(client_read, agent_write, up, pace, Some(&begun)) => limit,
        limit = copy(agent_read, client_write, down, pace, None) => limit,
        () = timer => true,
    };
    reached.store(was_cut, Ordering::SeqCst);
}

/// Whether the limit was the end.
async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    limit: Option<u64>,
    pace: Option<Duration>,
    begun: Option<&Notify>,
) -> bool {
    let mut buffer = vec![0; if pace.is_some() { 1 << 10 } else { 16 << 10 }];
    let mut passed = 0;
    loop {
        let room = limit.map_or(u64::MAX, |limit| limit - passed).min(buffer.len() as u64);
        if room == 0 {
            return true;
        }
        let read = match from.read(&mut buffer[..usize::try_from(room).unwrap()]).await {
            Ok(read @ 1..) => read,
            _ => return false,
        };
        if passed == 0
            && let Some(begun) = begun
        {
            begun.notify_one();
        }
        if let Some(pace) = pace {
            tokio::time::sleep(pace).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return false;
        }
        passed += read as u64;
    }
}
