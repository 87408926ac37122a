//! What came of all cuts of a sweep. Pure.

use std::collections::BTreeMap;
use std::fmt;

use super::cut::{Crash, Fate, Outcome, Reached};
use super::plan::{Cut, Moment};
use crate::relay::Break;
use crate::trace::Source;

/// What came of all cuts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cuts made.
    pub cuts: usize,
    /// Desktops that were the same afterwards, or that nobody had been connected to.
    pub kept: usize,
    /// Desktops that were lost.
    pub lost: usize,
    /// Cuts after which it took more than one client to get the desktop back.
    pub repeated: usize,
    /// Agents that died or span, by signal and phase.
    pub crashes: BTreeMap<Crash, usize>,
    /// Cuts at steps, by who says the step.
    pub steps: BTreeMap<Source, Timing>,
    /// Cuts at times.
    pub times: Timing,
    /// Cuts at bytes.
    pub bytes: Timing,
    /// Cuts at bytes that did not come and were waited for in another hand-over; not part of [`bytes`](Self::bytes).
    pub again: usize,
    /// Agents that were looked at and ran with the library that keeps them alive.
    pub guarded: usize,
    /// Agents that were looked at and ran without it.
    pub bare: usize,
}

/// How many cuts were made at their moment. One that missed it proves little about that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// At the moment.
    pub in_time: usize,
    /// The moment did not come; cut later.
    pub late: usize,
    /// The client had ended before.
    pub ended: usize,
}

impl Timing {
    /// All cuts.
    pub fn all(&self) -> usize {
        self.in_time + self.late + self.ended
    }

    fn count(&mut self, reached: Reached) {
        match reached {
            Reached::InTime => self.in_time += 1,
            Reached::Late => self.late += 1,
            Reached::ClientEnded => self.ended += 1,
        }
    }

    fn merge(&mut self, other: Self) {
        self.in_time += other.in_time;
        self.late += other.late;
        self.ended += other.ended;
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (late={} ended={})", self.all(), self.late, self.ended)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cuts={} kept={} lost={} agent_crashes={}",
            self.cuts,
            self.kept,
            self.lost,
            self.agent_crashes()
        )
    }
}

impl Totals {
    /// Agents that died or span.
    pub fn agent_crashes(&self) -> usize {
        self.crashes.values().sum()
    }

    /// All cuts at steps.
    pub fn all_steps(&self) -> Timing {
        let mut all = Timing::default();
        self.steps.values().for_each(|own| all.merge(*own));
        all
    }

    /// What is known besides the totals, a line each.
    pub fn facts(&self) -> Vec<String> {
        let sources = self.steps.iter().map(|(source, timing)| format!("{source} {timing}"));
        let sources = sources.collect::<Vec<_>>().join(", ");
        let mut facts = vec![
            format!("cuts at steps: {sources}; at times: {}; at bytes: {}", self.times, self.bytes),
            format!("agents looked at: {} with the guard, {} without", self.guarded, self.bare),
        ];
        facts.extend(self.crashes.iter().map(|(crash, count)| format!("agent crash: {crash}: {count}")));
        if self.again > 0 {
            facts.push(format!("made again because the byte did not come: {}", self.again));
        }
        if self.repeated > 0 {
            facts.push(format!("took more than one client: {}", self.repeated));
        }
        facts
    }

    /// Adds what came of a cut; `again` when it missed its moment and is to be made again.
    pub(super) fn add(&mut self, cut: &Cut, outcome: &Outcome, again: bool) {
        self.cuts += 1;
        match outcome.desktop {
            Fate::Kept | Fate::Fresh => self.kept += 1,
            Fate::Lost(_) => self.lost += 1,
        }
        let timing = match &cut.moment {
            Moment::Step(step) => self.steps.entry(step.source).or_default(),
            Moment::Offset(Break::After(_)) => &mut self.times,
            Moment::Offset(Break::Up(_) | Break::Down(_)) => &mut self.bytes,
        };
        if again {
            self.again += 1;
        } else {
            timing.count(outcome.reached);
        }
        self.repeated += usize::from(outcome.clients > 1);
        for crash in &outcome.crashes {
            *self.crashes.entry(crash.clone()).or_default() += 1;
        }
    }

    pub(super) fn count_agent(&mut self, is_guarded: bool) {
        self.guarded += usize::from(is_guarded);
        self.bare += usize::from(!is_guarded);
    }

    pub(super) fn merge(&mut self, other: Self) {
        let Self { cuts, kept, lost, repeated, crashes, steps, times, bytes, again, guarded, bare } = other;
        self.cuts += cuts;
        self.kept += kept;
        self.lost += lost;
        self.repeated += repeated;
        for (crash, count) in crashes {
            *self.crashes.entry(crash).or_default() += count;
        }
        for (source, timing) in steps {
            self.steps.entry(source).or_default().merge(timing);
        }
        self.times.merge(times);
        self.bytes.merge(bytes);
        self.again += again;
        self.guarded += guarded;
        self.bare += bare;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::plan::Means;
    use super::*;
    use crate::relay::Passed;
    use crate::trace::Step;

    fn cut(moment: Moment) -> Cut {
        Cut { moment, means: Means::Link }
    }

    fn outcome(desktop: Fate, reached: Reached) -> Outcome {
        Outcome {
            desktop,
            reached,
            crashes: Vec::new(),
            clients: 1,
            recovery: Duration::ZERO,
            passed: Passed::default(),
        }
    }

    #[test]
    fn cuts_that_missed_their_moment_are_told_apart_by_what_the_moment_was() {
        let step = |source| cut(Moment::Step(Step { source, text: "said".to_owned() }));
        let (mut totals, mut others) = (Totals::default(), Totals::default());
        totals.add(&step(Source::Call), &outcome(Fate::Kept, Reached::Late), false);
        totals.add(&step(Source::Node), &outcome(Fate::Fresh, Reached::InTime), false);
        others.add(&step(Source::Call), &outcome(Fate::Kept, Reached::InTime), false);
        let byte = cut(Moment::Offset(Break::Up(7)));
        others.add(&byte, &outcome(Fate::Kept, Reached::Late), true);
        others.add(&byte, &outcome(Fate::Lost(String::new()), Reached::InTime), false);
        others.add(
            &cut(Moment::Offset(Break::After(Duration::ZERO))),
            &outcome(Fate::Kept, Reached::ClientEnded),
            false,
        );
        others.count_agent(true);
        totals.merge(others);
        assert_eq!(totals.to_string(), "cuts=6 kept=5 lost=1 agent_crashes=0");
        assert_eq!(
            totals.facts(),
            [
                "cuts at steps: call 2 (late=1 ended=0), node 1 (late=0 ended=0); at times: 1 (late=0 ended=1); \
                 at bytes: 1 (late=0 ended=0)",
                "agents looked at: 1 with the guard, 0 without",
                "made again because the byte did not come: 1",
            ]
        );
        assert_eq!(totals.all_steps(), Timing { in_time: 2, late: 1, ended: 0 });
    }
}
