//! What the router counts of itself. Reading and writing takes no lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// Live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(pub(crate) $name: Counter,)*
            pub(crate) connect_seconds: Spread,
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Snapshot {
            $($(#[doc = $doc])+ pub $name: u64,)*
            /// How long connects took, from when their checks were passed to the 101.
            pub connect_seconds: Times,
        }

        impl Metrics {
            pub(crate) fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get(),)* connect_seconds: self.connect_seconds.get() }
            }
        }

        impl Snapshot {
            /// All single numbers, for whoever shows them.
            pub fn figures(&self) -> Vec<Figure> {
                vec![$(Figure { name: stringify!($name), what: concat!($($doc),+).trim(), value: self.$name },)*]
            }
        }
    };
}

/// One number of a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figure {
    /// What it is called; with `_total` at its end it only grows.
    pub name: &'static str,
    /// What it counts.
    pub what: &'static str,
    /// The number.
    pub value: u64,
}

/// How many things took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// How many took longer than the limit before and no longer than this one of [`Times::LIMITS`]; the last took longer
    /// than all of them.
    pub counts: [u64; Times::LIMITS.len() + 1],
    /// What they took together.
    pub sum: Duration,
}

impl Times {
    /// In seconds.
    pub const LIMITS: [f64; 12] = [0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
}

/// [`Times`] in the making.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    counts: [Counter; Times::LIMITS.len() + 1],
    micros: Counter,
}

impl Spread {
    /// One more.
    pub(crate) fn saw(&self, took: Duration) {
        let limits = Times::LIMITS;
        let at = limits.iter().position(|limit| took.as_secs_f64() <= *limit).unwrap_or(limits.len());
        self.counts[at].add(1);
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn get(&self) -> Times {
        Times {
            counts: std::array::from_fn(|at| self.counts[at].get()),
            sum: Duration::from_micros(self.micros.get()),
        }
    }
}

metrics! {
    /// Connections accepted since the start.
    accepted_total,
    /// Connections open now, desktops among them.
    connections,
    /// Connections open now on which nobody has logged in.
    unauthenticated,
    /// Connections closed because too many were open on which nobody had logged in.
    unauthenticated_closed_total,
    /// Times that there were as many connections as there may be, so that others had to wait.
    full_total,
    /// Connections refused because their address had too many.
    refused_connections_total,
    /// TLS handshakes that failed.
    handshake_failures_total,
    /// TLS handshakes, PROXY headers before them included, that did not come in time.
    handshake_timeouts_total,
    /// Connections of balancers without a usable PROXY header.
    proxy_failures_total,
    /// Connections that sent no request, or too large a one.
    bad_heads_total,
    /// Request heads that did not come in time.
    head_timeouts_total,
    /// When the first of the router's certificates, authorities and revocation lists ends, in seconds since 1970; 0
    /// without TLS.
    certificate_end_seconds,
    /// Requests served, whatever the answer.
    requests_total,
    /// Logins that authenticators were asked for.
    auth_attempts_total,
    /// Logins refused for their password.
    auth_passwords_refused_total,
    /// Logins refused for their token.
    auth_tokens_refused_total,
    /// Logins on which nobody could decide.
    auth_undecided_total,
    /// Logins accepted by them.
    auth_ok_total,
    /// Passwords that wait now for a processor to be hashed by, in this process.
    passwords_waiting,
    /// Passwords that got one, in this process.
    passwords_hashed_total,
    /// Passwords refused because too many waited; who shows one is told to come back later.
    passwords_refused_total,
    /// How long all of them together waited, in seconds.
    password_wait_seconds_total,
    /// Connects begun, checks passed.
    connects_total,
    /// Connects that ended in a refusal.
    connect_failures_total,
    /// Desktops connected now.
    sessions,
    /// Desktops connected since the start.
    sessions_begun_total,
    /// Sessions that somebody else's session, or an administrator, ended.
    aborted_total,
    /// Bytes from clients to desktops, in sessions that have ended.
    forwarded_up_bytes_total,
    /// Bytes from desktops to clients, in sessions that have ended.
    forwarded_down_bytes_total,
}

/// One number.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// Counts one up until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, which: fn(&Self) -> &Counter) -> Held {
        which(self).add(1);
        Held { metrics: self.clone(), which }
    }
}

/// One thing that exists now.
pub(crate) struct Held {
    metrics: Arc<Metrics>,
    which: fn(&Metrics) -> &Counter,
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.which)(&self.metrics).0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_between_their_limits() {
        let metrics = Metrics::default();
        for millis in [0, 2, 10, 11, 61_000] {
            metrics.connect_seconds.saw(Duration::from_millis(millis));
        }
        let times = metrics.snapshot().connect_seconds;
        assert_eq!(times.counts, [2, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(times.sum, Duration::from_millis(61_023));
    }

    #[test]
    fn every_figure_has_its_name_and_meaning() {
        let metrics = Metrics::default();
        metrics.sessions.add(3);
        let figures = metrics.snapshot().figures();
        // Some readers leave the ending off.
        let names: std::collections::BTreeSet<_> =
            figures.iter().map(|figure| figure.name.trim_end_matches("_total")).collect();
        assert_eq!(names.len(), figures.len(), "{names:?}");
        let sessions = figures.iter().find(|figure| figure.name == "sessions").unwrap();
        assert_eq!((sessions.value, sessions.what), (3, "Desktops connected now."));
    }
}
