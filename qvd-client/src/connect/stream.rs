//! A byte stream, encrypted or not.

use tokio::io::{AsyncRead, AsyncWrite};

/// What both kinds of connections are.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
