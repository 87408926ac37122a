//! What the router counts of itself. Reading and writing takes no lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(pub(crate) $name: Counter,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Metrics {
            pub(crate) fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

metrics! {
    /// Connections accepted since the start.
    connections_total,
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
    sessions_total,
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
