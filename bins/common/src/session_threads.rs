//! Threads that do nothing but carry desktops.

use std::num::NonZero;
use std::thread::{self, JoinHandle};

use qvd_core::ErrorKind;
use qvd_core::config::Config;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::Failure;

/// The router's session workers, each a thread with a runtime of its own; dropped, they end.
#[derive(Debug)]
pub struct SessionThreads(Vec<SessionThread>);

#[derive(Debug)]
struct SessionThread {
    runtime: Handle,
    /// Dropped, it tells the thread to end.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SessionThreads {
    /// Starts as many as `l7r.workers` says.
    ///
    /// # Errors
    ///
    /// A number that cannot be used, or a system that gives no more threads.
    pub fn start(config: &Config) -> Result<Self, Failure> {
        let count = match Self::check(config)? {
            // Without an answer of the system one is right everywhere.
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            count => count,
        };
        (0..count).map(SessionThread::start).collect::<Result<_, _>>().map(Self)
    }

    /// How many a configuration wants; 0 is as many as there are cores.
    ///
    /// # Errors
    ///
    /// A number that cannot be used.
    pub fn check(config: &Config) -> Result<usize, Failure> {
        let wanted = config.integer(KEY);
        usize::try_from(wanted).ok().filter(|count| *count <= MOST).ok_or_else(|| {
            Failure::new(ErrorKind::Invalid, format!("'{KEY}' is {wanted}; it must be from 0 to {MOST}"))
        })
    }

    /// What a router is told of them.
    pub fn runtimes(&self) -> Vec<Handle> {
        self.0.iter().map(|thread| thread.runtime.clone()).collect()
    }
}

impl SessionThread {
    fn start(number: usize) -> Result<Self, Failure> {
        let failed = |e| Failure::new(ErrorKind::Internal, "cannot start a session worker").because(e);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            let _ = runtime.block_on(stopped);
        };
        let thread = thread::Builder::new().name(format!("session-{number}")).spawn(work).map_err(failed)?;
        Ok(Self { runtime: handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for SessionThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it ended with its task.
            let _ = thread.join();
        }
    }
}

const KEY: &str = "l7r.workers";

/// More than any machine has cores; a slip of the finger shows.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn start(workers: &str) -> Result<SessionThreads, Failure> {
        SessionThreads::start(&Config::builder().set(KEY, workers).build().unwrap())
    }

    #[test]
    fn each_is_one_thread_and_ends_with_the_whole() {
        let threads = start("2").unwrap();
        let names: Vec<_> = threads
            .runtimes()
            .iter()
            .map(|runtime| {
                let (tell, told) = std::sync::mpsc::channel();
                runtime.spawn(async move { tell.send(thread::current().name().map(str::to_owned)) });
                told.recv().unwrap().unwrap()
            })
            .collect();
        assert_eq!(names, ["session-0", "session-1"]);
        let first = threads.runtimes().remove(0);
        drop(threads);
        let late = first.spawn(async {});
        let ended = Builder::new_current_thread().build().unwrap().block_on(late);
        assert!(ended.unwrap_err().is_cancelled());
    }

    #[test]
    fn one_for_each_core_unless_told_otherwise() {
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(start("0").unwrap().runtimes().len(), cores);
        let refused = start("5000").unwrap_err().to_string();
        assert!(refused.contains("'l7r.workers' is 5000"), "{refused}");
        assert!(start("-1").is_err());
    }
}
