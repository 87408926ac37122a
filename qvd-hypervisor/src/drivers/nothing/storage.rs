//! Storage of a simulation: knows which homes are open, and whether two ever were at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qvd_core::VmId;

/// Homes that several hosts share.
///
/// With locking it refuses a second opener, as real storage does. Without, it lets everybody in and remembers each
/// time that a home was open twice: what fencing alone must prevent.
#[derive(Debug)]
pub struct ShadowStorage {
    locking: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<VmId, Vec<(u64, String)>>,
    next: u64,
    violations: Vec<String>,
}

/// A home that is open until this is dropped.
#[derive(Debug)]
pub(super) struct OpenHome {
    storage: Arc<ShadowStorage>,
    vm: VmId,
    number: u64,
}

impl ShadowStorage {
    /// With locks.
    pub fn locking() -> Self {
        Self { locking: true, state: Mutex::default() }
    }

    /// Without locks.
    pub fn without_locks() -> Self {
        Self { locking: false, state: Mutex::default() }
    }

    /// Every time that a home was open twice, in words.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Opens a home; refused with who has it open.
    pub(super) fn open(self: &Arc<Self>, vm: VmId, who: &str) -> Result<OpenHome, String> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let others: Vec<String> = state
            .open
            .get(&vm)
            .map(|open| open.iter().map(|(_, who)| who.clone()).collect())
            .unwrap_or_default();
        if let Some(first) = others.first() {
            if self.locking {
                return Err(first.clone());
            }
            state.violations.push(format!("VM {vm}: opened by {who} while open for {}", others.join(", ")));
        }
        state.open.entry(vm).or_default().push((number, who.to_owned()));
        Ok(OpenHome { storage: self.clone(), vm, number })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenHome {
    fn drop(&mut self) {
        let mut state = self.storage.state();
        if let Some(open) = state.open.get_mut(&self.vm) {
            open.retain(|(number, _)| *number != self.number);
        }
    }
}
