//! A byte stream, encrypted or not.

use tokio::io::{AsyncRead, AsyncWrite};

/// What both kinds of connections are. Everything that can be read and written asynchronously is one.
///
/// # Contract
///
/// Bytes arrive in order and unchanged; a read of 0 bytes is the end of the other side.
///
/// # Cancellation
///
/// As of the methods of `AsyncRead` and `AsyncWrite`: nothing is read or written by a call that was dropped while it
/// waited. Dropping the stream closes it.
///
/// # Errors
///
/// Those of the socket, and of TLS where there is TLS.
///
/// # Example
///
/// ```
/// use qvd_client::connect::Stream;
/// let (mine, _theirs) = tokio::io::duplex(64);
/// let _either: Box<dyn Stream> = Box::new(mine);
/// ```
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
