//! The writes of one virtual machine's task, in order, behind its back.
//!
//! A database that is away delays them; nothing else waits for that, kills least of all. A state that still waits is
//! replaced by a newer one, so the queue is bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use qvd_core::error::chain;
use qvd_core::hypervisor::Endpoint;
use qvd_core::{RunId, VmId};
use qvd_db::{Charged, Guard};

use super::failure::{Charge, judge};
use super::node::{Node, while_away};
use super::vm_machine::{Event, Write};

/// The queue, and the write in flight.
pub(crate) struct RowWriter {
    node: Arc<Node>,
    vm: VmId,
    run: RunId,
    queue: VecDeque<(Write, Option<Endpoint>)>,
    in_flight: Option<BoxFuture<'static, Event>>,
}

impl RowWriter {
    pub(crate) fn new(node: Arc<Node>, vm: VmId, run: RunId) -> Self {
        Self { node, vm, run, queue: VecDeque::new(), in_flight: None }
    }

    /// Adds a write; `endpoint` goes with [`Write::Endpoint`].
    pub(crate) fn push(&mut self, write: Write, endpoint: Option<Endpoint>) {
        if let (Write::State(..), Some((Write::State(..), _))) = (&write, self.queue.back()) {
            self.queue.pop_back();
        }
        self.queue.push_back((write, endpoint));
    }

    /// Forgets everything that did not reach the database.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.in_flight = None;
    }

    /// Waits for the end of the next write; for ever when there is none.
    ///
    /// # Cancellation
    ///
    /// Safe: the write goes on at the next call.
    pub(crate) async fn next(&mut self) -> Event {
        if self.in_flight.is_none()
            && let Some((write, endpoint)) = self.queue.pop_front()
        {
            self.in_flight =
                Some(perform(Arc::clone(&self.node), self.vm, self.run, write, endpoint).boxed());
        }
        let Some(write) = &mut self.in_flight else { return std::future::pending().await };
        let event = write.await;
        self.in_flight = None;
        event
    }
}

async fn perform(node: Arc<Node>, vm: VmId, run: RunId, write: Write, endpoint: Option<Endpoint>) -> Event {
    let kind = write.kind();
    node.reached(vm, &format!("write {kind:?}")).await;
    match while_away(|| attempt(&node, vm, run, &write, endpoint.as_ref())).await {
        Ok(Guard::Updated(())) => {
            if let Write::State(state, phase) = &write {
                let phase = phase.map(|phase| phase.as_str());
                tracing::info!(%vm, %run, state = %state, phase, "vm state saved");
            }
            Event::Written(kind)
        }
        Ok(Guard::Unchanged(()) | Guard::NotFound) => {
            tracing::warn!(%vm, %run, write = ?kind, "the row belongs to somebody else");
            Event::GuardLost
        }
        Err(error) => {
            let text = chain(&error).to_string();
            tracing::error!(%vm, %run, write = ?kind, error = %text, "write refused");
            Event::WriteFailed(kind, text)
        }
    }
}

async fn attempt(
    node: &Node,
    vm: VmId,
    run: RunId,
    write: &Write,
    endpoint: Option<&Endpoint>,
) -> Result<Guard<()>, qvd_db::Error> {
    let (vms, hosts, host) = (node.db.vms(), node.db.hosts(), node.host);
    match write {
        Write::State(state, phase) => vms.set_state(vm, host, run, *state, *phase).await,
        Write::Endpoint => match endpoint {
            Some(endpoint) => vms.set_endpoint(vm, host, run, endpoint, None).await,
            // Adopted without a handle: what the row says stays.
            None => Ok(Guard::Updated(())),
        },
        Write::Failure { failure, failed_start } => {
            let text = one_line(&failure.text);
            let config = node.config.get();
            let limit = |key: &str| u32::try_from(config.integer(key)).unwrap_or(0);
            let charge = judge(failure, *failed_start);
            tracing::warn!(%vm, %run, ?charge, error = %text, "vm failure");
            let charged = match charge {
                Charge::Vm => Charged::Vm { block_at: limit("hkd.vm.failures.max") },
                Charge::Host => {
                    Charged::Host { incarnation: node.incarnation, block_at: limit("hkd.host.failures.max") }
                }
                Charge::Nobody => Charged::Nobody,
            };
            vms.record_failure(vm, host, run, &text, charged).await
        }
        Write::Success => {
            let _ = hosts.record_success(host, node.incarnation).await?;
            vms.record_success(vm, host, run).await
        }
        Write::Clear => vms.clear(vm, host, run).await,
    }
}

/// Texts in rows are one line of bounded length, whatever a guest printed.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(1000).collect()
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_guests_last_words_stay_one_bounded_line() {
        assert_eq!(one_line("a\n\tb \u{1b}[31mc"), "a b [31mc");
        assert_eq!(one_line(&"x".repeat(5000)).len(), 1000);
    }
}
