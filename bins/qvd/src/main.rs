//! The `qvd` program: a whole site in one process, and the tools around a site.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

mod data_dir;
mod database;
mod doctor;
mod standalone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use qvd_bin_common::{ConfigFiles, Failure, load_config, report, write_manual};
use qvd_core::ErrorKind;
use qvd_hypervisor::drivers::process::apparmor_profile;

/// Virtual desktops: a whole site in one process, and the tools around a site.
#[derive(Debug, Parser)]
#[command(name = "qvd", version, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs database, house-keeping daemon and router in this process, until SIGTERM or Ctrl-C.
    Standalone {
        /// Directory of everything that this site keeps; made when it is not there.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Where clients connect. Without it loopback only, port 8443 or a free one when that is taken.
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
        /// Sets a configuration key; wins over file and database.
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
        set: Vec<(String, String)>,
    },
    /// Tries every prerequisite of this machine and names the remedy for what is missing.
    Doctor {
        /// Prints the findings as JSON.
        #[arg(long)]
        json: bool,
        /// Configuration file to read instead of node.conf and node.conf.d.
        #[arg(short = 'f', long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Prints the AppArmor profile that lets a program make user namespaces, for systems that restrict them.
    ApparmorProfile {
        /// The program; this one when none is named.
        #[arg(value_name = "PROGRAM")]
        program: Option<PathBuf>,
    },
    /// Configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The site's database.
    #[command(subcommand)]
    Db(DbCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Checks a configuration file, or those of this node.
    Check {
        /// The file.
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Makes all tables in the database that the configuration names.
    Deploy {
        /// Removes what is there and makes everything anew. There is no way back.
        #[arg(short, long)]
        force: bool,
        /// Configuration file to read instead of node.conf and node.conf.d.
        #[arg(long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Checks that the database answers and has the right tables.
    Check {
        /// Configuration file to read instead of node.conf and node.conf.d.
        #[arg(short = 'f', long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    // The holder of a process machine makes namespaces, which must happen before any thread exists.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "holder") {
        return qvd_hypervisor::holder::main(words);
    }
    if let Some(code) = write_manual(Args::command, 8, std::env::args_os().skip(1)) {
        return code;
    }
    let args = Args::parse();
    // A second provider is no error: then one is there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(args.command) {
        Ok(code) => code,
        Err(failure) => report("qvd", &failure),
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    match command {
        Command::Standalone { data_dir, listen, set } => {
            block_on(standalone::run(&data_dir, listen, &set)).map(|()| ExitCode::SUCCESS)
        }
        Command::Doctor { json, config } => {
            let config = load_config(&ConfigFiles::node(config.as_deref(), &env), &env, &[])?;
            let findings = block_on(async { Ok(doctor::examine(&config).await) })?;
            Ok(doctor::print(&findings, json))
        }
        Command::ApparmorProfile { program } => {
            let named = program.map_or_else(std::env::current_exe, Ok).and_then(|path| path.canonicalize());
            let program =
                named.map_err(|e| Failure::new(ErrorKind::NotFound, "cannot find the program").because(e))?;
            print!("{}", apparmor_profile(&program));
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Check { file }) => {
            let config = load_config(&ConfigFiles::node(file.as_deref(), &env), &env, &[])?;
            println!("configuration is fine, {} warnings", config.warnings().len());
            Ok(ExitCode::SUCCESS)
        }
        Command::Db(DbCommand::Deploy { force, config }) => {
            let config = load_config(&ConfigFiles::node(config.as_deref(), &env), &env, &[])?;
            block_on(database::deploy(&config, force)).map(|()| ExitCode::SUCCESS)
        }
        Command::Db(DbCommand::Check { config }) => {
            let config = load_config(&ConfigFiles::node(config.as_deref(), &env), &env, &[])?;
            block_on(database::check(&config)).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot start the runtime").because(e))?;
    let outcome = runtime.block_on(work);
    // A thread that hangs in a system call, as in a dead network mount, does not keep the program.
    runtime.shutdown_timeout(LAST_THREADS);
    outcome
}

/// How long threads may take to end behind the work.
const LAST_THREADS: std::time::Duration = std::time::Duration::from_secs(2);

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
