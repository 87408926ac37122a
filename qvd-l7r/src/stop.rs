//! Stopping a virtual machine at its user's request (protocol page §2.9).

use std::time::{Duration, Instant};

use qvd_core::VmId;
use qvd_core::error::chain;
use qvd_core::model::VmRuntime;
use qvd_core::state::{VmCommand, VmState};
use qvd_db::Channel as Wire;

use crate::front::{Channel, Reply};
use crate::progress::Step;
use crate::shared::Shared;
use crate::stream::ClientStream;

/// Orders the stop and waits for it. `None` when the client left meanwhile; the machine stops all the same.
pub(crate) async fn stop(
    shared: &Shared,
    channel: &mut Channel<ClientStream>,
    vm: VmId,
    row: &VmRuntime,
) -> Option<Reply> {
    if row.vm_state == VmState::Stopped {
        return Some(match row.vm_cmd {
            // A start that nobody has obeyed yet is taken back.
            Some(VmCommand::Start | VmCommand::Stop) => {
                order(shared, vm).await.err().unwrap_or(Reply::Stopped)
            }
            None => Reply::Stopped,
        });
    }
    channel.tell(Step::StoppingVm, vm).await.ok()?;
    match row.vm_state {
        VmState::Starting | VmState::Running | VmState::Debugging => {
            if let Err(reply) = order(shared, vm).await {
                return Some(reply);
            }
        }
        VmState::Stopping | VmState::Stopped => {}
        VmState::Zombie => return Some(Reply::Unstoppable(VmState::Zombie)),
    }
    wait(shared, channel, vm).await
}

async fn order(shared: &Shared, vm: VmId) -> Result<(), Reply> {
    match shared.db.vms().order_stop(vm).await {
        // Unchanged: it is on its way down, or down, already.
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(vm = %vm, "stop not ordered: {}", chain(&error));
            Err(Reply::DatabaseAway)
        }
    }
}

async fn wait(shared: &Shared, channel: &mut Channel<ClientStream>, vm: VmId) -> Option<Reply> {
    let config = shared.config();
    let (poll, limit) =
        (config.seconds("internal.l7r.poll_time.vm"), config.seconds("internal.l7r.timeout.vm_stop"));
    let mut changes = shared.db.subscribe(&[Wire::VmState]).only_vm(vm);
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        match shared.db.vms().runtime(vm).await {
            Ok(Some(row)) if row.vm_state == VmState::Stopped => return Some(Reply::Stopped),
            Ok(Some(_)) => {}
            // Deleted meanwhile, which only stopped ones can be.
            Ok(None) => return Some(Reply::Stopped),
            Err(error) => tracing::warn!(vm = %vm, "row not read: {}", chain(&error)),
        }
        if begun.elapsed() >= limit {
            return Some(Reply::StopTimeout);
        }
        if told.is_none_or(|at| at.elapsed() >= REPEAT) {
            channel.tell(Step::WaitingForStop, vm).await.ok()?;
            told = Some(Instant::now());
        }
        let pause = poll.min(limit.saturating_sub(begun.elapsed()));
        tokio::select! {
            biased;
            () = channel.closed() => return None,
            () = shared.sessions.ended() => return Some(Reply::ServerStopping),
            _ = changes.next() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

const REPEAT: Duration = Duration::from_secs(60);
