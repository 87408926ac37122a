//! What a router does besides its connections: look at its node's row, obey aborts, give back what is owed, clear
//! up behind routers that died, follow the configuration, tell of certificates that end.
//!
//! A hint only wakes; woken or timed out, each of these reads everything that it watches.

use std::sync::Arc;
use std::time::Duration;

use qvd_core::config::registry;
use qvd_core::error::chain;
use qvd_core::{HostId, TenantId};
use qvd_db::{Channel, Db, Subscription};
use tokio::task::JoinSet;

use crate::certificate;
use crate::node;
use crate::sessions::{Order, Sessions};
use crate::shared::Shared;
use crate::takeover;
use crate::tls::Tls;

/// Runs all of it; ends only by being dropped.
pub(crate) async fn run(shared: Arc<Shared>, tls: Option<Arc<Tls>>) {
    tokio::join!(
        watch_node(&shared),
        obey_aborts(&shared),
        clear_up(&shared),
        follow_config(&shared, tls.as_deref()),
        watch_certificates(&shared, tls.as_deref())
    );
}

async fn watch_node(shared: &Shared) {
    let mut hints: Option<(HostId, Subscription)> = None;
    loop {
        // A failure is logged where it happens; the memory grows old by itself.
        let _ = shared.node.load(&shared.db).await;
        let host = shared.node.seen_id();
        if hints.as_ref().map(|(of, _)| *of) != host {
            hints = host.map(|id| (id, shared.db.subscribe(&[Channel::HostCommands(id)])));
        }
        woken_or_after(hints.as_mut().map(|(_, s)| s), node::REFRESH).await;
    }
}

async fn obey_aborts(shared: &Shared) {
    let host = registered(shared).await;
    let mut hints = shared.db.subscribe(&[Channel::UserCommands(host)]);
    loop {
        match shared.db.sessions().aborted(host, shared.instance.id()).await {
            Ok(aborted) => {
                for (vm, session) in aborted {
                    if !shared.sessions.order(session, Order::Abort) {
                        // It has ended and its row was not given back.
                        shared.sessions.owe(vm, session);
                    }
                }
            }
            Err(error) => tracing::warn!("aborts not read: {}", chain(&error)),
        }
        woken_or_after(Some(&mut hints), shared.config().seconds("internal.hkd.agent.l7rkiller.delay")).await;
    }
}

async fn clear_up(shared: &Shared) {
    let host = registered(shared).await;
    loop {
        give_back_owed(&shared.db, &shared.sessions).await;
        if let Err(error) = clear_up_behind_the_dead(shared, host).await {
            tracing::warn!("sessions of routers that died not cleared: {}", chain(&error));
        }
        tokio::time::sleep(CLEAR_UP).await;
    }
}

/// Gives back the rows of sessions that could not do it themselves, some at a time, as long as the database takes them.
///
/// # Cancellation
///
/// What was not given back is owed as before.
pub(crate) async fn give_back_owed(db: &Db, sessions: &Sessions) {
    let mut owed = sessions.owed().into_iter();
    let mut under_way = JoinSet::new();
    let mut goes_on = true;
    loop {
        while goes_on && under_way.len() < takeover::MOST_SETTLING {
            let Some((vm, session)) = owed.next() else { break };
            let db = db.clone();
            under_way.spawn(async move { (vm, session, takeover::give_back(&db, vm, session).await) });
        }
        match under_way.join_next().await {
            None => return,
            Some(Ok((vm, session, true))) => {
                sessions.given_back(vm, session);
                tracing::info!(vm = %vm, session = %session, "session given back late");
            }
            // The others that are under way may be more fortunate; the rest waits for the next time.
            Some(Ok((_, _, false)) | Err(_)) => goes_on = false,
        }
    }
}

async fn clear_up_behind_the_dead(shared: &Shared, host: HostId) -> Result<(), qvd_db::Error> {
    for instance in shared.db.sessions().instances(host).await? {
        match shared.instance.has_ended(instance) {
            Ok(true) => {
                let vms = shared.db.sessions().release_instance(host, instance).await?;
                shared.instance.bury(instance);
                tracing::warn!(instance = %instance, sessions = vms.len(), "cleared up behind a router that died");
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(instance = %instance, "cannot tell whether a router lives: {error}"),
        }
    }
    Ok(())
}

async fn follow_config(shared: &Shared, tls: Option<&Tls>) {
    let mut hints = shared.db.subscribe(&[Channel::ConfigChanged]);
    let mut seen = None;
    let mut pause = CONFIG_POLL;
    loop {
        woken_or_after(Some(&mut hints), pause).await;
        let rows = match shared.db.config().load(TenantId::DEFAULT).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!("configuration not read: {}", chain(&error));
                // What changed would otherwise wait for the next change.
                pause = shared.config().seconds("internal.hkd.agent.config.delay");
                continue;
            }
        };
        pause = CONFIG_POLL;
        if seen.as_ref() != Some(&rows) {
            take_config(shared, rows.clone());
            seen = Some(rows);
        }
        if let Some(tls) = tls {
            certificate::follow(&shared.db, tls, &shared.config(), &shared.metrics).await;
        }
    }
}

async fn watch_certificates(shared: &Shared, tls: Option<&Tls>) {
    if let Some(tls) = tls {
        certificate::watch(tls, || shared.config(), &shared.metrics).await;
    }
}

fn take_config(shared: &Shared, rows: Vec<(String, String)>) {
    let before = shared.config();
    let (config, problems) = before.with_database(rows);
    for problem in &problems {
        tracing::error!(%problem, "configuration: the previous value stays");
    }
    for key in before.changed_keys(&config).iter().filter(|key| is_read_once(key)) {
        tracing::warn!("restart needed for {key}");
    }
    shared.set_config(config);
}

/// Whether a key is the router's and it read it when it began. Other parts of the node tell of theirs.
fn is_read_once(key: &str) -> bool {
    registry().get(key).is_some_and(|spec| matches!(spec.component, "l7r" | "auth") && spec.needs_restart())
}

/// The node's id, once it is registered.
async fn registered(shared: &Shared) -> HostId {
    loop {
        if let Some(id) = shared.node.seen_id() {
            return id;
        }
        tokio::time::sleep(CLEAR_UP).await;
    }
}

async fn woken_or_after(hints: Option<&mut Subscription>, limit: Duration) {
    match hints {
        Some(hints) => drop(tokio::time::timeout(limit, hints.next()).await),
        None => tokio::time::sleep(limit).await,
    }
}

/// How long a change of configuration waits at most whose hint was missed.
const CONFIG_POLL: Duration = Duration::from_secs(60);

/// How often rows are given back and dead routers looked for.
const CLEAR_UP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use qvd_core::{SessionId, VmId};

    use super::*;

    /// More than go side by side.
    fn owing() -> Sessions {
        let sessions = Sessions::default();
        for number in 1..=3 * takeover::MOST_SETTLING as i64 {
            sessions.owe(VmId::new(number), SessionId::from_u128(number as u128));
        }
        sessions
    }

    #[tokio::test]
    async fn all_that_is_owed_is_given_back() {
        let (db, sessions) = (qvd_db::testkit::memory().await, owing());
        give_back_owed(&db, &sessions).await;
        assert_eq!(sessions.owed().len(), 0);
    }

    #[tokio::test]
    async fn what_the_database_does_not_take_stays_owed() {
        let (db, sessions) = (qvd_db::testkit::memory().await, owing());
        let all = sessions.owed();
        db.close().await;
        give_back_owed(&db, &sessions).await;
        assert_eq!(sessions.owed(), all);
    }

    #[tokio::test]
    async fn whoever_is_interrupted_owes_the_rest() {
        let (db, sessions) = (qvd_db::testkit::memory().await, owing());
        let all = sessions.owed();
        let some_are_gone = std::future::poll_fn(|_| match sessions.owed().len() < all.len() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        tokio::select! {
            biased;
            () = some_are_gone => {}
            () = give_back_owed(&db, &sessions) => panic!("some at a time"),
        }
        assert!(!sessions.owed().is_empty());
        give_back_owed(&db, &sessions).await;
        assert_eq!(sessions.owed().len(), 0);
    }
}
