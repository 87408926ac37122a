//! Waking other processes that have the same database file open.
//!
//! Each that listens has a datagram socket in the directory beside the file; each that wrote sends the names of the
//! channels to all of them. A process that cannot make a socket there still finds out within a second.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::net::UnixDatagram;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use super::{Channel, Signal};
use crate::migrate::wake_directory;

/// File name of one handle's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketName(Arc<str>);

impl SocketName {
    pub(super) fn new() -> Self {
        Self(format!("{}.{SUFFIX}", uuid::Uuid::new_v4().simple()).into())
    }
}

/// Listens until dropped. A channel is confirmed once nothing can be missed: the socket is there, and what was written
/// after the first look at the file is seen by the next.
pub(super) async fn listen(
    writer: SqlitePool,
    path: PathBuf,
    me: SocketName,
    mut asked: mpsc::UnboundedReceiver<Channel>,
    signals: broadcast::Sender<Signal>,
) {
    let socket = match Socket::bind(&wake_directory(&path), me) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::debug!(%error, "other processes cannot wake this one; it looks once a second");
            None
        }
    };
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    let mut buffer = [0; LONGEST_NOTICE];
    loop {
        tokio::select! {
            channel = asked.recv(), if seen.is_some() => match channel {
                Some(channel) => drop(signals.send(Signal::Confirmed(channel))),
                None => return,
            },
            received = receive(socket.as_ref(), &mut buffer) => match received {
                Ok(length) => {
                    let notice = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
                    let (name, payload) = notice.split_once(' ').unwrap_or((notice, ""));
                    if let Some(channel) = Channel::from_name(name) {
                        let _ = signals.send(Signal::Notified(channel, payload.into()));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a wake-up could not be read");
                    tokio::task::yield_now().await;
                }
            },
            _ = ticks.tick() => {
                // Asked of the connection that writes: its own commits do not count, those of other processes do.
                let version = sqlx::query_scalar::<_, i64>("pragma data_version").fetch_one(&writer).await;
                match version {
                    Ok(version) => {
                        if seen.replace(version).is_some_and(|before| before != version) {
                            let _ = signals.send(Signal::Rescan);
                        }
                    }
                    Err(sqlx::Error::PoolClosed) => return,
                    Err(error) => tracing::debug!(%error, "cannot ask whether another process wrote"),
                }
            }
        }
    }
}

/// Sends the notices to every other socket beside the database file. Never waits: who does not read finds out later.
pub(super) fn wake_others(path: &Path, me: &SocketName, notices: &[(Channel, String)]) {
    if notices.is_empty() {
        return;
    }
    let directory = wake_directory(path);
    let Ok(entries) = directory.read_dir() else { return };
    let (Ok(handle), Ok(socket)) = (File::open(&directory), StdDatagram::unbound()) else { return };
    if socket.set_nonblocking(true).is_err() {
        return;
    }
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.ends_with(SUFFIX) && **name != *me.0) else {
            continue;
        };
        for (channel, payload) in notices {
            let sent =
                socket.send_to(format!("{} {payload}", channel.name()).as_bytes(), short(&handle, name));
            if sent.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
                // Its process is gone; a socket that is taken into use later has another name.
                let _ = std::fs::remove_file(directory.join(name));
                break;
            }
        }
    }
}

async fn receive(socket: Option<&Socket>, buffer: &mut [u8]) -> io::Result<usize> {
    match socket {
        Some(socket) => socket.socket.recv(buffer).await,
        None => std::future::pending().await,
    }
}

struct Socket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Socket {
    fn bind(directory: &Path, name: SocketName) -> io::Result<Self> {
        let handle = File::open(directory)?;
        let socket = UnixDatagram::bind(short(&handle, &name.0))?;
        Ok(Self { socket, path: directory.join(&*name.0) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A path of a file in an open directory that always fits into a socket address, however deep the directory lies.
fn short(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

const SUFFIX: &str = "wake";
const POLL: Duration = Duration::from_secs(1);
const LONGEST_NOTICE: usize = 512;
