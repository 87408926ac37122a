//! A thread that carries desktops, as the programs have them.

use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// A worker; it does nothing before [`run`](Self::run), and ends when dropped.
pub(crate) struct Worker {
    handle: Handle,
    idle: Option<Runtime>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Worker {
    pub(crate) fn idle() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { handle: runtime.handle().clone(), idle: Some(runtime), running: None }
    }

    pub(crate) fn running() -> Self {
        let mut worker = Self::idle();
        worker.run();
        worker
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(crate) fn run(&mut self) {
        let runtime = self.idle.take().expect("not running yet");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || drop(runtime.block_on(stopped)));
        self.running = Some((stop, thread));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
        if let Some(runtime) = self.idle.take() {
            // Not waited for: this may be within another runtime.
            runtime.shutdown_background();
        }
    }
}
