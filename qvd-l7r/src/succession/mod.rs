//! How a router takes the place of another one, with nothing dropped and nothing refused.
//!
//! A socket that is closed resets the connections that wait in it, so the very same listening sockets go from one
//! process to the other: over a unix socket in the directory of [`Router::run_dir`](crate::Router::run_dir), to a
//! process of the same account or of root.
//!
//! ```text
//! predecessor                           successor
//!   accepts                               has built everything: database, certificate, account
//!   accepts            ◄── asks ───
//!   accepts            ─ sockets ──►
//!   accepts            ◄ accepting ─      accepts
//!   lets go            ─── left ───►      accepts; its pid file and its unix socket replace the other's
//!   what it has goes on, until it ends
//! ```
//!
//! The predecessor goes on whatever becomes of the other, until it has said `left` to somebody who can still hear it; and
//! who gives up waiting for that takes care that it cannot be said any more.
//!
//! | module | what it knows |
//! |---|---|
//! | `wire` | the lines and the descriptors |
//! | `heir` | the side that asks |
//! | `seat` | the side that is asked |

mod heir;
mod seat;
mod wire;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::time::Duration;

use qvd_core::config::Config;
use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};

pub(crate) use heir::Predecessor;
pub(crate) use seat::{Ending, Office};

use crate::error::{Error, Result};
use crate::listen;
use crate::router::Router;

/// Where the routers of one node that listen on the same addresses, one after the other, hand over.
///
/// # Example
///
/// ```no_run
/// # async fn example(db: qvd_db::Db, config: qvd_core::config::Config) -> qvd_l7r::Result<()> {
/// use qvd_l7r::{Router, Succession};
///
/// let succession = Succession::of(&config)?;
/// let is_held = succession.is_held()?;
/// let ready = Router::builder(db, "node1").config(config).build()?.ready().await?;
/// let mut router = if is_held { ready.succeed(&succession).await? } else { ready.bind()? };
/// router.offer(&succession)?;
/// router.serve(std::future::pending()).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Succession {
    dir: PathBuf,
    name: String,
}

impl Succession {
    /// The place for routers of this configuration: `path.run`, `l7r.address` and `l7r.port` decide.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] names an address that is none.
    pub fn of(config: &Config) -> Result<Self> {
        let mut addresses: Vec<_> = listen::configured(config)?.iter().map(ToString::to_string).collect();
        addresses.sort_unstable();
        let digest = Sha256::digest(addresses.join(" "));
        let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("succession-{}-{digest}.sock", config.port("l7r.port"));
        Ok(Self { dir: Router::run_dir(config), name })
    }

    /// Whether a router serves that can be succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::Succession`] when this cannot be told.
    pub fn is_held(&self) -> Result<bool> {
        let connected = self.open_dir().and_then(|dir| BlockingStream::connect(self.path(&dir)));
        match connected {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(false)
            }
            Err(e) => Err(self.failed("look for a router that serves", e)),
        }
    }

    fn open_dir(&self) -> io::Result<File> {
        File::open(&self.dir)
    }

    /// The socket's path. It begins at an open directory: a socket's address has little room, and a run directory may
    /// lie deep.
    fn path(&self, dir: &File) -> PathBuf {
        within(dir, &self.name)
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Succession { operation, path: self.dir.join(&self.name), source }
    }
}

fn within(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Only this account and root hand over to each other.
fn check_peer(stream: &tokio::net::UnixStream) -> io::Result<()> {
    let (peer, own) = (stream.peer_cred()?.uid(), geteuid());
    if peer == 0 || peer == own.as_raw() {
        return Ok(());
    }
    let text = format!("the other process belongs to user {peer}, and this one to user {}", own.as_raw());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// The directory must be nobody else's: who can write there could stand in for a router.
fn check_dir(dir: &File) -> io::Result<()> {
    let metadata = dir.metadata()?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner == geteuid().as_raw() && mode & 0o077 == 0 {
        return Ok(());
    }
    let text = format!(
        "the directory belongs to user {owner} with mode {mode:04o}; it must be the router's, and 0700"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn remove_if_ours(path: &std::path::Path, inode: u64) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == inode) {
        let _ = fs::remove_file(path);
    }
}

/// How long each may take to say the next line: whoever asks has all that it needs.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[(&'static str, &str)]) -> Succession {
        let builder = Config::builder();
        let config = keys.iter().fold(builder, |b, (key, value)| b.set(*key, *value)).build().unwrap();
        Succession::of(&config).unwrap()
    }

    #[test]
    fn the_place_is_one_for_the_same_addresses_in_any_order() {
        let usual = of(&[("l7r.address", "10.0.0.1, ::1"), ("l7r.port", "8443")]);
        assert_eq!(usual.name, of(&[("l7r.address", "[::1],10.0.0.1"), ("l7r.port", "8443")]).name);
        assert_ne!(usual.name, of(&[("l7r.address", "10.0.0.1"), ("l7r.port", "8443")]).name);
        assert_ne!(usual.name, of(&[("l7r.address", "10.0.0.1, ::1"), ("l7r.port", "443")]).name);
        assert!(usual.name.starts_with("succession-8443-"), "{usual:?}");
    }

    #[test]
    fn nobody_holds_a_place_that_is_not_there_or_was_left_behind() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().display().to_string();
        let succession = of(&[("path.run", &path)]);
        assert!(!succession.is_held().unwrap(), "no directory");
        fs::create_dir(run.path().join("l7r")).unwrap();
        assert!(!succession.is_held().unwrap(), "no socket");
        let socket = run.path().join("l7r").join(&succession.name);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(succession.is_held().unwrap());
        drop(listener);
        assert!(socket.exists() && !succession.is_held().unwrap(), "one that was killed leaves its socket");
    }
}
