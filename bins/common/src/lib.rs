//! What every QVD program does first, and nothing that a library would want: configuration files → [`Config`](qvd_core::config::Config),
//! [`Config`](qvd_core::config::Config) → `Db`, the log, signals and the exit code.
//!
//! | step | function |
//! |---|---|
//! | find and read the configuration | [`load_config`] with [`ConfigFiles`] |
//! | start the log | [`init_tracing`] |
//! | open the database | `open_db`, then `add_database_config` (feature `database`) |
//! | name the process | [`PidFile`] |
//! | give the desktops threads of their own | [`SessionThreads`] |
//! | tell what a router counts | `MetricsPage` (feature `metrics`) |
//! | wait for the end | [`Signals`] |
//! | say what went wrong | [`report`] |
//!
//! [`write_manual`] is for whoever makes a package: the manual pages come from the programs themselves.

#![forbid(unsafe_code)]

mod config_files;
#[cfg(feature = "database")]
mod database;
mod exit;
mod log;
mod manual;
#[cfg(feature = "metrics")]
mod metrics_page;
mod pid_file;
mod session_threads;
mod signals;

pub use config_files::{ConfigFiles, load_config};
#[cfg(feature = "database")]
pub use database::{add_database_config, backend, open_db};
pub use exit::{Failure, exit_code, report};
pub use log::{LogTo, init_tracing};
pub use manual::{GENERATE_MANUAL, write_manual};
#[cfg(feature = "metrics")]
pub use metrics_page::{MetricsPage, ServedPage};
pub use pid_file::{PidFile, PidPlace};
pub use session_threads::SessionThreads;
pub use signals::{Asked, Signals};
