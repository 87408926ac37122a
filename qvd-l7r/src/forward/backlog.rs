//! Bytes that a socket would not take yet.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Kept until the socket takes them; holds no memory while there are none.
#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
}

impl Backlog {
    /// How many there are.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Memory taken besides the value itself.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds bytes behind those that are there.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.bytes.is_empty() {
            // Exactly as much as there is: most backlogs are never added to.
            self.bytes = bytes.to_vec();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
        add_kept(bytes.len());
    }

    /// Forgets them all.
    pub(super) fn clear(&mut self) {
        forget_kept(self.held());
        self.bytes = Vec::new();
        self.sent = 0;
    }

    /// Sends what is kept.
    pub(super) fn poll_send<S>(&mut self, cx: &mut Context<'_>, socket: &mut S) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        while self.held() > 0 {
            let taken = ready!(write(cx, socket, &self.bytes[self.sent..]))?;
            forget_kept(taken);
            self.sent += taken;
        }
        if self.sent > 0 {
            self.clear();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends bytes behind what is kept, and keeps what the socket does not take.
    pub(super) fn send<S>(&mut self, cx: &mut Context<'_>, socket: &mut S, bytes: &[u8]) -> io::Result<()>
    where
        S: AsyncWrite + Unpin,
    {
        let mut at = 0;
        if self.poll_send(cx, socket)?.is_ready() {
            while at < bytes.len() {
                match write(cx, socket, &bytes[at..])? {
                    Poll::Ready(taken) => at += taken,
                    Poll::Pending => break,
                }
            }
        }
        self.keep(&bytes[at..]);
        Ok(())
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What users say to their desktops is nobody's business.
        write!(f, "{} bytes", self.held())
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        forget_kept(self.held());
    }
}

/// So many bytes more are kept somewhere.
pub(super) fn add_kept(bytes: usize) {
    KEPT.fetch_add(bytes, Ordering::Relaxed);
}

/// So many are kept no longer.
pub(super) fn forget_kept(bytes: usize) {
    KEPT.fetch_sub(bytes, Ordering::Relaxed);
}

/// Whether all sessions of this process together keep so much that each should read little.
pub(super) fn is_process_laden() -> bool {
    KEPT.load(Ordering::Relaxed) >= MOST_KEPT
}

fn write<S>(cx: &mut Context<'_>, socket: &mut S, bytes: &[u8]) -> Poll<io::Result<usize>>
where
    S: AsyncWrite + Unpin,
{
    match ready!(Pin::new(socket).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        done => Poll::Ready(done),
    }
}

/// Of all backlogs of the process. Touched only when a socket is full, never per chunk.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A thousand clients that stopped reading, each with a full buffer.
const MOST_KEPT: usize = 256 << 20;
