//! How many connections there may be, and of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::metrics::Held;

/// Counts connections by address.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place; dropped with the connection.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Gate {
    /// A place for one more connection of this address, unless it has `limit` (0 means no limit).
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if limit != 0 && *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { gate: self.clone(), address })
    }
}

/// What any connection takes of the router as long as it lasts.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) _counted: Held,
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let gate = Arc::new(Gate::default());
        let here = IpAddr::from([192, 0, 2, 1]);
        let held: Vec<_> = (0..2).map(|_| gate.enter(here, 2).unwrap()).collect();
        assert!(gate.enter(here, 2).is_none());
        assert!(gate.enter(IpAddr::from([192, 0, 2, 2]), 2).is_some(), "each address has its own");
        assert!(gate.enter(here, 0).is_some(), "no limit");
        drop(held);
        assert!(gate.enter(here, 2).is_some());
        assert!(gate.0.lock().unwrap().is_empty(), "nothing is kept of addresses that left");
    }
}
