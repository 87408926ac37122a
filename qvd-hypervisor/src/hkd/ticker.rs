//! Tells the database, again and again, that this daemon lives, and notices when it must not live any more.
//!
//! A tick is confirmed when the database acknowledged exactly one row. An error proves nothing and is tried again; no
//! row at all proves that the host belongs to somebody else. A try is given up after one period, so a hanging
//! connection cannot hold up the next.

use std::time::{Duration, Instant};

use qvd_core::HostId;
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_db::{Db, Guard, HostLoad};

/// Times of the ticker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// Between two ticks.
    pub(crate) period: Duration,
    /// The host counts as gone this long after the sending of the last confirmed tick.
    pub(crate) fence: Duration,
    /// Added to the lease before others may touch the virtual machines.
    pub(crate) grace: Duration,
    /// Whether running out of time kills.
    pub(crate) enforced: bool,
}

impl Rhythm {
    pub(crate) fn from_config(config: &Config) -> Self {
        let fence = config.seconds("internal.hkd.agent.ticker.timeout");
        let node_timeout = config.seconds("internal.hkd.cluster.node.timeout");
        let enforced = match config.text("internal.hkd.fence.enable").as_str() {
            "0" => false,
            "1" => true,
            _ => config.text("database.driver") != "sqlite",
        };
        Self {
            period: config.seconds("internal.hkd.agent.ticker.delay").max(Duration::from_millis(50)),
            fence,
            grace: node_timeout.saturating_sub(fence),
            enforced,
        }
    }
}

/// Remembers when the last confirmed tick was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmation {
    sent: Instant,
}

impl Confirmation {
    /// The take-over counts as a tick; `sent` is when it was asked for.
    pub(crate) fn new(sent: Instant) -> Self {
        Self { sent }
    }

    pub(crate) fn confirmed(&mut self, sent: Instant) {
        self.sent = self.sent.max(sent);
    }

    /// Whether the time is up.
    pub(crate) fn is_overdue(&self, rhythm: Rhythm, now: Instant) -> bool {
        rhythm.enforced && now.saturating_duration_since(self.sent) > rhythm.fence
    }
}

/// Ticks until the host is lost, and tells why. `rhythm` and `load` are asked anew for each tick.
pub(crate) async fn tick_until_lost(
    db: Db,
    host: HostId,
    incarnation: i64,
    mut confirmation: Confirmation,
    rhythm: impl Fn() -> Rhythm + Send,
    load: impl Fn() -> HostLoad + Send,
) -> String {
    loop {
        let times = rhythm();
        let sent = now();
        let hosts = db.hosts();
        let tick = hosts.tick(host, incarnation, times.fence, times.grace, load());
        let pause = match tokio::time::timeout(times.period, tick).await {
            Ok(Ok(Guard::Updated(()))) => {
                confirmation.confirmed(sent);
                times.period
            }
            Ok(Ok(Guard::Unchanged(()))) => {
                return "its row was taken over by another daemon or marked lost".to_owned();
            }
            Ok(Ok(Guard::NotFound)) => return "its row was deleted".to_owned(),
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "tick not confirmed");
                times.period.min(RETRY)
            }
            Err(_) => {
                tracing::warn!(seconds = times.period.as_secs_f64(), "tick not confirmed: no answer in time");
                Duration::ZERO
            }
        };
        if confirmation.is_overdue(times, now()) {
            return format!("no tick was confirmed for {} s", times.fence.as_secs());
        }
        tokio::time::sleep(pause).await;
    }
}

/// Before a failed tick is repeated, at most.
const RETRY: Duration = Duration::from_secs(2);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_times_are_the_documented_ones_and_sqlite_fences_nobody() {
        let rhythm = Rhythm::from_config(&Config::defaults());
        let seconds = Duration::from_secs;
        assert_eq!((rhythm.period, rhythm.fence, rhythm.grace), (seconds(15), seconds(450), seconds(150)));
        assert!(rhythm.enforced);
        let sqlite = Config::builder().set("database.driver", "sqlite").build().unwrap();
        assert!(!Rhythm::from_config(&sqlite).enforced);
    }

    #[test]
    fn the_time_counts_from_the_sending_of_the_last_confirmed_tick() {
        let rhythm = Rhythm {
            period: Duration::from_secs(3),
            fence: Duration::from_secs(20),
            grace: Duration::from_secs(20),
            enforced: true,
        };
        let start = Instant::now();
        let mut confirmation = Confirmation::new(start);
        assert!(!confirmation.is_overdue(rhythm, start + Duration::from_secs(20)));
        assert!(confirmation.is_overdue(rhythm, start + Duration::from_secs(21)));
        confirmation.confirmed(start + Duration::from_secs(10));
        assert!(!confirmation.is_overdue(rhythm, start + Duration::from_secs(30)));
        confirmation.confirmed(start + Duration::from_secs(5));
        assert!(
            confirmation.is_overdue(rhythm, start + Duration::from_secs(31)),
            "an older one changes nothing"
        );
        let idle = Rhythm { enforced: false, ..rhythm };
        assert!(!confirmation.is_overdue(idle, start + Duration::from_secs(3000)));
    }
}
