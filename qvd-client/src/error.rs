//! Why there is no desktop, in words that a user understands.

use std::io;
use std::time::Duration;

use qvd_core::ErrorKind;

use crate::trust::Fingerprint;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a list, a connect or a session failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot be used.
    #[error("{what} '{value}' cannot be used: {why}")]
    Setting {
        /// What it is for.
        what: &'static str,
        /// Its text.
        value: String,
        /// Why not, and what would do.
        why: String,
    },
    /// The server's name has no address.
    #[error("the server name '{host}' cannot be resolved; check its spelling and your network")]
    Resolve {
        /// Name.
        host: String,
        /// The resolver's answer.
        #[source]
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("{server} refused the connection; check the port, or the server is down")]
    ConnectionRefused {
        /// Server and port.
        server: String,
    },
    /// No way there, or no answer.
    #[error("cannot reach {server}")]
    Unreachable {
        /// Server and port.
        server: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The server speaks only TLS versions or ciphers that are no longer safe.
    #[error(
        "{server} offers only outdated encryption (TLS 1.2 or newer is needed); its administrator must update it"
    )]
    TlsTooOld {
        /// Server and port.
        server: String,
    },
    /// What answers is not TLS.
    #[error(
        "{server} does not speak TLS; check the port, or turn TLS off if this server is meant to go without"
    )]
    NotTls {
        /// Server and port.
        server: String,
    },
    /// The encrypted connection could not be set up.
    #[error("no secure connection to {server}")]
    Tls {
        /// Server and port.
        server: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// No TLS provider was installed by the program.
    #[error("no TLS provider is installed; the program must install one before it connects")]
    NoTlsProvider,
    /// The certificate has flaws that the settings do not let anybody accept.
    #[error("the certificate of {server} is refused: {problems} (fingerprint {fingerprint})")]
    CertificateUnacceptable {
        /// Server and port.
        server: String,
        /// Its fingerprint.
        fingerprint: Fingerprint,
        /// What is wrong, for people.
        problems: String,
    },
    /// The certificate was shown and rejected.
    #[error("the certificate of {server} was not accepted: {problems} (fingerprint {fingerprint})")]
    CertificateRejected {
        /// Server and port.
        server: String,
        /// Its fingerprint.
        fingerprint: Fingerprint,
        /// What is wrong, for people.
        problems: String,
    },
    /// Another certificate than the remembered one, and nobody accepted the change.
    #[error(
        "THE CERTIFICATE OF {server} HAS CHANGED: remembered {remembered}, now {fingerprint}; somebody may be \
         reading along, so ask the administrator before you accept the new one"
    )]
    CertificateChanged {
        /// Server and port.
        server: String,
        /// Fingerprint now.
        fingerprint: Fingerprint,
        /// Fingerprint accepted before.
        remembered: Fingerprint,
    },
    /// Accepted certificates could not be read or saved.
    #[error("cannot {operation} the accepted certificates in '{path}'")]
    TrustStore {
        /// `read` or `save`.
        operation: &'static str,
        /// File.
        path: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// 401.
    #[error("login failed: wrong user name or password")]
    LoginFailed,
    /// 403, with the server's words.
    #[error("the server refuses: {0}")]
    Forbidden(String),
    /// 404 to a connect.
    #[error("{0}")]
    NoSuchVm(String),
    /// 404 to the list.
    #[error("{server} answers, but is not a QVD server")]
    NotQvd {
        /// Server and port.
        server: String,
    },
    /// 426.
    #[error("the server asks for a more up-to-date client")]
    ClientTooOld,
    /// 503, with the server's reason.
    #[error("not available: {0}")]
    Unavailable(String),
    /// 408: a virtual machine did not stop in time.
    #[error("the server gave up waiting: {0}")]
    ServerTimeout(String),
    /// Any other final answer.
    #[error("the server answers {code}: {text}")]
    Refused {
        /// Status code.
        code: u16,
        /// Its words.
        text: String,
    },
    /// The answer is not the protocol.
    #[error("the server's answer to {request} is not understood: {problem}")]
    Protocol {
        /// Request.
        request: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The server hung up.
    #[error("the server closed the connection while {during}")]
    Closed {
        /// What was going on.
        during: &'static str,
    },
    /// The connection broke.
    #[error("the connection broke while {during}")]
    Broken {
        /// What was going on.
        during: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer from the server while {during} for {} s", .after.as_secs())]
    TimedOut {
        /// What was going on.
        during: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The list is empty.
    #[error("you have no virtual machine; ask your administrator for one")]
    NoVms,
    /// None was chosen, or the choice is not on the list.
    #[error("{0}")]
    NoChoice(String),
    /// No X server answers where the desktop is to be shown.
    #[error("cannot reach your X display '{display}'; is DISPLAY right?")]
    ScreenUnreachable {
        /// As in `DISPLAY`.
        display: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The X server is there and does not let us in.
    #[error("your X display '{display}' lets no window of yours in: {reason}")]
    ScreenRefuses {
        /// As in `DISPLAY`.
        display: String,
        /// Why, and what can be done.
        reason: String,
    },
    /// The program that shows the desktop is not installed.
    #[error("'{program}' is not installed; install the package nxproxy (apt-get install nxproxy)")]
    NxProxyMissing {
        /// Program looked for.
        program: String,
    },
    /// There is no screen to show it on.
    #[error("there is no screen: DISPLAY is not set")]
    NoDisplay,
    /// The local end of the session could not be made.
    #[error("cannot {operation}")]
    Local {
        /// What was tried, with its subject.
        operation: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The desktop never came up on the screen.
    #[error("nxproxy could not show the desktop: {last_words}")]
    NxProxyFailed {
        /// Its last lines.
        last_words: String,
    },
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } | Self::NotTls { .. } => ErrorKind::Invalid,
            Self::LoginFailed
            | Self::Forbidden(_)
            | Self::CertificateUnacceptable { .. }
            | Self::CertificateRejected { .. }
            | Self::CertificateChanged { .. } => ErrorKind::Denied,
            Self::NoSuchVm(_) | Self::NotQvd { .. } | Self::NoVms | Self::NoChoice(_) => ErrorKind::NotFound,
            Self::ServerTimeout(_) | Self::TimedOut { .. } => ErrorKind::Timeout,
            Self::Resolve { .. }
            | Self::ConnectionRefused { .. }
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::Unavailable(_)
            | Self::Closed { .. }
            | Self::Broken { .. } => ErrorKind::Unavailable,
            Self::TlsTooOld { .. }
            | Self::ClientTooOld
            | Self::NxProxyMissing { .. }
            | Self::NoDisplay
            | Self::ScreenUnreachable { .. }
            | Self::ScreenRefuses { .. } => ErrorKind::Unsupported,
            Self::NoTlsProvider
            | Self::TrustStore { .. }
            | Self::Refused { .. }
            | Self::Protocol { .. }
            | Self::Local { .. }
            | Self::NxProxyFailed { .. } => ErrorKind::Internal,
            Self::Cancelled => ErrorKind::Conflict,
        }
    }

    /// An [`Error::Local`].
    pub(crate) fn local(operation: impl Into<String>, source: io::Error) -> Self {
        Self::Local { operation: operation.into(), source }
    }
}
