//! One connection: requests one after another, until the caller closes or breaks the rules.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use qvd_core::proto::http1::{self, HeadError, Limits, RequestHead};
use qvd_core::proto::vma_rpc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::methods::{Methods, Reply};
use super::vnc;

/// A connection of either kind.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves a connection to its end.
pub(super) async fn serve(mut stream: Stream, methods: &Methods) {
    let mut received = Vec::new();
    loop {
        let head = match next_request(&mut stream, &mut received).await {
            Ok(Some(Ok(head))) => head,
            Ok(Some(Err(error))) => {
                refuse(stream, error.status(), &format!("{error}\n")).await;
                return;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a call ended early");
                return;
            }
        };
        if head.announces_body() {
            refuse(stream, 400, "a call has no body\n").await;
            return;
        }
        let path = head.path().to_vec();
        let method = vma_rpc::method(&path).filter(|_| head.method == "GET");
        if method == Some("vnc_connect") {
            vnc::serve(stream, &head, methods).await;
            return;
        }
        let reply = match method {
            Some(method) => methods.call(method, head.query()).await,
            None => Reply::Unknown,
        };
        let written = match reply {
            Reply::Result(value) => {
                let body = vma_rpc::encode_result(&value);
                respond(&mut stream, 200, vma_rpc::CONTENT_TYPE, &body).await
            }
            Reply::Error(message) => {
                let body = vma_rpc::encode_error(&message);
                respond(&mut stream, 200, vma_rpc::CONTENT_TYPE, &body).await
            }
            Reply::Unknown => respond(&mut stream, 404, TEXT, "no such method\n").await,
        };
        if written.is_err() || head.headers.has_token("Connection", "close") {
            return;
        }
    }
}

/// Writes an answer with a body.
pub(super) async fn respond(
    stream: &mut Stream,
    code: u16,
    content_type: &str,
    body: &str,
) -> io::Result<()> {
    let length = body.len().to_string();
    let head = http1::encode_head(
        &http1::status_line(code),
        &[("Content-Type", content_type), ("Content-Length", &length)],
    );
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await?;
    stream.flush().await
}

/// Answers a request that breaks the rules, and parts. What the caller still sends is read for a moment: closing
/// over unread bytes would take the answer away from it.
async fn refuse(mut stream: Stream, code: u16, text: &str) {
    if respond(&mut stream, code, TEXT, text).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 4096];
    let drain = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
    // A caller that goes on sending has had its answer.
    let _ = tokio::time::timeout(PARTING, drain).await;
}

pub(super) const TEXT: &str = "text/plain";

/// The next request; `None` at the end of the connection. What follows it stays in `received`.
async fn next_request(
    stream: &mut Stream,
    received: &mut Vec<u8>,
) -> io::Result<Option<Result<RequestHead, HeadError>>> {
    let limit = |received: &[u8]| if received.is_empty() { IDLE } else { HEAD };
    let mut until = tokio::time::Instant::now() + limit(received);
    loop {
        match http1::parse_request(received, &Limits::default()) {
            Ok(Some((head, used))) => {
                received.drain(..used);
                return Ok(Some(Ok(head)));
            }
            Ok(None) => {}
            Err(error) => return Ok(Some(Err(error))),
        }
        let first = received.is_empty();
        let Ok(read) = tokio::time::timeout_at(until, stream.read_buf(received)).await else {
            return Ok(None);
        };
        if read? == 0 {
            return Ok(None);
        }
        if first {
            until = tokio::time::Instant::now() + limit(received);
        }
    }
}

/// For the rest of a broken request.
const PARTING: Duration = Duration::from_secs(1);

/// Without a call.
const IDLE: Duration = Duration::from_secs(120);

/// For the rest of a head whose first byte came.
const HEAD: Duration = Duration::from_secs(60);

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
