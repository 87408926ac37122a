//! Waking those who wait for a change.
//!
//! A hint says only "look again": it carries no instruction, so that a missed one costs no more than the time until
//! the next poll. Listeners poll as well (`tokio::time::timeout` around [`Subscription::next`]).
//!
//! ```text
//! PostgreSQL   NOTIFY inside the transaction ─► one LISTEN connection of this handle ─┐
//! SQLite       after the commit: this handle ─────────────────────────────────────────┼─► every Subscription
//!              a datagram to each socket in <file>.wake/ ─► other processes ───────────┤
//!              once a second: did another process write? (PRAGMA data_version) ────────┘
//! ```

mod postgres;
mod sqlite;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use qvd_core::{HostId, VmId};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use crate::server::Limits;

/// What can be listened to. The names are those of version 3.5 where it had them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Commands for virtual machines on this host; its daemon listens.
    VmCommands(HostId),
    /// Commands for user sessions whose router runs on this host; that router listens.
    UserCommands(HostId),
    /// Commands for this host, its block included; its daemon and its router listen.
    HostCommands(HostId),
    /// Configuration, certificates; everybody listens.
    ConfigChanged,
    /// A virtual machine's run-time row moved; waiting routers and tools listen.
    VmState,
}

impl Channel {
    /// The channel's name in PostgreSQL.
    pub fn name(self) -> String {
        match self {
            Self::VmCommands(host) => format!("{VM_COMMANDS}{host}"),
            Self::UserCommands(host) => format!("{USER_COMMANDS}{host}"),
            Self::HostCommands(host) => format!("{HOST_COMMANDS}{host}"),
            Self::ConfigChanged => CONFIG_CHANGED.to_owned(),
            Self::VmState => VM_STATE.to_owned(),
        }
    }

    /// The channel of that name, if it is one of ours.
    pub fn from_name(name: &str) -> Option<Self> {
        let host = |prefix| name.strip_prefix(prefix).and_then(|id: &str| id.parse::<HostId>().ok());
        match name {
            CONFIG_CHANGED => Some(Self::ConfigChanged),
            VM_STATE => Some(Self::VmState),
            _ => host(VM_COMMANDS)
                .map(Self::VmCommands)
                .or_else(|| host(USER_COMMANDS).map(Self::UserCommands))
                .or_else(|| host(HOST_COMMANDS).map(Self::HostCommands)),
        }
    }
}

const VM_COMMANDS: &str = "qvd_cmd_for_vm_on_host";
const USER_COMMANDS: &str = "qvd_cmd_for_user_on_host";
const HOST_COMMANDS: &str = "qvd_cmd_for_host";
const CONFIG_CHANGED: &str = "qvd_config_changed";
const VM_STATE: &str = "qvd_vm_state";

/// Why a listener woke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Somebody wrote something that belongs to this channel.
    Notified(Channel),
    /// Something may have been missed, or another process wrote something unknown: read everything again.
    Rescan,
}

/// A listener. Dropping it ends the listening.
#[derive(Debug)]
pub struct Subscription {
    /// Keeps the listening task alive.
    _hub: Arc<Shared>,
    signals: broadcast::Receiver<Signal>,
    wanted: HashSet<Channel>,
    /// Channels of which it is not confirmed yet that they are listened to for us.
    unconfirmed: HashSet<Channel>,
    only_vm: Option<VmId>,
    rescan: bool,
}

impl Subscription {
    /// Keeps only hints of [`Channel::VmState`] that are about this virtual machine.
    #[must_use]
    pub fn only_vm(mut self, vm: VmId) -> Self {
        self.only_vm = Some(vm);
        self
    }

    /// Waits for the next hint. Never ends by itself; a lost connection to the database is mended behind it and
    /// told as [`Hint::Rescan`].
    ///
    /// # Cancellation
    ///
    /// Safe: a dropped wait loses no hint.
    pub async fn next(&mut self) -> Hint {
        loop {
            if self.rescan && self.unconfirmed.is_empty() {
                self.rescan = false;
                return Hint::Rescan;
            }
            match self.signals.recv().await {
                Ok(Signal::Notified(channel, payload)) => {
                    if self.wanted.contains(&channel) && self.concerns(channel, &payload) {
                        return Hint::Notified(channel);
                    }
                }
                Ok(Signal::Confirmed(channel)) => {
                    self.unconfirmed.remove(&channel);
                }
                Ok(Signal::Rescan) => self.rescan = true,
                // We slept while others wrote more than the channel holds.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.rescan = true;
                    self.unconfirmed.clear();
                }
                // The task that feeds us is gone with its runtime; whoever polls still sees everything.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The payload of [`Channel::VmState`] begins with the machine's id.
    fn concerns(&self, channel: Channel, payload: &str) -> bool {
        let (Some(vm), Channel::VmState) = (self.only_vm, channel) else { return true };
        payload.split(':').next().and_then(|id| id.parse().ok()).is_none_or(|id: VmId| id == vm)
    }
}

/// Where the hints of one handle come together.
#[derive(Debug)]
pub(crate) struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    signals: broadcast::Sender<Signal>,
    source: Source,
    /// The task that listens, once somebody asked for it.
    listener: Mutex<Option<Listener>>,
}

#[derive(Debug)]
struct Listener {
    task: JoinHandle<()>,
    /// Channels to listen on.
    channels: mpsc::UnboundedSender<Channel>,
}

enum Source {
    Postgres { options: Box<sqlx::postgres::PgConnectOptions>, limits: Limits },
    Sqlite { writer: sqlx::SqlitePool, path: Option<PathBuf>, me: sqlite::SocketName },
}

/// By hand: the driver's options show the password.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres { .. } => f.debug_struct("Postgres").finish_non_exhaustive(),
            Self::Sqlite { path, .. } => f.debug_struct("Sqlite").field("path", path).finish_non_exhaustive(),
        }
    }
}

/// What the listening task tells the subscriptions.
#[derive(Clone, Debug)]
enum Signal {
    Notified(Channel, Arc<str>),
    Confirmed(Channel),
    Rescan,
}

impl Hub {
    pub(crate) fn postgres(options: sqlx::postgres::PgConnectOptions, limits: Limits) -> Self {
        Self::new(Source::Postgres { options: Box::new(options), limits })
    }

    /// For a file, or for memory when there is no path.
    pub(crate) fn sqlite(writer: sqlx::SqlitePool, path: Option<PathBuf>) -> Self {
        Self::new(Source::Sqlite { writer, path, me: sqlite::SocketName::new() })
    }

    fn new(source: Source) -> Self {
        let (signals, _) = broadcast::channel(CAPACITY);
        Self { shared: Arc::new(Shared { signals, source, listener: Mutex::new(None) }) }
    }

    pub(crate) fn subscribe(&self, channels: &[Channel]) -> Subscription {
        let wanted: HashSet<Channel> = channels.iter().copied().collect();
        let signals = self.shared.signals.subscribe();
        let asked = self.shared.listen(&wanted);
        Subscription {
            _hub: Arc::clone(&self.shared),
            signals,
            unconfirmed: if asked { wanted.clone() } else { HashSet::new() },
            wanted,
            only_vm: None,
            rescan: true,
        }
    }

    /// Tells the listeners of a SQLite database about committed changes, here and in other processes.
    pub(crate) fn announce(&self, notices: &[(Channel, String)]) {
        for (channel, payload) in notices {
            // Nobody listening is no error.
            let _ = self.shared.signals.send(Signal::Notified(*channel, payload.as_str().into()));
        }
        if let Source::Sqlite { path: Some(path), me, .. } = &self.shared.source {
            sqlite::wake_others(path, me, notices);
        }
    }
}

impl Shared {
    /// Makes sure that somebody listens; tells whether channels will be confirmed one by one.
    fn listen(&self, wanted: &HashSet<Channel>) -> bool {
        // Memory has no other process; the commits themselves announce.
        if matches!(self.source, Source::Sqlite { path: None, .. }) {
            return false;
        }
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        // A task whose runtime ended is replaced in ours.
        if listener.as_ref().is_none_or(|l| l.task.is_finished()) {
            *listener = Some(self.start());
        }
        let Some(Listener { channels, .. }) = &*listener else { return false };
        wanted.iter().all(|channel| channels.send(*channel).is_ok())
    }

    fn start(&self) -> Listener {
        let signals = self.signals.clone();
        match &self.source {
            Source::Postgres { options, limits } => {
                let (channels, asked) = mpsc::unbounded_channel();
                let task = tokio::spawn(postgres::listen(options.clone(), *limits, asked, signals));
                Listener { task, channels }
            }
            Source::Sqlite { writer, path, me } => {
                let (channels, asked) = mpsc::unbounded_channel();
                let path = path.clone().unwrap_or_default();
                let task = tokio::spawn(sqlite::listen(writer.clone(), path, me.clone(), asked, signals));
                Listener { task, channels }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get_mut().unwrap_or_else(PoisonError::into_inner) {
            listener.task.abort();
        }
    }
}

/// Signals that a subscription may leave unread before it must rescan.
const CAPACITY: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_those_of_version_3_5_and_read_back() {
        let host = HostId::new(12);
        let all = [
            (Channel::VmCommands(host), "qvd_cmd_for_vm_on_host12"),
            (Channel::UserCommands(host), "qvd_cmd_for_user_on_host12"),
            (Channel::HostCommands(host), "qvd_cmd_for_host12"),
            (Channel::ConfigChanged, "qvd_config_changed"),
            (Channel::VmState, "qvd_vm_state"),
        ];
        for (channel, name) in all {
            assert_eq!(channel.name(), name);
            assert_eq!(Channel::from_name(name), Some(channel));
        }
        assert_eq!(Channel::from_name("qvd_cmd_for_host"), None);
        assert_eq!(Channel::from_name("other"), None);
    }
}
