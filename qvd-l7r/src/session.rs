//! A connected desktop: the pump, the order to end, and the account at the end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qvd_core::{HostId, UserId, VmId};
use qvd_db::HostCounter;

use crate::forward::{Ended, Moved, Prefix, Pump};
use crate::front::close;
use crate::gate::{Place, Room};
use crate::sessions::{Order, Ticket};
use crate::shared::Shared;
use crate::stream::{ClientStream, DesktopStream};
use crate::takeover;
use crate::workers::Seat;

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
    ///
    /// On the heap, and told its berth apart: an idle session is as large as what it holds, once.
    pub(crate) async fn run(self: Box<Self>, berth: Berth) {
        let moves = berth.seat.is_some();
        let mut session = match if moves { self.at_home() } else { Ok(self) } {
            Ok(session) => session,
            // Dropped, it leaves its row owed.
            Err(error) => return tracing::error!("session not carried: {error}"),
        };
        session.shared.metrics.sessions_begun_total.add(1);
        let _live = session.shared.metrics.hold(|metrics| &metrics.sessions);
        let begun = Instant::now();
        let (reason, moved) = session.carry().await;
        Box::pin(session.end(reason, moved, begun.elapsed())).await;
    }

    /// The same session, its sockets watched by the worker that runs this.
    fn at_home(self: Box<Self>) -> io::Result<Box<Self>> {
        let (client, desktop) = (self.client.at_home()?, self.desktop.at_home()?);
        Ok(Box::new(Self { client, desktop, ..*self }))
    }

    async fn carry(&mut self) -> (Reason, Moved) {
        let mut pump = Pump::new(&mut self.client, &mut self.desktop, std::mem::take(&mut self.prefix));
        // One that came when the 101 was on its way has been said already.
        if let Some(order) = self.ticket.order() {
            return (Reason::Ordered(order), pump.moved());
        }
        let reason = tokio::select! {
            biased;
            order = self.ticket.ordered() => Reason::Ordered(order),
            ended = &mut pump => Reason::Ended(ended),
        };
        (reason, pump.moved())
    }

    async fn end(self: Box<Self>, reason: Reason, moved: Moved, lasted: Duration) {
        let Self { shared, mut client, desktop, ticket, vm, user, router, peer, .. } = *self;
        if reason == Reason::Ordered(Order::Abort) {
            shared.metrics.aborted_total.add(1);
        }
        let session = ticket.id();
        // The desktop's stream goes before the row: who takes the session next finds the desktop left.
        drop(desktop);
        // Neither waits for the other: a user sees the end although the database is away, and whoever comes next
        // gets the row although this client takes its time.
        let settled =
            shared.control.spawn(takeover::settle(shared.db.clone(), shared.settling.clone(), ticket));
        let _ = tokio::join!(settled, close(&mut client));
        if lasted < shared.config().seconds("internal.l7r.short_session") {
            shared.counters.count(router, HostCounter::ShortSessions);
        }
        shared.metrics.forwarded_up_bytes_total.add(moved.up);
        shared.metrics.forwarded_down_bytes_total.add(moved.down);
        tracing::info!(vm = %vm, user = %user, session = %session, client = %peer,
            up = moved.up, down = moved.down, seconds = lasted.as_secs_f32(), "session ended: {reason}");
    }
}

/// What a session takes up besides itself, for as long as it runs.
#[derive(Debug)]
pub(crate) struct Berth {
    /// Its connection's.
    pub(crate) _room: Room,
    /// Its address's.
    pub(crate) _place: Place,
    /// Its worker's; none without workers.
    pub(crate) seat: Option<Seat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Ordered(Order),
    Ended(Ended),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordered(Order::Abort) => f.write_str("aborted"),
            Self::Ordered(Order::Stop) => f.write_str("router stopping"),
            Self::Ended(ended) => ended.fmt(f),
        }
    }
}
