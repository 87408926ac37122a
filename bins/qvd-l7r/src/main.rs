//! The router of a node: `qvd-l7r [-f FILE] [--set KEY=VALUE]… [-X] [--succeed] [--check-config]`.
//!
//! The first SIGTERM or SIGINT ends it in order: the port is given up, desktops live on until their users leave
//! or `l7r.drain.timeout` passes. The second ends them too.
//!
//! Started by root it listens, then becomes the account of `l7r.as_user`, and only then opens what it works with.
//! Sockets that a service manager opened (`LISTEN_FDS`) are used instead of `l7r.address` and `l7r.port`.
//!
//! With `--succeed` it takes the listening sockets of the router that serves, when it has built all else. As root it only
//! looks whether there is one, because it could not listen on a port of the system's later; it asks as the account.

#![forbid(unsafe_code)]

mod process;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{CommandFactory as _, Parser};
use qvd_bin_common::{
    ConfigFiles, Failure, LogTo, MetricsPage, PidFile, SessionThreads, Signals, add_database_config,
    init_tracing, load_config, open_db, report, write_manual,
};
use qvd_core::ErrorKind;
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_db::Db;
use qvd_l7r::{BoundRouter, ReadyRouter, Router, RouterBuilder, Succession};

use self::process::Account;

/// What thousands of handshakes leave free between the sessions is used again, not left as holes.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The layer-7 router of a QVD node.
#[derive(Debug, Parser)]
#[command(name = "qvd-l7r", version)]
struct Args {
    /// Configuration file to read instead of node.conf and node.conf.d.
    #[arg(short = 'f', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Sets a configuration key; wins over files and database.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,

    /// Log to standard error.
    #[arg(short = 'X', long = "foreground")]
    foreground: bool,

    /// Take over from the router that runs with the same configuration.
    ///
    /// For upgrades: no connection is refused and no desktop is dropped. This process asks the running one for its
    /// listening sockets once it is ready to serve; the other one then stops accepting and ends with its last
    /// connection. When this process fails, the other one goes on. Without a running router this is a usual start, so
    /// that a service may always be started this way. Not for sockets of a service manager, which keeps them itself.
    #[arg(long)]
    succeed: bool,

    /// Check the configuration files and end.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    if let Some(code) = write_manual(Args::command, 8, std::env::args_os().skip(1)) {
        return code;
    }
    let args = Args::parse();
    // The database's connections may use TLS too. A second provider is no error: then one is there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report("qvd-l7r", &failure),
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let config = load_config(&ConfigFiles::node(args.config.as_deref(), &env), &env, &args.set)?;
    if config.text("nodename").is_empty() {
        let text = "configuration key 'nodename' is not set; write it into node.conf";
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    qvd_bin_common::backend(&config)?;
    if args.check_config {
        // Only then: at a start, the database may say something else of these keys.
        Router::check_config(&config)
            .map_err(|e| Failure::new(e.kind(), "cannot use the configuration").because(e))?;
        SessionThreads::check(&config)?;
        return Account::wanted(&config).map(drop);
    }
    let sockets = process::given_sockets()?;
    if args.succeed && !sockets.is_empty() {
        let text = "the service manager gives the sockets (LISTEN_FDS), so that there are none to take over; remove \
                    '--succeed'";
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    process::apply_umask(&config);
    init_tracing(&config, if args.foreground { LogTo::Stderr } else { LogTo::Configured }, &env);
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot start the runtime").because(e))?;
    runtime.block_on(route(config, args.succeed, sockets))
}

async fn route(files: Config, succeed: bool, mut sockets: Vec<TcpListener>) -> Result<(), Failure> {
    let mut signals = Signals::new()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot listen to signals").because(e))?;
    let (mut db, config) = tokio::select! {
        opened = database(&files) => opened?,
        () = signals.stop() => return Ok(()),
    };
    let account = Account::wanted(&config)?;
    let metrics = MetricsPage::wanted(&config);
    process::apply_umask(&config);
    process::make_room(&config);
    // A service manager keeps its sockets, and gives them to the next one itself.
    let succession = match sockets.is_empty() {
        true => Some(Succession::of(&config).map_err(unstarted)?),
        false => None,
    };
    let predecessor = match &succession {
        Some(succession) if succeed && succession.is_held().map_err(unstarted)? => Some(succession),
        Some(_) | None => None,
    };
    if sockets.is_empty() && predecessor.is_none() {
        sockets = qvd_l7r::listen(&config).map_err(|e| unheard(e, succeed))?;
    }
    Router::make_run_dir(&config).map_err(|e| {
        let text = format!("cannot make '{}' (path.run)", Router::run_dir(&config).display());
        Failure::new(ErrorKind::Unavailable, text).because(e)
    })?;
    let pid_place = PidFile::prepare(&config.path("l7r.pid_file"), "l7r.pid_file");
    if let Some(account) = &account {
        account.own(&Router::run_dir(&config))?;
        account.become_it()?;
        // Opened anew: what the account may not do shows now, and not at the first lost connection.
        db = open_db(&files).await.map_err(|failure| account.blame(failure))?;
    }
    process::warn_of_root();
    let threads = SessionThreads::start(&config)?;
    let node = config.text("nodename");
    let builder = Router::builder(db, node).config(config).workers(threads.runtimes());
    let mut router = match predecessor {
        Some(predecessor) => ready(builder).await?.succeed(predecessor).await.map_err(unstarted)?,
        None => ready(builder.listeners(sockets)).await?.bind().map_err(unstarted)?,
    };
    if let Some(succession) = &succession
        && let Err(error) = router.offer(succession)
    {
        tracing::warn!("the next router cannot take over from this one: {}", chain(&error));
    }
    let pid_file = Arc::new(OnceLock::new());
    let pid_slot = pid_file.clone();
    // The one before keeps its own until then.
    router.once_established(move || drop(pid_slot.set(pid_place.write())));
    let fingerprint = router.fingerprint().map(|f| f.to_string()).unwrap_or_else(|| "no TLS".to_owned());
    for address in router.local_addrs() {
        tracing::info!(%address, fingerprint, "listening");
    }
    let _page = metrics.map(|page| page.serve(router.handle()));
    let served = serve(router, signals).await;
    drop(pid_file);
    served
}

/// A node may come up before its database does.
async fn database(config: &Config) -> Result<(Db, Config), Failure> {
    loop {
        let opened = async {
            let db = open_db(config).await?;
            let config = add_database_config(config, &db).await?;
            Ok::<_, Failure>((db, config))
        };
        match opened.await {
            Err(failure) if failure.kind() == ErrorKind::Unavailable => {
                tracing::warn!("{}; trying again", chain(&failure));
                tokio::time::sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

async fn ready(builder: RouterBuilder) -> Result<ReadyRouter, Failure> {
    builder.build().map_err(unstarted)?.ready().await.map_err(unstarted)
}

fn unstarted(error: qvd_l7r::Error) -> Failure {
    Failure::new(error.kind(), "cannot start the router").because(error)
}

/// A port that is taken is most often taken by the router that is to be replaced.
fn unheard(error: qvd_l7r::Error, succeed: bool) -> Failure {
    let text = match (error.kind(), succeed) {
        (ErrorKind::Conflict, false) => {
            "cannot start the router; 'qvd-l7r --succeed' takes over from one that runs"
        }
        (ErrorKind::Conflict, true) => {
            "cannot take over: whoever has the port answers nobody in 'path.run' for these addresses; end it first"
        }
        _ => return unstarted(error),
    };
    Failure::new(ErrorKind::Conflict, text).because(error)
}

async fn serve(router: BoundRouter, mut signals: Signals) -> Result<(), Failure> {
    let handle = router.handle();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // As a task of its own, and not on this thread: what is accepted then begins on the thread that accepted it.
    let serving = tokio::spawn(router.serve(async move {
        let _ = stopped.await;
    }));
    let asking = async move {
        signals.stop().await;
        let _ = stop.send(());
        loop {
            signals.stop().await;
            handle.end_sessions();
        }
    };
    tokio::select! {
        served = serving => match served {
            Ok(served) => served.map_err(|e| Failure::new(e.kind(), "the router stopped").because(e)),
            Err(bug) => Err(Failure::new(ErrorKind::Internal, "the router stopped").because(bug)),
        },
        never = asking => never,
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// Between tries to reach the database at the start.
const RETRY: Duration = Duration::from_secs(5);
