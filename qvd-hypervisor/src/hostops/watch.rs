//! Waiting for a descriptor on the caller's runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until there is something to read, or the other end is gone.
///
/// # Errors
///
/// The kernel's, such as for a file that cannot be waited for.
///
/// # Cancellation
///
/// Nothing is left behind.
pub async fn readable(handle: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned by the new value, which nobody can take it out of before it is dropped, and
    // an `OwnedFd` always answers with the one open descriptor that it owns.
    let handle =
        unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }.map_err(io::Error::from)?;
    handle.readable().await.map(|_| ())
}
