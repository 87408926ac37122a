//! What goes wrong, and the dice that decide when.

use std::fmt;
use std::time::Duration;

/// A step at which something may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `prepare`.
    Prepare,
    /// `launch`.
    Launch,
    /// `terminate`.
    Terminate,
    /// `kill`.
    Kill,
    /// `cleanup`.
    Cleanup,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Launch => "launch",
            Self::Terminate => "terminate",
            Self::Kill => "kill",
            Self::Cleanup => "clean up",
        })
    }
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call fails, and the host is to blame.
    Fail,
    /// The call never returns; a machine told to end never does.
    Hang,
    /// At `launch`: the machine ends by itself after this time.
    DieAfter(Duration),
    /// At `terminate`: the machine is deaf. At `kill`: it takes the time of a zombie.
    Stubborn,
}

/// A rule: at this step, with this probability, this happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// When.
    pub at: Step,
    /// Of all runs, 0 to 1.
    pub probability: f64,
    /// What.
    pub effect: Effect,
}

/// The first rule of this step that the dice choose.
pub(super) fn chosen(faults: &[Fault], step: Step, dice: &mut Dice) -> Option<Effect> {
    faults
        .iter()
        .filter(|fault| fault.at == step)
        .find(|fault| dice.fraction() < fault.probability)
        .map(|f| f.effect)
}

/// Chance that repeats itself: a small mixing generator (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Dice of one step of one run of one machine.
    pub(super) fn new(seed: u64, vm: i64, run: i64, step: Step) -> Self {
        let mut dice = Self(seed);
        for word in [vm as u64, run as u64, step as u64] {
            dice.0 = dice.roll() ^ word;
        }
        dice
    }

    /// From 0 up to 1.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Within 30 % of a mean.
    pub(super) fn around(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(0.7 + 0.6 * self.fraction())
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_fair_and_repeats_itself() {
        let rule = [Fault { at: Step::Launch, probability: 0.25, effect: Effect::Fail }];
        let story = |seed: u64| -> Vec<bool> {
            let dice = |vm| Dice::new(seed, vm, 1, Step::Launch);
            (0..4000).map(|vm| chosen(&rule, Step::Launch, &mut dice(vm)).is_some()).collect()
        };
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
        let count = story(7).iter().filter(|fails| **fails).count();
        assert!((900..1100).contains(&count), "{count}");
        assert_eq!(chosen(&rule, Step::Prepare, &mut Dice::new(7, 1, 1, Step::Prepare)), None);
    }

    #[test]
    fn delays_stay_near_their_mean() {
        for vm in 0..1000 {
            let delay = Dice::new(1, vm, 1, Step::Launch).around(Duration::from_secs(10));
            assert!((7.0..13.0).contains(&delay.as_secs_f64()), "{delay:?}");
        }
    }
}
