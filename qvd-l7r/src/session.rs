//! A connected desktop: the pump, the order to end, and the account at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use qvd_core::{HostId, UserId, VmId};
use qvd_db::HostCounter;

use crate::forward::{Prefix, Pump};
use crate::front::close;
use crate::sessions::{Order, Ticket};
use crate::shared::Shared;
use crate::stream::{ClientStream, DesktopStream};
use crate::takeover;

/// Everything that a session needs; no database connection is among it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: ClientStream,
    pub(crate) desktop: DesktopStream,
    pub(crate) prefix: Prefix,
    pub(crate) ticket: Ticket,
    pub(crate) vm: VmId,
    pub(crate) user: UserId,
    pub(crate) router: HostId,
    pub(crate) peer: SocketAddr,
}

impl Session {
    /// Forwards until either side or an order ends it, then gives the row back.
    pub(crate) async fn run(mut self) {
        let shared = self.shared;
        let _live = shared.metrics.sessions.hold();
        shared.metrics.sessions_total.add(1);
        let begun = Instant::now();
        let mut pump = Pump::new(&mut self.client, &mut self.desktop, self.prefix);
        let ordered = async {
            // One that came when the 101 was on its way has been said already.
            match self.ticket.order() {
                Some(order) => order,
                None => self.ticket.ordered().await,
            }
        };
        let reason = tokio::select! {
            biased;
            order = ordered => match order {
                Order::Abort => {
                    shared.metrics.aborted_total.add(1);
                    "aborted".to_owned()
                }
                Order::Stop => "router stopping".to_owned(),
            },
            ended = &mut pump => ended.to_string(),
        };
        let moved = pump.moved();
        // The desktop's stream goes before the row: who takes the session next finds the desktop left.
        drop(self.desktop);
        let lasted = begun.elapsed();
        let session = self.ticket.id();
        // Neither waits for the other: a user sees the end although the database is away, and whoever comes next
        // gets the row although this client takes its time. On the heap, so that a session of hours does not hold
        // the room for its last moment.
        Box::pin(async { tokio::join!(takeover::settle(&shared.db, self.ticket), close(&mut self.client)) })
            .await;
        if lasted < shared.config().seconds("internal.l7r.short_session") {
            shared.counters.count(self.router, HostCounter::ShortSessions);
        }
        shared.metrics.forwarded_up_bytes_total.add(moved.up);
        shared.metrics.forwarded_down_bytes_total.add(moved.down);
        tracing::info!(vm = %self.vm, user = %self.user, session = %session, client = %self.peer,
            up = moved.up, down = moved.down, seconds = lasted.as_secs_f32(), "session ended: {reason}");
    }
}
