//! The `qvd-vma` program: the agent inside a virtual machine.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use qvd_bin_common::{ConfigFiles, Failure, LogTo, Signals, init_tracing, load_config, report, write_manual};
use qvd_core::ErrorKind;
use qvd_core::config::Config;
use qvd_vma::agent;
use qvd_vma::dialog;
use qvd_vma::rpc::Listener;
use qvd_vma::session_exec::SessionExec;
use qvd_vma::settings::Settings;

/// The agent inside a QVD virtual machine: serves the calls of routers and hosts, runs the user's desktop.
#[derive(Debug, Parser)]
#[command(name = "qvd-vma", version)]
struct Options {
    /// Configuration file; may be given more than once, a later one wins. Default: /etc/qvd/vma.conf
    #[arg(short = 'f', long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,

    /// Set a configuration key; wins over every file
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,

    /// Check the configuration and end
    #[arg(long)]
    check_config: bool,

    /// Log to standard error
    #[arg(short = 'X', long)]
    foreground: bool,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called = words.next().map(PathBuf::from).unwrap_or_default();
    if called.file_name().is_some_and(|name| name == dialog::PROGRAM) {
        dialog::run(words);
        return ExitCode::SUCCESS;
    }
    let words: Vec<_> = words.collect();
    if let Some(arguments) = SessionExec::asked_for(&words) {
        return become_program(arguments.to_vec());
    }
    if let Some(code) = write_manual(Options::command, 8, words) {
        return code;
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report("qvd-vma", &error),
    }
}

/// Before any thread exists: this process becomes another program, or its parent.
fn become_program(arguments: Vec<std::ffi::OsString>) -> ExitCode {
    match SessionExec::from_arguments(arguments).and_then(SessionExec::run) {
        Ok(status) => ExitCode::from(status),
        Err(error) => report("qvd-vma session-exec", &error),
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let config = load_config(&files(options), &env, &options.set)?;
    let settings = agent::settings(&config).map_err(failure)?;
    if options.check_config {
        return Ok(());
    }
    let log = if options.foreground { LogTo::Stderr } else { LogTo::Configured };
    init_tracing(&config, log, &env);
    let umask = nix::sys::stat::Mode::from_bits_truncate(config.octal("vma.user.umask"));
    nix::sys::stat::umask(umask);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ErrorKind::Unavailable, "cannot start the runtime").because(error))?
        .block_on(serve(&config, settings))
}

async fn serve(config: &Config, settings: Settings) -> Result<(), Failure> {
    let internal = |text: &str, error: std::io::Error| Failure::new(ErrorKind::Internal, text).because(error);
    // Before anything that a signal could leave half done.
    let mut signals = Signals::new().map_err(|error| internal("cannot listen for signals", error))?;
    let inherited =
        Listener::from_stdin().map_err(|error| internal("cannot use the inherited socket", error))?;
    let listener = match inherited {
        Some(listener) => listener,
        None => agent::bind(&settings).await.map_err(failure)?,
    };
    let pid_file = PidFile::write(config.path("vma.pid_file"));
    let served = agent::serve(settings, listener, signals.stop()).await;
    drop(pid_file);
    served.map_err(failure)
}

fn files(options: &Options) -> ConfigFiles {
    if options.config.is_empty() {
        return ConfigFiles::default().optional("/etc/qvd/vma.conf");
    }
    options.config.iter().fold(ConfigFiles::default(), ConfigFiles::required)
}

fn failure(error: agent::Error) -> Failure {
    Failure::new(error.kind(), "the agent cannot run").because(error)
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// For service managers; an agent that cannot write it runs all the same.
#[derive(Debug)]
struct PidFile(Option<PathBuf>);

impl PidFile {
    fn write(path: PathBuf) -> Self {
        if path.as_os_str().is_empty() {
            return Self(None);
        }
        match std::fs::write(&path, format!("{}\n", std::process::id())) {
            Ok(()) => Self(Some(path)),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "no pid file");
                Self(None)
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // It is only a convenience; the next agent replaces it.
            drop(std::fs::remove_file(path));
        }
    }
}
