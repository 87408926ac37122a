//! The agent inside a virtual machine, as its callers see it.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::ErrorKind;
use crate::state::XState;

/// Ordered name/value pairs handed to the agent; hooks receive them in this order.
pub type Params = Vec<(String, String)>;

/// Calls of the agent's remote interface.
///
/// # Contract
///
/// * Calls may come concurrently; [`x_start`](Vma::x_start) calls are served one after another.
/// * [`x_start`](Vma::x_start) succeeds only in `stopped` and `suspended`; in any other state it answers
///   [`VmaError::Refused`] with a text for people, and the caller asks again later. In `connected` it also begins to
///   suspend the desktop, so that asking again succeeds when the one who looked is gone without a word.
/// * [`x_suspend`](Vma::x_suspend) keeps a desktop that somebody has looked at; one that nobody ever saw may end.
/// * [`x_state`](Vma::x_state) tells the truth at that moment: a dead desktop is `stopped` at the next call.
/// * [`ping`](Vma::ping) answers without waiting for anything else.
///
/// # Cancellation
///
/// A dropped call may still take effect inside the virtual machine; ask [`x_state`](Vma::x_state).
///
/// # Errors
///
/// [`VmaError::Refused`] when the agent answered that it will not; [`VmaError::Unreachable`] when no
/// answer came; [`VmaError::Unsupported`] when an older agent lacks the method.
///
/// # Example
///
/// ```
/// use qvd_core::state::XState;
/// use qvd_core::vma::{Params, Vma, VmaError};
///
/// /// An agent whose desktop is always up.
/// #[derive(Debug)]
/// struct AlwaysUp;
///
/// #[async_trait::async_trait]
/// impl Vma for AlwaysUp {
///     async fn ping(&self) -> Result<(), VmaError> { Ok(()) }
///     async fn x_state(&self) -> Result<XState, VmaError> { Ok(XState::Listening) }
///     async fn x_start(&self, _: &Params) -> Result<(), VmaError> { Ok(()) }
///     async fn x_suspend(&self) -> Result<XState, VmaError> { Ok(XState::Starting) }
///     async fn x_stop(&self) -> Result<XState, VmaError> { Ok(XState::Stopping) }
///     async fn poweroff(&self) -> Result<(), VmaError> { Ok(()) }
///     async fn expire(&self, _: &Params) -> Result<(), VmaError> { Ok(()) }
/// }
/// ```
#[async_trait]
pub trait Vma: Debug + Send + Sync + 'static {
    /// Answers if the agent lives.
    async fn ping(&self) -> Result<(), VmaError>;

    /// State of the desktop.
    async fn x_state(&self) -> Result<XState, VmaError>;

    /// Starts or resumes the desktop with these session properties; returns once that has begun.
    async fn x_start(&self, params: &Params) -> Result<(), VmaError>;

    /// Suspends a connected or listening desktop, or calls off one that comes up. `starting` is the word of all agents
    /// for having begun; any other answer is the state, in which there was nothing to suspend.
    async fn x_suspend(&self) -> Result<XState, VmaError>;

    /// Ends the desktop. `stopping` says that this has begun; any other answer is the state, in which there was
    /// nothing to end.
    async fn x_stop(&self) -> Result<XState, VmaError>;

    /// Powers the virtual machine off; returns once that has begun.
    async fn poweroff(&self) -> Result<(), VmaError>;

    /// Tells the user, by the agent's hook, that the machine is about to expire.
    async fn expire(&self, limits: &Params) -> Result<(), VmaError>;

    /// Why the last desktop, or the last attempt at one, came to nothing: words for the user, kept until the next
    /// desktop has been connected to. `None` when there is nothing to say, which is all that agents of other makers
    /// ever say.
    async fn x_failure(&self) -> Result<Option<String>, VmaError> {
        Ok(None)
    }
}

/// Why a call to the agent failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmaError {
    /// The agent answered with an error text.
    #[error("agent refused {method}: {message}")]
    Refused {
        /// Method that was called.
        method: &'static str,
        /// The agent's words, one line.
        message: String,
    },
    /// No usable answer: connection refused, timed out, or not the protocol.
    #[error("agent at {endpoint} did not answer {method}")]
    Unreachable {
        /// Method that was called.
        method: &'static str,
        /// Where the agent was looked for.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent does not know the method.
    #[error("agent does not know {method}")]
    Unsupported {
        /// Method that was called.
        method: &'static str,
    },
}

impl VmaError {
    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } => ErrorKind::Conflict,
            Self::Unreachable { .. } => ErrorKind::Unavailable,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}
