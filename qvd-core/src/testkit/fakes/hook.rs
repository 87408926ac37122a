//! A hook that remembers what it was told.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::hook::{Hook, HookError, HookEvent, HookKind};
use crate::testkit::script::{Script, lock};

/// Records every event; vetoes when told to.
#[derive(Clone, Debug, Default)]
pub struct RecordingHook {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Mutex<Vec<HookEvent>>,
    script: Script<HookKind, String>,
}

impl RecordingHook {
    /// A hook that wants everything and lets everything pass.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next event of this kind fails with this text.
    pub fn fail_next(&self, kind: HookKind, message: &str) {
        self.inner.script.fail_next(kind, message.to_owned());
    }

    /// Events of this kind wait until [`release`](RecordingHook::release).
    pub fn hold(&self, kind: HookKind) {
        self.inner.script.hold(kind);
    }

    /// Lets waiting events of this kind go on.
    pub fn release(&self, kind: HookKind) {
        self.inner.script.release(kind);
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<HookEvent> {
        lock(&self.inner.events).clone()
    }

    /// Waits until this kind has come at least `times` times.
    pub async fn ran(&self, kind: HookKind, times: usize) {
        self.inner.script.entered(kind, times).await;
    }
}

#[async_trait]
impl Hook for RecordingHook {
    fn name(&self) -> &str {
        "recording"
    }

    fn wants(&self, _: HookKind) -> bool {
        true
    }

    async fn run(&self, event: &HookEvent) -> Result<(), HookError> {
        lock(&self.inner.events).push(event.clone());
        match self.inner.script.enter(event.kind).await {
            Some(message) => Err(HookError::new(self.name(), message).with_status(Some(1))),
            None => Ok(()),
        }
    }
}
