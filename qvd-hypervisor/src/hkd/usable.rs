//! Which drivers can be used now: those that lack nothing and can tell what runs here.
//!
//! Checks and looks write it down; starts and what is published read it. A driver that does not answer keeps what was
//! known of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// What is known of each driver, by name.
#[derive(Debug, Default)]
pub(crate) struct Usable(Mutex<HashMap<String, Known>>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Its last check found nothing lacking that it needs.
    works: bool,
    /// Its last look failed: what it may run is unknown, so nothing more is given to it.
    blind: bool,
}

impl Usable {
    pub(crate) fn checked(&self, driver: &str, works: bool) {
        self.change(driver, |known| known.works = works);
    }

    pub(crate) fn looked(&self, driver: &str, sees: bool) {
        self.change(driver, |known| known.blind = !sees);
    }

    /// Whether a virtual machine may be started on it.
    pub(crate) fn may_start(&self, driver: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(driver).is_some_and(|known| known.works && !known.blind)
    }

    fn change(&self, driver: &str, change: impl FnOnce(&mut Known)) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(known.entry(driver.to_owned()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_used_while_it_works_and_sees() {
        let usable = Usable::default();
        assert!(!usable.may_start("process"), "it was not asked yet");
        usable.checked("process", true);
        assert!(usable.may_start("process"));
        usable.looked("process", false);
        assert!(!usable.may_start("process"));
        usable.looked("process", true);
        usable.checked("process", false);
        assert!(!usable.may_start("process"));
    }
}
