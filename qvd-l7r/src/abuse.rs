//! What peers do wrong: counted always, logged at a bounded rate.
//!
//! The one place for both, so that nobody fills a disk by knocking: of each kind a few lines are written in a
//! minute, and what was left out is told with the first line of the next.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::metrics::{Counter, Metrics};
use crate::quota::Quota;

/// A kind of misbehaviour, or of what looks like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// There are as many connections as there may be, and others wait.
    RouterIsFull,
    /// As many connections are without a login as may be, and one had to go.
    TooManyStrangers,
    /// An address has as many connections as it may.
    AddressIsFull,
    /// A TLS handshake failed.
    Handshake,
    /// A TLS handshake, or a PROXY header before it, did not come in time.
    SlowHandshake,
    /// A balancer's connection had no usable PROXY header.
    NoProxyHeader,
    /// What came is no request, or too large a one.
    BadHead,
    /// A request head did not come in time.
    SlowHead,
    /// A login and password were wrong.
    WrongPassword,
    /// A token was wrong.
    WrongToken,
    /// Nobody could decide on a login: an outage, or more logins than can be checked.
    Undecided,
}

impl Abuse {
    const ALL: [Self; 11] = [
        Self::RouterIsFull,
        Self::TooManyStrangers,
        Self::AddressIsFull,
        Self::Handshake,
        Self::SlowHandshake,
        Self::NoProxyHeader,
        Self::BadHead,
        Self::SlowHead,
        Self::WrongPassword,
        Self::WrongToken,
        Self::Undecided,
    ];

    fn counter(self, metrics: &Metrics) -> &Counter {
        match self {
            Self::RouterIsFull => &metrics.full_total,
            Self::TooManyStrangers => &metrics.unauthenticated_closed_total,
            Self::AddressIsFull => &metrics.refused_connections_total,
            Self::Handshake => &metrics.handshake_failures_total,
            Self::SlowHandshake => &metrics.handshake_timeouts_total,
            Self::NoProxyHeader => &metrics.proxy_failures_total,
            Self::BadHead => &metrics.bad_heads_total,
            Self::SlowHead => &metrics.head_timeouts_total,
            Self::WrongPassword => &metrics.auth_passwords_refused_total,
            Self::WrongToken => &metrics.auth_tokens_refused_total,
            Self::Undecided => &metrics.auth_undecided_total,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::RouterIsFull => "no room for another connection",
            Self::TooManyStrangers => "connection closed before a login",
            Self::AddressIsFull => "connection refused",
            Self::Handshake => "no handshake",
            Self::SlowHandshake => "handshake too slow",
            Self::NoProxyHeader => "no client behind a balancer",
            Self::BadHead => "no request",
            Self::SlowHead => "request too slow",
            Self::WrongPassword => "login refused",
            Self::WrongToken => "token refused",
            Self::Undecided => "login undecided",
        }
    }
}

/// Writes down what peers do.
#[derive(Debug)]
pub(crate) struct Watch {
    quotas: Mutex<[Quota; Abuse::ALL.len()]>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { quotas: Mutex::new([Quota::default(); Abuse::ALL.len()]) }
    }
}

impl Watch {
    /// Counts what a peer, or no single one, did, and logs it unless too much of this kind was logged of late.
    pub(crate) fn saw(
        &self,
        what: Abuse,
        metrics: &Metrics,
        peer: Option<SocketAddr>,
        detail: &dyn fmt::Display,
    ) {
        what.counter(metrics).add(1);
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        let told = quotas[what as usize].take(Instant::now());
        drop(quotas);
        let Some(untold) = told else { return };
        let untold = (untold > 0).then_some(untold);
        let peer = peer.map(tracing::field::display);
        match what {
            // The one kind that is not up to peers alone.
            Abuse::Undecided => tracing::error!(client = peer, untold, "{}: {detail}", what.text()),
            _ => tracing::warn!(client = peer, untold, "{}: {detail}", what.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_place_and_a_counter_of_its_own() {
        let (watch, metrics) = (Watch::default(), Metrics::default());
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        for (at, what) in Abuse::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, at);
            watch.saw(what, &metrics, Some(peer), &"seen");
            assert_eq!(what.counter(&metrics).get(), 1, "{what:?}");
        }
    }
}
