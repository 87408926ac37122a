//! This node as the database sees it: remembered for health checks, read anew for work.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use qvd_core::HostId;
use qvd_core::error::chain;
use qvd_core::state::HostState;
use qvd_db::Db;

use crate::front::Reply;

/// What is known of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// No such host.
    NotRegistered,
    /// As its row says.
    Known { id: HostId, state: HostState, blocked: bool },
}

impl View {
    /// The host, if it is registered.
    pub(crate) fn id(self) -> Result<HostId, Reply> {
        match self {
            Self::NotRegistered => Err(Reply::NotRegistered),
            Self::Known { id, .. } => Ok(id),
        }
    }

    /// Refuses work that the node must not take.
    pub(crate) fn serves(self) -> Result<(), Reply> {
        match self {
            Self::NotRegistered => Err(Reply::NotRegistered),
            Self::Known { blocked: true, .. } => Err(Reply::HostBlocked),
            Self::Known { state: HostState::Running, .. } => Ok(()),
            Self::Known { state, .. } => Err(Reply::HostState(state)),
        }
    }

    /// The answer of a health check, whose order of questions is another.
    fn health(self) -> Reply {
        match self {
            Self::NotRegistered => Reply::NotRegistered,
            Self::Known { state: HostState::Running, blocked: false, .. } => Reply::Alive,
            Self::Known { state: HostState::Running, blocked: true, .. } => Reply::HostBlocked,
            Self::Known { state, .. } => Reply::HostState(state),
        }
    }
}

/// The node and the last look at its row.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    seen: RwLock<Option<(View, Instant)>>,
}

impl Node {
    pub(crate) fn new(name: String) -> Self {
        Self { name, seen: RwLock::new(None) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The host's id, as far as it was ever seen.
    pub(crate) fn seen_id(&self) -> Option<HostId> {
        let seen = *self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.and_then(|(view, _)| view.id().ok())
    }

    /// Reads the row.
    pub(crate) async fn load(&self, db: &Db) -> Result<View, Reply> {
        match db.hosts().by_name(&self.name).await {
            Ok(host) => {
                let view = host.map_or(View::NotRegistered, |h| View::Known {
                    id: h.id,
                    state: h.runtime.state,
                    blocked: h.runtime.blocked,
                });
                self.remember(view, Instant::now());
                Ok(view)
            }
            Err(error) => {
                tracing::warn!(host = self.name, "host not read: {}", chain(&error));
                Err(Reply::DatabaseAway)
            }
        }
    }

    /// The answer of a health check, from memory.
    pub(crate) fn health(&self, now: Instant) -> Reply {
        match *self.seen.read().unwrap_or_else(PoisonError::into_inner) {
            Some((view, at)) if now.saturating_duration_since(at) <= STALE => view.health(),
            Some(_) | None => Reply::DatabaseAway,
        }
    }

    fn remember(&self, view: View, at: Instant) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Some((view, at));
    }
}

/// How often the row is read for health checks.
pub(crate) const REFRESH: Duration = Duration::from_secs(2);

/// An older memory says nothing about health.
const STALE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_asks_for_the_state_first_and_distrusts_old_memories() {
        let node = Node::new("n".into());
        let now = Instant::now();
        assert_eq!(node.health(now), Reply::DatabaseAway);
        let known = |state, blocked| View::Known { id: HostId::new(1), state, blocked };
        node.remember(known(HostState::Running, false), now);
        assert_eq!(node.health(now + STALE), Reply::Alive);
        assert_eq!(node.health(now + STALE + Duration::from_millis(1)), Reply::DatabaseAway);
        node.remember(known(HostState::Stopping, true), now);
        assert_eq!(node.health(now), Reply::HostState(HostState::Stopping));
        assert_eq!(known(HostState::Stopping, true).serves(), Err(Reply::HostBlocked));
        node.remember(View::NotRegistered, now);
        assert_eq!(node.health(now), Reply::NotRegistered);
    }
}
