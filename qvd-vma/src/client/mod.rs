//! Calls of the agent from outside: one fresh connection per call, as agents of every version expect.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use qvd_core::hypervisor::{Endpoint, VMA_SOCKET};
use qvd_core::proto::http1::{self, Limits, ResponseHead};
use qvd_core::proto::{query, vma_rpc};
use qvd_core::state::XState;
use qvd_core::vma::{Params, Vma, VmaError};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

mod dial;

pub use dial::dial_unix;

/// The agent of one virtual machine, reached over TCP or a unix socket.
///
/// Cheap to make; holds no connection. Every call is bounded by the timeout given to [`new`](Self::new).
///
/// ```
/// # async fn example() -> Result<(), qvd_core::vma::VmaError> {
/// use std::time::Duration;
/// use qvd_core::hypervisor::Endpoint;
/// use qvd_core::vma::Vma;
/// use qvd_vma::client::VmaClient;
///
/// let vma = VmaClient::new(Endpoint::Unix { dir: "/run/qvd/vms/7".into() }, Duration::from_secs(4));
/// vma.ping().await?;
/// println!("{}", vma.x_state().await?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct VmaClient {
    endpoint: Endpoint,
    timeout: Duration,
}

impl VmaClient {
    /// A client for the agent at `endpoint`; each call may take as long as `timeout`.
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        Self { endpoint, timeout }
    }

    /// One call. Agents answer `null` to methods without a result.
    ///
    /// # Errors
    ///
    /// As for the trait's methods.
    async fn call(&self, method: &'static str, params: &Params) -> Result<Value, VmaError> {
        let unreachable = |source: io::Error| VmaError::Unreachable {
            method,
            endpoint: self.endpoint.to_string(),
            source: source.into(),
        };
        let exchange = async {
            let mut stream = self.dial().await?;
            exchange(&mut *stream, method, params).await
        };
        let (code, body) = tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| {
                let limit = self.timeout.as_secs_f32();
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit} s")))
            })
            .map_err(unreachable)?;
        match code {
            200 => match vma_rpc::decode(&body) {
                Ok(vma_rpc::Answer::Result(value)) => Ok(value),
                Ok(vma_rpc::Answer::Error(message)) => Err(refused(method, &message)),
                Err(error) => Err(unreachable(io::Error::new(io::ErrorKind::InvalidData, error))),
            },
            404 => Err(VmaError::Unsupported { method }),
            code => Err(unreachable(io::Error::other(format!("answered with status {code}")))),
        }
    }

    /// A call whose result is a state.
    async fn call_for_state(&self, method: &'static str) -> Result<XState, VmaError> {
        let value = self.call(method, &Params::new()).await?;
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| VmaError::Unreachable {
            method,
            endpoint: self.endpoint.to_string(),
            source: format!("{value} is not a state of the desktop").into(),
        })
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        match &self.endpoint {
            Endpoint::Ip { address, vma_port, .. } => {
                let stream = TcpStream::connect((*address, *vma_port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Endpoint::Unix { dir } => Ok(Box::new(dial_unix(dir, VMA_SOCKET).await?)),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "this kind of address cannot be dialled")),
        }
    }
}

#[async_trait]
impl Vma for VmaClient {
    async fn ping(&self) -> Result<(), VmaError> {
        self.call("ping", &Params::new()).await.map(drop)
    }

    async fn x_state(&self) -> Result<XState, VmaError> {
        self.call_for_state("x_state").await
    }

    async fn x_start(&self, params: &Params) -> Result<(), VmaError> {
        // Agents of the 3.5 line answer an empty value for some failures.
        match self.call("x_start", params).await? {
            Value::String(text) if !text.is_empty() => Ok(()),
            value => Err(refused("x_start", &format!("unexpected result {value}"))),
        }
    }

    async fn x_suspend(&self) -> Result<XState, VmaError> {
        self.call_for_state("x_suspend").await
    }

    async fn x_stop(&self) -> Result<XState, VmaError> {
        self.call_for_state("x_stop").await
    }

    async fn poweroff(&self) -> Result<(), VmaError> {
        match self.call("poweroff", &Params::new()).await? {
            Value::Number(status) if status.as_i64() != Some(0) => {
                Err(refused("poweroff", &format!("the command ended with status {status}")))
            }
            _ => Ok(()),
        }
    }

    async fn expire(&self, limits: &Params) -> Result<(), VmaError> {
        self.call("expire", limits).await.map(drop)
    }

    async fn x_failure(&self) -> Result<Option<String>, VmaError> {
        match self.call("x_failure", &Params::new()).await {
            Ok(value) => Ok(value.as_str().map(str::to_owned)),
            Err(VmaError::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn refused(method: &'static str, message: &str) -> VmaError {
    VmaError::Refused { method, message: message.lines().collect::<Vec<_>>().join(" ") }
}

/// Sends the request, reads status and body of the final response.
async fn exchange(stream: &mut dyn Stream, method: &str, params: &Params) -> io::Result<(u16, Vec<u8>)> {
    let query = query::encode(params.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let mark = if query.is_empty() { "" } else { "?" };
    let head = http1::encode_head(
        &format!("GET /vma/{method}{mark}{query} HTTP/1.1"),
        &[("User-Agent", concat!("qvd/", env!("CARGO_PKG_VERSION"))), ("Connection", "close")],
    );
    stream.write_all(head.as_bytes()).await?;
    let mut received = Vec::new();
    let head = read_head(stream, &mut received).await?;
    let length = head.content_length().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if length > LONGEST_BODY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("answer of {length} bytes is too long"),
        ));
    }
    while received.len() < length {
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    received.truncate(length);
    Ok((head.code, received))
}

/// The final response head; what was read behind it stays in `received`.
async fn read_head(stream: &mut dyn Stream, received: &mut Vec<u8>) -> io::Result<ResponseHead> {
    loop {
        let parsed = http1::parse_response(received, &Limits::default())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        if let Some((head, used)) = parsed {
            received.drain(..used);
            if !(100..200).contains(&head.code) {
                return Ok(head);
            }
        } else if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Most that any answer of an agent may hold, in bytes.
const LONGEST_BODY: usize = 64 << 10;

#[cfg(test)]
mod tests;
