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

/// The awaits at which a law drops a future, one after another: each of the first [`MOST_AWAITS`], then ever wider apart, so
/// that a future which waits in a loop comes to its end as well.
///
/// A caller that gets to the end of them has seen no end of the future and must say so ([`NEVER_DONE`]).
///
/// ```
/// use qvd_core::testkit::cancel::{MOST_AWAITS, await_points};
/// let points: Vec<usize> = await_points().collect();
/// assert_eq!(points[..3], [0, 1, 2]);
/// assert_eq!(points[MOST_AWAITS..][..3], [60, 120, 240]);
/// ```
pub fn await_points() -> impl Iterator<Item = usize> {
    let wider = std::iter::successors(Some(MOST_AWAITS), |nth| Some(nth * 2));
    (0..MOST_AWAITS).chain(wider.take_while(|nth| *nth <= LAST_AWAIT))
}

/// How many awaits are tried one by one.
pub const MOST_AWAITS: usize = 60;

/// What is wrong with a future that has no last await.
pub const NEVER_DONE: &str = "it waits again and again and never comes to its end";

/// Something that is still not done is not going to be.
const LAST_AWAIT: usize = 1 << 16;

/// Makes the future again and again and drops it at each of the [`await_points`], with `between` after each drop, until
/// it runs to its end. Returns the number of drops.
///
/// # Errors
///
/// The first error of `between`, with the await at which the future had been dropped; [`NEVER_DONE`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use qvd_core::testkit::cancel::{NEVER_DONE, at_every_await};
///
/// let nothing = || async { Ok(()) };
/// assert_eq!(at_every_await(tokio::task::yield_now, nothing).await, Ok(1));
/// let endless = || async { loop { tokio::task::yield_now().await } };
/// assert_eq!(at_every_await(endless, nothing).await, Err(NEVER_DONE.to_owned()));
/// # }
/// ```
pub async fn at_every_await<F, B>(
    mut future: impl FnMut() -> F,
    mut between: impl FnMut() -> B,
) -> Result<usize, String>
where
    F: Future,
    B: Future<Output = Result<(), String>>,
{
    for (drops, nth) in await_points().enumerate() {
        let done = drop_at_await(future(), nth).await.is_some();
        let place = || if done { "its end".to_owned() } else { format!("await {nth}") };
        between().await.map_err(|problem| format!("after {}: {problem}", place()))?;
        if done {
            return Ok(drops);
        }
    }
    Err(NEVER_DONE.to_owned())
}
