//! The house-keeping daemon of a node: `qvd-hkd [-f FILE] [--set KEY=VALUE]… [-X] [--check-config] [--keep-vms]`.
//!
//! | signal | does |
//! |---|---|
//! | SIGTERM, SIGINT | stops every virtual machine of this node, then ends; a second one kills what is left at once |
//! | SIGUSR2 | ends and leaves them running for the next daemon (restart, upgrade) |
//! | SIGHUP | reads the database's configuration again |
//! | SIGUSR1 | logs how many are in which state |
//!
//! `qvd-hkd holder …` is what the process driver starts for each of its virtual machines, not a command for people.

#![forbid(unsafe_code)]

mod process;

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser};
use qvd_bin_common::{
    Asked, ConfigFiles, Failure, LogTo, PidFile, Signals, add_database_config, init_tracing, load_config,
    open_db, report, write_manual,
};
use qvd_core::ErrorKind;
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::hypervisor::Hypervisor;
use qvd_db::Db;
use qvd_hypervisor::drivers::nothing::NothingDriver;
use qvd_hypervisor::drivers::process::{ProcessDriver, ProcessSettings};
use qvd_hypervisor::hkd::{self, Control, HkdSettings, Shutdown};
use tokio::sync::{mpsc, oneshot};

/// The house-keeping daemon of a QVD node: runs its virtual machines.
#[derive(Debug, Parser)]
#[command(name = "qvd-hkd", version)]
struct Args {
    /// Configuration file to read instead of node.conf and node.conf.d.
    #[arg(short = 'f', long = "config-file", visible_alias = "config", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Sets a configuration key; wins over files and database.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,

    /// Log to standard error.
    #[arg(short = 'X', long = "foreground")]
    foreground: bool,

    /// Check the configuration files and end.
    #[arg(long)]
    check_config: bool,

    /// Leave virtual machines running at SIGTERM too; the next daemon of this node goes on with them.
    #[arg(long)]
    keep_vms: bool,
}

fn main() -> ExitCode {
    // Before any thread exists: a holder makes namespaces.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "holder") {
        return qvd_hypervisor::holder::main(words);
    }
    if let Some(code) = write_manual(Args::command, 8, std::env::args_os().skip(1)) {
        return code;
    }
    let args = Args::parse();
    // The database's connections may use TLS. A second provider is no error: then one is there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report("qvd-hkd", &failure),
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
    process::check_account(&config)?;
    check_isolation(&config)?;
    if args.check_config {
        return Ok(());
    }
    init_tracing(&config, if args.foreground { LogTo::Stderr } else { LogTo::Configured }, &env);
    process::apply(&config);
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot start the runtime").because(e))?;
    let outcome = runtime.block_on(keep_house(config, args.keep_vms));
    // A thread that hangs in a storage never ends, and nobody needs its answer any more.
    runtime.shutdown_background();
    outcome
}

async fn keep_house(config: Config, keep_vms: bool) -> Result<(), Failure> {
    let mut signals = Signals::new()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot listen to signals").because(e))?;
    let (db, merged) = tokio::select! {
        opened = database(&config) => opened?,
        () = signals.stop() => return Ok(()),
    };
    let node = config.text("nodename");
    let (controls, wishes) = mpsc::channel(4);
    let mut settings = HkdSettings::new(db, config.clone(), node).controls(wishes);
    check_isolation(&merged)?;
    for driver in drivers(&merged)? {
        settings = settings.hypervisor(driver);
    }
    tokio::spawn(listen(signals, controls, keep_vms));
    let (ready, is_ready) = oneshot::channel();
    // Every end comes from a signal, and so over the controls.
    let mut house = pin!(hkd::run(settings.ready(ready), std::future::pending()));
    let outcome = tokio::select! {
        outcome = &mut house => outcome,
        // Not before this daemon has the node: another one's file is not touched.
        Ok(()) = is_ready => {
            let _pid_file = PidFile::write(&config.path("hkd.pid_file"), "hkd.pid_file");
            house.await
        }
    };
    outcome.map_err(|e| Failure::new(e.kind(), "the daemon stopped").because(e))
}

/// Turns signals into wishes. Who asks twice for the end does not want to wait for it.
async fn listen(mut signals: Signals, controls: mpsc::Sender<Control>, keep_vms: bool) {
    let mut ending = false;
    loop {
        let control = match signals.next().await {
            Asked::Stop if ending => Control::Shutdown(Shutdown::Abort),
            Asked::Stop if keep_vms => Control::Shutdown(Shutdown::KeepVms),
            Asked::Stop => Control::Shutdown(Shutdown::Stop),
            Asked::Leave => Control::Shutdown(Shutdown::KeepVms),
            Asked::Reload => Control::Reload,
            Asked::Report => Control::Report,
        };
        ending |= matches!(control, Control::Shutdown(_));
        if controls.send(control).await.is_err() {
            return;
        }
    }
}

/// Every built-in driver; which of them work here is found out by their checks.
fn drivers(config: &Config) -> Result<Vec<Arc<dyn Hypervisor>>, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot find the running program").because(e))?;
    let process = ProcessDriver::new(ProcessSettings::from_config(config, &program));
    let nothing = NothingDriver::from_config(config);
    Ok(vec![Arc::new(process), Arc::new(nothing)])
}

fn check_isolation(config: &Config) -> Result<(), Failure> {
    if config.text("vm.process.isolation") != "none" {
        return Ok(());
    }
    let text = "'vm.process.isolation' is 'none', which only 'qvd standalone' may use: desktops of a node would see and \
                signal each other. Set it to auto; 'qvd doctor' tells what namespaces need here";
    Err(Failure::new(ErrorKind::Invalid, text))
}

/// The database, and its settings laid over the files'. A node may come up before its database does.
async fn database(config: &Config) -> Result<(Db, Config), Failure> {
    loop {
        let opened = async {
            let db = open_db(config).await?;
            let merged = add_database_config(config, &db).await?;
            Ok::<_, Failure>((db, merged))
        };
        match opened.await {
            Err(failure) if failure.kind() == ErrorKind::Unavailable => {
                tracing::warn!("{}; trying again", chain(&failure));
                tokio::time::sleep(RETRY).await;
            }
            opened => return opened,
        }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// Between tries to reach the database at the start.
const RETRY: Duration = Duration::from_secs(5);
