//! The `qa` program: the administration of QVD on the command line. Answers to `qvd-admin` and `qvd-admin.pl`, too: the
//! name it is called by makes no difference.
//!
//! Configuration: `/etc/qvd/node.conf` and what belongs to it, or the file that `QVD_CONFIG` names.

#![forbid(unsafe_code)]

mod manual;
mod terminal;

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use qvd_admin::cli::{self, Console};
use qvd_admin::{Admin, Error};
use qvd_bin_common::{ConfigFiles, Failure, GENERATE_MANUAL, add_database_config, load_config, open_db};
use qvd_core::balance::Weighted;
use terminal::Echo;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == GENERATE_MANUAL) {
        return write_manual(&words.next().map(PathBuf::from).unwrap_or_default());
    }
    // The command runs on this thread; the other one takes signals while this one waits for a typed line.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => {
            eprintln!("Error: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_manual(dir: &Path) -> ExitCode {
    let file = dir.join("qa.8");
    match fs::write(&file, manual::page()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: cannot write '{}': {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

async fn run() -> ExitCode {
    let echo = Echo::default();
    if let Err(error) = echo.guard_against_signals() {
        eprintln!("Error: cannot start: {error}");
        return ExitCode::FAILURE;
    }
    let mut show = |visible| echo.show(visible);
    let terminal = io::stdin().is_terminal();
    let mut console = Console {
        out: &mut io::stdout().lock(),
        err: &mut io::stderr(),
        input: &mut io::stdin().lock(),
        echo: if terminal { Some(&mut show) } else { None },
        exec: &mut become_program,
        read_file: &|path| fs::read_to_string(path),
    };
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    ExitCode::from(cli::run(arguments, &mut console, connect).await)
}

/// Comes back only when it cannot.
fn become_program(argv: &[String]) -> io::Error {
    match argv {
        [program, arguments @ ..] => Command::new(program).args(arguments).exec(),
        [] => io::ErrorKind::InvalidInput.into(),
    }
}

async fn connect() -> Result<Admin, Error> {
    open().await.map_err(|failure| Error::Connect { kind: failure.kind(), source: Box::new(failure) })
}

async fn open() -> Result<Admin, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let config = load_config(&ConfigFiles::node(None, &env), &env, &[])?;
    let db = open_db(&config).await?;
    let config = add_database_config(&config, &db).await?;
    for problem in config.rejected() {
        eprintln!("Warning: {problem}");
    }
    let balancer = Arc::new(Weighted::from_config(&config));
    Ok(Admin::new(db, config, balancer))
}
