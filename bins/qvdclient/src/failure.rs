//! How the program ends when it does not end well.

use std::process::ExitCode;

use qvd_client::Error;
use qvd_core::config::ConfigError;

/// Why it ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An option is wrong.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error("cannot use the configuration")]
    Config(#[source] ConfigError),
    /// A file cannot be read or written.
    #[error("cannot {operation} '{path}'")]
    File {
        /// `read` or `write`.
        operation: &'static str,
        /// Its name.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Something of the system is missing.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Before a virtual machine was asked for.
    #[error(transparent)]
    Listing(Error),
    /// After that.
    #[error(transparent)]
    Connecting(Error),
    /// The desktop was on the screen and its connection broke.
    #[error("the session ended: {0}")]
    Broken(String),
    /// A signal.
    #[error("ended by signal {0}")]
    Signal(i32),
}

impl Failure {
    /// The exit status, as `--help` lists them.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Config(_) => 1,
            Self::File { .. } | Self::System { .. } => 9,
            Self::Listing(error) => of_client(error, 5),
            Self::Connecting(error) => of_client(error, 7),
            Self::Broken(_) => 8,
            // Signal numbers are small.
            Self::Signal(number) => 128 + *number as u8,
        })
    }

    /// What the user can do, where the error's own words do not say it.
    pub(crate) fn advice(&self) -> Option<String> {
        let (Self::Listing(error) | Self::Connecting(error)) = self else { return None };
        match error {
            Error::CertificateRejected { fingerprint, .. } => Some(format!(
                "compare the fingerprint with what the administrator says; to accept it: \
                 --accept-certificate {fingerprint}"
            )),
            Error::CertificateChanged { fingerprint, .. } => Some(format!(
                "only if the administrator confirms the change: --accept-certificate {fingerprint}"
            )),
            _ => None,
        }
    }
}

fn of_client(error: &Error, otherwise: u8) -> u8 {
    match error {
        Error::Setting { .. } => 1,
        Error::NoVms => 2,
        Error::NoChoice(_) => 6,
        Error::NxProxyFailed { .. } => 8,
        Error::NxProxyMissing { .. }
        | Error::NoDisplay
        | Error::ScreenUnreachable { .. }
        | Error::ScreenRefuses { .. }
        | Error::NoTlsProvider
        | Error::TrustStore { .. }
        | Error::Local { .. } => 9,
        _ => otherwise,
    }
}
