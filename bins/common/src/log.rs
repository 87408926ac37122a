//! The log: level, place and form from the configuration.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use qvd_core::config::Config;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// Where `log.preset` and `log.filename` say; standard error when the file cannot be opened.
    Configured,
    /// Standard error (option `-X`, foreground).
    Stderr,
}

/// Starts the log of this process. A second call changes nothing.
///
/// `log.level` names the level of QVD's own parts; other libraries stay at `WARN` unless the level is `ALL` or
/// `TRACE`. `QVD_LOG` in the environment, a list of `target=level`, wins over both.
pub fn init_tracing(config: &Config, to: LogTo, env: &dyn Fn(&str) -> Option<String>) {
    let directives = env("QVD_LOG").unwrap_or_else(|| filter_for(&config.text("log.level")));
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("warn"));
    let (writer, colour, complaint) = writer(config, to);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(writer);
    let started = match config.text("log.format").as_str() {
        "json" => builder.json().try_init(),
        _ => builder.try_init(),
    };
    if let (Ok(()), Some(complaint)) = (started, complaint) {
        tracing::warn!("{complaint}");
    }
}

fn filter_for(level: &str) -> String {
    let own = match level.to_ascii_uppercase().as_str() {
        "ALL" | "TRACE" => return "trace,sqlx=info".to_owned(),
        "OFF" => return "off".to_owned(),
        "DEBUG" => "debug",
        "WARN" => "warn",
        "ERROR" | "FATAL" => "error",
        _ => "info",
    };
    let parts =
        ["qvd", "qvd_hkd", "qvd_l7r", "qvd_hypervisor", "qvd_db", "qvd_vma", "qvd_core", "qvd_bin_common"];
    let others = if own == "error" { "error" } else { "warn" };
    parts.iter().fold(others.to_owned(), |text, part| format!("{text},{part}={own}"))
}

fn writer(config: &Config, to: LogTo) -> (BoxMakeWriter, bool, Option<String>) {
    use std::io::IsTerminal;
    let stderr = || (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal());
    let wants_file =
        to == LogTo::Configured && matches!(config.text("log.preset").as_str(), "file" | "custom" | "");
    if !wants_file || config.text("log.filename").is_empty() {
        let (writer, colour) = stderr();
        return (writer, colour, None);
    }
    let path = config.path("log.filename");
    match open_log(&path) {
        Ok(file) => (BoxMakeWriter::new(Arc::new(file)), false, None),
        Err(e) => {
            let (writer, colour) = stderr();
            let complaint =
                format!("cannot open log file '{}': {e}; logging to standard error", path.display());
            (writer, colour, Some(complaint))
        }
    }
}

fn open_log(path: &PathBuf) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_reach_our_parts_only() {
        assert!(filter_for("debug").contains("qvd_hypervisor=debug"));
        assert!(filter_for("DEBUG").starts_with("warn,"));
        assert_eq!(filter_for("OFF"), "off");
        for level in ["ALL", "TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "OFF"] {
            EnvFilter::try_new(filter_for(level)).unwrap();
        }
    }
}
