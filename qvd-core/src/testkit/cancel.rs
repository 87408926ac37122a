//! Dropping a future at one of its awaits: what a time limit or a shutdown does to it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Polls `future`, and drops it when it is pending for the `nth` time (from 0). `None` means that it was dropped; a future
/// that is done before gives its output.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use qvd_core::testkit::cancel::drop_at_await;
///
/// let two_awaits = || async {
///     tokio::task::yield_now().await;
///     tokio::task::yield_now().await;
///     7
/// };
/// assert_eq!(drop_at_await(two_awaits(), 0).await, None);
/// assert_eq!(drop_at_await(two_awaits(), 1).await, None);
/// assert_eq!(drop_at_await(two_awaits(), 2).await, Some(7));
/// # }
/// ```
pub async fn drop_at_await<F: Future>(future: F, nth: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut pending = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if pending == nth => Poll::Ready(None),
        Poll::Pending => {
            pending += 1;
            Poll::Pending
        }
    })
    .await
}

/// Most awaits that [`at_every_await`] goes through; a future that waits in a loop has no last one.
pub const MOST_AWAITS: usize = 60;

/// Makes the future again and again and drops it one await later each time, with `between` after each drop, until it runs
/// to its end (or [`MOST_AWAITS`] is reached). Returns the number of drops.
///
/// # Errors
///
/// The first error of `between`, with the await at which the future had been dropped.
pub async fn at_every_await<F, B>(
    mut future: impl FnMut() -> F,
    mut between: impl FnMut() -> B,
) -> Result<usize, String>
where
    F: Future,
    B: Future<Output = Result<(), String>>,
{
    for nth in 0..MOST_AWAITS {
        let done = drop_at_await(future(), nth).await.is_some();
        let place = || if done { "its end".to_owned() } else { format!("await {nth}") };
        between().await.map_err(|problem| format!("after {}: {problem}", place()))?;
        if done {
            return Ok(nth);
        }
    }
    Ok(MOST_AWAITS)
}
