//! The stand-in desktop: a TCP server that streams, sinks, echoes or stays idle, as the first bytes ask.
//!
//! A client sends one letter and a big-endian count: `D` n, send me n bytes; `U` n, I send n bytes, answer one byte
//! then; `E` 0, echo; `I` 0, nothing. It also counts how many connections it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

const CHUNK: usize = 256 << 10;

/// A running stand-in.
#[derive(Debug)]
pub struct Desktop {
    port: u16,
    open: Arc<AtomicU64>,
}

impl Desktop {
    /// Starts one on a free port of every address, so that each machine may have its own.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0").await.context("cannot listen")?;
        let port = listener.local_addr().context("a listener has an address")?.port();
        let open = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    counter.fetch_add(1, Ordering::Relaxed);
                    // A client that goes away in the middle is the end of a measurement, not an error.
                    let _ = stream.set_nodelay(true);
                    let _ = serve(stream).await;
                    counter.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { port, open })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections at this moment.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

/// Serves one connection.
///
/// # Errors
///
/// When the client goes away in the middle.
pub async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut order = [0u8; 9];
    stream.read_exact(&mut order).await?;
    let count =
        u64::from_be_bytes([order[1], order[2], order[3], order[4], order[5], order[6], order[7], order[8]]);
    match order[0] {
        b'D' => {
            let block = vec![0x5a; CHUNK];
            let mut left = count;
            while left > 0 {
                let n = left.min(CHUNK as u64) as usize;
                stream.write_all(&block[..n]).await?;
                left -= n as u64;
            }
        }
        b'U' => {
            sink(&mut stream, count).await?;
            stream.write_all(b"!").await?;
        }
        b'E' => {
            let mut block = vec![0; 4096];
            loop {
                let n = stream.read(&mut block).await?;
                if n == 0 {
                    break;
                }
                stream.write_all(&block[..n]).await?;
            }
        }
        _ => {}
    }
    // Holds the connection until the other side ends it.
    let mut rest = [0; 64];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn sink(stream: &mut (impl AsyncRead + Unpin), count: u64) -> std::io::Result<()> {
    let mut block = vec![0; CHUNK];
    let mut left = count;
    while left > 0 {
        let n = stream.read(&mut block).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(n as u64);
    }
    Ok(())
}

/// Orders something of the stand-in at the other end of `stream`.
///
/// # Errors
///
/// When the stream is broken.
pub async fn order(stream: &mut (impl AsyncWrite + Unpin), what: u8, count: u64) -> std::io::Result<()> {
    let mut message = [0u8; 9];
    message[0] = what;
    message[1..].copy_from_slice(&count.to_be_bytes());
    stream.write_all(&message).await?;
    stream.flush().await
}

/// Receives `count` bytes from the stand-in.
///
/// # Errors
///
/// When the stream is broken.
pub async fn pull(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), count: u64) -> std::io::Result<()> {
    order(stream, b'D', count).await?;
    sink(stream, count).await
}

/// Sends `count` bytes to the stand-in and waits for its word.
///
/// # Errors
///
/// When the stream is broken.
pub async fn push(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), count: u64) -> std::io::Result<()> {
    order(stream, b'U', count).await?;
    let block = vec![0xa5; CHUNK];
    let mut left = count;
    while left > 0 {
        let n = left.min(CHUNK as u64) as usize;
        stream.write_all(&block[..n]).await?;
        left -= n as u64;
    }
    stream.flush().await?;
    let mut word = [0; 1];
    stream.read_exact(&mut word).await.map(drop)
}
