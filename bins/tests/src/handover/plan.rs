//! Which cuts a sweep makes. Pure.

use std::fmt;
use std::time::Duration;

use crate::relay::{Break, Passed};
use crate::trace::Step;

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first connect to a stopped virtual machine.
    Connect,
    /// The connect to a suspended desktop.
    Resume,
    /// The connect to a desktop that somebody else looks at.
    Takeover,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Resume, Self::Takeover];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connect => "connect",
            Self::Resume => "resume",
            Self::Takeover => "takeover",
        })
    }
}

/// Hand-overs of one kind over one kind of link, swept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series {
    /// What is cut.
    pub(super) kind: Kind,
    /// NX link word of the clients.
    pub(super) link: &'static str,
    /// Whether the router encrypts. Bytes of the desktop's own stream show only when it does not.
    pub(super) encrypted: bool,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = if self.encrypted { "encrypted" } else { "plain" };
        write!(f, "{}, {}, {stream}", self.kind, self.link)
    }
}

/// When it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// As soon as this line is seen.
    Step(Step),
    /// At a time or at a byte.
    Offset(Break),
}

impl Moment {
    /// Whether it is a byte of the link.
    pub(super) fn is_byte(&self) -> bool {
        matches!(self, Self::Offset(Break::Up(_) | Break::Down(_)))
    }

    /// A hand-over on a busy machine draws less often, and carries less than the one that the offsets were taken from.
    /// A byte that it did not have becomes one close to the end of what it had.
    pub(super) fn bring_nearer(&mut self, passed: Passed) {
        match self {
            Self::Offset(Break::Up(at)) => *at = (*at).min(passed.up - passed.up / 50).max(1),
            Self::Offset(Break::Down(at)) => *at = (*at).min(passed.down - passed.down / 50).max(1),
            Self::Offset(Break::After(_)) | Self::Step(_) => {}
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(f, "at {step}"),
            Self::Offset(Break::After(time)) => write!(f, "{} ms after the first byte", time.as_millis()),
            Self::Offset(Break::Up(bytes)) => write!(f, "after byte {bytes} up"),
            Self::Offset(Break::Down(bytes)) => write!(f, "after byte {bytes} down"),
        }
    }
}

/// How it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// The network between client and router goes.
    Link,
    /// The client is killed.
    Kill,
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Link => "link",
            Self::Kill => "kill",
        })
    }
}

/// One cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// When.
    pub moment: Moment,
    /// How.
    pub means: Means,
}

/// How much is swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every observable step, each once, and so many seeded offsets of each kind.
    Steps {
        /// Seeded offsets of each kind.
        offsets: usize,
    },
    /// All that, and steps of 50 ms over the whole hand-over, and the byte offsets known to be dangerous.
    Full,
    /// The dangerous byte offsets of a resume alone.
    Dangerous,
}

impl Extent {
    /// What is swept.
    pub(super) fn series(self) -> Vec<Series> {
        let on_lan = |encrypted| move |kind| Series { kind, link: LAN, encrypted };
        let plain_resume = on_lan(false)(Kind::Resume);
        match self {
            Self::Steps { .. } => Kind::ALL.map(on_lan(true)).into_iter().chain([plain_resume]).collect(),
            Self::Full => {
                let lan = [true, false].into_iter().flat_map(|encrypted| Kind::ALL.map(on_lan(encrypted)));
                // A slow link has a hand-over of its own: other bytes, later.
                lan.chain([Series { link: ADSL, ..plain_resume }]).collect()
            }
            Self::Dangerous => vec![plain_resume],
        }
    }
}

/// What an undisturbed hand-over looked like.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The steps that were seen, in order.
    pub steps: Vec<Step>,
    /// From the client's first byte until the desktop showed.
    pub lasted: Duration,
    /// Bytes from the client until then.
    pub up: u64,
    /// Bytes to the client until then.
    pub down: u64,
}

/// Seeded offsets of each kind in an ordinary sweep.
pub const OFFSETS: usize = 20;

/// The cuts of a series.
pub(super) fn cuts(extent: Extent, series: Series, measured: &Measured, random: &mut Random) -> Vec<Cut> {
    match (series.encrypted, series.link) {
        (true, _) => step_cuts(extent, measured, random),
        (false, ADSL) => even_cuts(measured),
        (false, _) => byte_cuts(extent, series.kind, measured, random),
    }
}

/// Cuts at every step, and at seeded offsets.
fn step_cuts(extent: Extent, measured: &Measured, random: &mut Random) -> Vec<Cut> {
    let (offsets, full) = match extent {
        Extent::Steps { offsets } => (offsets, false),
        Extent::Full => (OFFSETS, true),
        Extent::Dangerous => return Vec::new(),
    };
    // Both ways of cutting take turns; which one begins is up to the seed.
    let turn = random.below(2);
    let means = |at: usize| if (at as u64 + turn).is_multiple_of(2) { Means::Link } else { Means::Kill };
    let mut cuts: Vec<Cut> = measured
        .steps
        .iter()
        .enumerate()
        .map(|(at, step)| Cut { moment: Moment::Step(step.clone()), means: means(at) })
        .collect();
    if full {
        // Both ways at every step.
        let other = cuts.clone().into_iter().enumerate();
        cuts.extend(other.map(|(at, cut)| Cut { means: means(at + 1), ..cut }));
        let end = measured.lasted + 2 * STRIDE;
        let times = (1..).map(|step| STRIDE * step).take_while(|time| *time <= end);
        cuts.extend(times.enumerate().map(|(at, time)| after(time, means(at))));
    }
    for at in 0..offsets {
        let cut = match random.below(4) {
            0 => Cut { moment: Moment::Offset(Break::Up(1 + random.below(measured.up))), means: Means::Link },
            1 => Cut {
                moment: Moment::Offset(Break::Down(1 + random.below(measured.down))),
                means: Means::Link,
            },
            _ => {
                let time = random.below(1 + measured.lasted.as_millis() as u64);
                after(Duration::from_millis(time), means(at))
            }
        };
        cuts.push(cut);
    }
    cuts
}

/// Cuts at bytes of the desktop's own stream that are known to be dangerous on a fast link.
fn byte_cuts(extent: Extent, kind: Kind, measured: &Measured, random: &mut Random) -> Vec<Cut> {
    let moments: Vec<Break> = match (extent, kind) {
        (Extent::Steps { .. }, Kind::Connect | Kind::Takeover)
        | (Extent::Dangerous, Kind::Connect | Kind::Takeover) => Vec::new(),
        (Extent::Steps { .. } | Extent::Dangerous, Kind::Resume) => dangerous().into(),
        (Extent::Full, Kind::Connect | Kind::Resume | Kind::Takeover) => {
            let mut breaks: Vec<Break> = dangerous().into();
            let small = [1, 49, 60, 1_000, 20_000, 50_000, 70_000];
            breaks.extend(small.map(Break::Up));
            breaks.extend(small.map(Break::Down));
            // Close together in the part where a resume asks the screen what it can.
            breaks.extend((0..16).map(|at| Break::Up(76_800 + 100 * at)));
            breaks.extend((0..16).map(|at| Break::Down(78_800 + 200 * at)));
            breaks.extend((0..OFFSETS).map(|_| Break::Up(1 + random.below(measured.up))));
            breaks.extend((0..OFFSETS).map(|_| Break::Down(1 + random.below(measured.down))));
            breaks
        }
    };
    moments.into_iter().map(|at| Cut { moment: Moment::Offset(at), means: Means::Link }).collect()
}

/// Cuts spread evenly over a hand-over whose dangerous bytes nobody knows: in time, and over its later bytes.
fn even_cuts(measured: &Measured) -> Vec<Cut> {
    const PARTS: u64 = 24;
    let times = (1..).map(|step| STRIDE * step).take_while(|time| *time <= measured.lasted);
    let later =
        |all: u64| (0..PARTS).map(move |part| 1 + all / 2 + (all / 2).saturating_sub(1) * part / PARTS);
    let bytes = later(measured.up).map(Break::Up).chain(later(measured.down).map(Break::Down));
    let moments = times.map(Break::After).chain(bytes);
    moments.map(|at| Cut { moment: Moment::Offset(at), means: Means::Link }).collect()
}

/// The byte offsets of a resume at which nxagent 3.5.99.26 dies without the guard.
fn dangerous() -> [Break; 5] {
    [Break::Up(77_240), Break::Up(77_600), Break::Up(77_800), Break::Down(79_188), Break::Down(81_351)]
}

fn after(time: Duration, means: Means) -> Cut {
    Cut { moment: Moment::Offset(Break::After(time)), means }
}

/// NX link words.
const LAN: &str = "lan";
const ADSL: &str = "adsl";

/// Step of a full sweep.
const STRIDE: Duration = Duration::from_millis(50);

/// Numbers that a seed decides (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, less than `limit` (0 when that is 0).
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Source;

    fn measured() -> Measured {
        let step = |text: &str| Step { source: Source::Client, text: text.to_owned() };
        Measured {
            steps: ["one", "two", "three"].map(step).into(),
            lasted: Duration::from_millis(620),
            up: 90_000,
            down: 80_000,
        }
    }

    #[test]
    fn every_step_is_cut_and_the_seed_decides_the_rest() {
        let extent = Extent::Steps { offsets: 20 };
        let first = step_cuts(extent, &measured(), &mut Random::new(7));
        assert_eq!(first, step_cuts(extent, &measured(), &mut Random::new(7)));
        assert_ne!(first, step_cuts(extent, &measured(), &mut Random::new(8)));
        assert_eq!(first.len(), 3 + 20);
        assert!(measured().steps.iter().all(|s| first.iter().any(|c| c.moment == Moment::Step(s.clone()))));
        assert!(first.iter().any(|c| c.means == Means::Kill) && first.iter().any(|c| c.means == Means::Link));
    }

    #[test]
    fn a_full_sweep_steps_over_the_whole_hand_over() {
        let cuts = step_cuts(Extent::Full, &measured(), &mut Random::new(1));
        for step in 1..=14 {
            let time = Moment::Offset(Break::After(STRIDE * step));
            assert!(cuts.iter().any(|c| c.moment == time), "{step}");
        }
        let bytes = byte_cuts(Extent::Full, Kind::Resume, &measured(), &mut Random::new(1));
        for at in dangerous() {
            assert!(bytes.iter().any(|c| c.moment == Moment::Offset(at)), "{at:?}");
        }
    }

    #[test]
    fn a_full_sweep_resumes_over_a_slow_link_too() {
        let slow = |series: &Series| series.link == ADSL && series.kind == Kind::Resume;
        let series = Extent::Full.series().into_iter().find(slow).expect("a slow one");
        let measured = measured();
        let cuts = cuts(Extent::Full, series, &measured, &mut Random::new(1));
        let (mut up, mut down) = (0, 0);
        for cut in &cuts {
            match cut.moment {
                Moment::Offset(Break::Up(bytes)) => {
                    assert!((measured.up / 2..measured.up).contains(&bytes), "{bytes}");
                    up += 1;
                }
                Moment::Offset(Break::Down(bytes)) => {
                    assert!((measured.down / 2..measured.down).contains(&bytes), "{bytes}");
                    down += 1;
                }
                Moment::Offset(Break::After(time)) => assert!(time <= measured.lasted),
                Moment::Step(_) => panic!("no step: {cut:?}"),
            }
        }
        assert_eq!((up, down), (24, 24));
        assert!(!Extent::Steps { offsets: 20 }.series().iter().any(slow));
    }

    #[test]
    fn a_byte_that_did_not_come_is_taken_close_to_the_end_of_what_came() {
        let passed = Passed { up: 70_000, down: 80_000, ..Passed::default() };
        let nearer = |at| {
            let mut moment = Moment::Offset(at);
            moment.bring_nearer(passed);
            moment
        };
        assert_eq!(nearer(Break::Down(86_000)), Moment::Offset(Break::Down(78_400)));
        assert_eq!(nearer(Break::Up(69_999)), Moment::Offset(Break::Up(68_600)));
        assert_eq!(nearer(Break::Up(5)), Moment::Offset(Break::Up(5)));
        let time = Break::After(Duration::from_secs(1));
        assert_eq!(nearer(time), Moment::Offset(time));
    }

    #[test]
    fn random_numbers_keep_their_limit() {
        let mut random = Random::new(3);
        assert!((0..1000).all(|_| random.below(17) < 17));
        assert_eq!(random.below(0), 0);
    }
}
