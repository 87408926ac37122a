//! The agent as a whole: binds, serves, and leaves nothing behind when it ends.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qvd_core::ErrorKind;
use qvd_core::config::Config;
use qvd_core::hook::HookKind;
use qvd_core::state::XState;
use tokio::sync::Notify;

use crate::dialog;
use crate::hooks::Hooks;
use crate::rpc::{self, Listener, Methods};
use crate::settings::{InvalidSetting, Settings};
use crate::xsession::guard::{self, GuardMode};
use crate::xsession::prepare::Context;
use crate::xsession::task::{XSession, run_state_hooks};

mod leftovers;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that the agent cannot work with.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// It does not know its own program.
    #[error("cannot find out the agent's own program")]
    OwnProgram(#[source] io::Error),
    /// A directory cannot be made or a file not be put into it.
    #[error("cannot use the directory '{}'", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guard that the configuration demands has no place.
    #[error(transparent)]
    Guard(#[from] guard::NoPlace),
    /// The place for calls cannot be opened.
    #[error("cannot listen for calls on {place}")]
    Listen {
        /// Socket path or port.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting(_) => ErrorKind::Invalid,
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => ErrorKind::Conflict,
            Self::OwnProgram(_) | Self::Directory { .. } | Self::Guard(_) | Self::Listen { .. } => {
                ErrorKind::Unavailable
            }
        }
    }
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Runs an agent: serves calls where the configuration says, supervises the X session, until `shutdown` completes
/// or the machine is to be powered off. The session is ended then.
///
/// # Cancellation
///
/// Dropping the future kills the X session at once.
///
/// # Errors
///
/// [`Error`], before anything was started.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let settings = settings(&config)?;
    let listener = bind(&settings).await?;
    serve(settings, listener, shutdown).await
}

/// The agent's settings, with this process's own program and search path.
///
/// # Errors
///
/// [`Error::Setting`], [`Error::OwnProgram`].
pub fn settings(config: &Config) -> Result<Settings> {
    let own_program = std::env::current_exe().map_err(Error::OwnProgram)?;
    let search_path = std::env::var("PATH").unwrap_or_else(|_| SEARCH_PATH.to_owned());
    Ok(Settings::from_config(config, own_program, search_path)?)
}

/// Opens the place for calls: the unix socket that is configured, else the TCP port.
///
/// # Errors
///
/// [`Error::Listen`].
pub async fn bind(settings: &Settings) -> Result<Listener> {
    match &settings.rpc_socket {
        Some(path) => {
            if let Some(dir) = path.parent() {
                make_dir(dir)?;
            }
            Listener::bind_unix(path)
                .map_err(|source| Error::Listen { place: format!("'{}'", path.display()), source })
        }
        None => Listener::bind_tcp(settings.rpc_port)
            .await
            .map_err(|source| Error::Listen { place: format!("TCP port {}", settings.rpc_port), source }),
    }
}

/// As [`run`], with a listener that is there already.
///
/// # Cancellation
///
/// As for [`run`].
///
/// # Errors
///
/// [`Error::Directory`], [`Error::Guard`].
pub async fn serve(
    mut settings: Settings,
    listener: Listener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    for dir in [&settings.run_dir, &settings.log_dir] {
        make_dir(dir)?;
    }
    leftovers::clear(&settings).await;
    settings.dialog = dialog::program(settings.dialog.as_deref(), &settings.own_program, &settings.run_dir);
    let library = guard_library(&settings).await?;
    tracing::info!(guard = library.is_some(), "agent serves");
    let hooks = Hooks::new(settings.hooks.clone());
    let context = Arc::new(Context { settings, hooks, guard: library });
    // What an earlier life of the machine left behind, queues of printers above all, is not there any more.
    run_state_hooks(&context, HookKind::Disconnected, None, XState::Stopped);

    let (session, task) = XSession::spawn(Arc::clone(&context));
    let power_off = Arc::new(Notify::new());
    let methods = Methods::new(Arc::clone(&context), session.clone(), Arc::clone(&power_off));
    let ending = async {
        tokio::select! {
            () = shutdown => tracing::info!("agent is told to end"),
            () = power_off.notified() => {}
        }
    };
    rpc::serve(listener, Arc::new(methods), ending).await;
    session.shut_down(task).await;
    context.hooks.settle(LAST_HOOKS).await;
    tracing::info!("agent has ended");
    Ok(())
}

/// The library for nxagent, put where it can be loaded from; `None` when the agent is to do without it, or has to.
async fn guard_library(settings: &Settings) -> Result<Option<PathBuf>> {
    if !guard::is_wanted(settings.guard, &settings.nxagent).await {
        return Ok(None);
    }
    match guard::install(&[&settings.run_dir, &settings.guard_dir]) {
        Ok(library) => Ok(Some(library)),
        Err(error) if settings.guard == GuardMode::On => Err(Error::Guard(error)),
        Err(error) => {
            tracing::error!(%error, "desktops can be lost when a link breaks during a resume");
            Ok(None)
        }
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|source| Error::Directory { dir: dir.to_owned(), source })
}

/// Search path of a process that has none.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";

/// How long state hooks are waited for at the end.
const LAST_HOOKS: Duration = Duration::from_secs(5);
