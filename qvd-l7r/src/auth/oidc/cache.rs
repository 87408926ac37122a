//! Which keys count now, and when the issuer is asked for newer ones. Pure: times come in.
//!
//! | keys here | the key is among them | what to do |
//! |---|---|---|
//! | none, or older than [`STALE`] | | ask, [`RETRY`] after the last time; until then nobody knows |
//! | older than [`FRESH`] | yes | use them, and ask beside it, once in [`PAUSE`] |
//! | younger | yes | use them |
//! | either | no | ask, once in [`PAUSE`]; until then the key is unknown, or nobody knows if the issuer was away |

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::keys::{Keys, Wanted};

/// The keys of one issuer, and what was asked when.
#[derive(Debug, Default)]
pub(super) struct Cache {
    held: Option<(Arc<Keys>, Instant)>,
    /// When an answer, or none, last came, and whether it was one.
    answered: Option<(Instant, bool)>,
    /// When an unknown key was last asked for.
    searched: Option<Instant>,
}

/// What to do about a key.
#[derive(Debug)]
pub(super) enum Step {
    /// It is among these; `renew` says that newer ones should be asked for.
    Use { keys: Arc<Keys>, renew: bool },
    /// Ask first; without an answer nobody knows.
    Ask,
    /// Ask first; it is in none of the keys here.
    Search,
    /// The issuer has no such key, as it said a moment ago.
    Unknown,
    /// The issuer did not answer a moment ago.
    Away,
}

impl Cache {
    pub(super) fn step(&self, wanted: &Wanted, now: Instant) -> Step {
        let passed = |since: Instant, pause| now.saturating_duration_since(since) >= pause;
        let answered_before = |pause| self.answered.is_none_or(|(at, _)| passed(at, pause));
        let Some((keys, since)) = self.held.as_ref().filter(|(_, since)| !passed(*since, STALE)) else {
            return if answered_before(RETRY) { Step::Ask } else { Step::Away };
        };
        if keys.know(wanted) {
            let renew = passed(*since, FRESH) && answered_before(PAUSE);
            return Step::Use { keys: keys.clone(), renew };
        }
        match (self.searched, self.answered) {
            (None, _) => Step::Search,
            (Some(searched), _) if passed(searched, PAUSE) => Step::Search,
            (_, Some((_, false))) => Step::Away,
            _ => Step::Unknown,
        }
    }

    /// The issuer is being asked for an unknown key.
    pub(super) fn searching(&mut self, now: Instant) {
        self.searched = Some(now);
    }

    /// The issuer answered, or not.
    pub(super) fn answered(&mut self, keys: Option<Keys>, now: Instant) {
        self.answered = Some((now, keys.is_some()));
        if let Some(keys) = keys {
            self.held = Some((Arc::new(keys), now));
        }
    }
}

/// Keys that are older are renewed when they are next used, so that one that was withdrawn does not count for long.
const FRESH: Duration = Duration::from_secs(3600);

/// Keys that are older do not count: an issuer that has been away for a day may have lost one meanwhile.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Between two questions while there are keys: whoever invents tokens must not make us a nuisance.
const PAUSE: Duration = Duration::from_secs(60);

/// Between two questions while there are none: nobody can log in meanwhile.
const RETRY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::oidc::keys::testkit::{Signer, keys};

    const SECOND: Duration = Duration::from_secs(1);

    fn wanted(kid: &str) -> Wanted {
        Signer::es256(Some(kid)).wanted()
    }

    fn with(kids: &[&str], now: Instant) -> Cache {
        let mut cache = Cache::default();
        answer(&mut cache, kids, now);
        cache
    }

    fn answer(cache: &mut Cache, kids: &[&str], now: Instant) {
        let signers: Vec<_> = kids.iter().map(|kid| Signer::es256(Some(kid))).collect();
        cache.answered(Some(keys(&signers)), now);
    }

    fn word(step: Step) -> &'static str {
        match step {
            Step::Use { renew: false, .. } => "use",
            Step::Use { renew: true, .. } => "use and renew",
            Step::Ask => "ask",
            Step::Search => "search",
            Step::Unknown => "unknown",
            Step::Away => "away",
        }
    }

    #[test]
    fn without_keys_the_issuer_is_asked_every_five_seconds() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let step = |cache: &Cache, at| word(cache.step(&wanted("a"), at));
        assert_eq!(step(&cache, now), "ask");
        cache.answered(None, now);
        assert_eq!(step(&cache, now + RETRY - SECOND), "away");
        assert_eq!(step(&cache, now + RETRY), "ask");
    }

    #[test]
    fn keys_serve_are_renewed_after_an_hour_and_count_a_day() {
        let now = Instant::now();
        let mut cache = with(&["a"], now);
        let step = |cache: &Cache, at| word(cache.step(&wanted("a"), at));
        assert_eq!(step(&cache, now + FRESH - SECOND), "use");
        assert_eq!(step(&cache, now + FRESH), "use and renew");
        cache.answered(None, now + FRESH);
        assert_eq!(step(&cache, now + FRESH + PAUSE - SECOND), "use", "not again at once");
        assert_eq!(step(&cache, now + FRESH + PAUSE), "use and renew");
        cache.answered(None, now + STALE - SECOND);
        assert_eq!(step(&cache, now + STALE - SECOND), "use", "the issuer is away");
        assert_eq!(step(&cache, now + STALE), "away", "for too long");
        assert_eq!(step(&cache, now + STALE + RETRY), "ask");
        answer(&mut cache, &["a"], now + STALE + RETRY);
        assert_eq!(step(&cache, now + STALE + RETRY), "use");
    }

    #[test]
    fn an_unknown_key_is_asked_for_once_a_minute_whichever_it_is() {
        let now = Instant::now();
        let mut cache = with(&["a"], now);
        let step = |cache: &Cache, kid, at| word(cache.step(&wanted(kid), at));
        assert_eq!(step(&cache, "b", now), "search", "a key may have come just now");
        cache.searching(now);
        answer(&mut cache, &["a"], now + SECOND);
        for kid in ["b", "c"] {
            assert_eq!(step(&cache, kid, now + PAUSE - SECOND), "unknown");
            assert_eq!(step(&cache, kid, now + PAUSE), "search");
        }
        assert_eq!(step(&cache, "a", now + PAUSE), "use", "known ones are none the worse for it");
        cache.searching(now + PAUSE);
        cache.answered(None, now + PAUSE);
        assert_eq!(step(&cache, "b", now + PAUSE + SECOND), "away", "nobody can tell");
        answer(&mut cache, &["a", "b"], now + 2 * PAUSE);
        assert_eq!(step(&cache, "b", now + 2 * PAUSE), "use");
    }

    #[test]
    fn keys_that_the_issuer_no_longer_has_do_not_count() {
        let now = Instant::now();
        let mut cache = with(&["a", "b"], now);
        answer(&mut cache, &["b"], now + FRESH);
        assert_eq!(word(cache.step(&wanted("a"), now + FRESH)), "search");
    }
}
