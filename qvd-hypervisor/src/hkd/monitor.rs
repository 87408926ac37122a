//! Is the agent inside a virtual machine alive? Counters here, the asking in `AgentMonitor`.
//!
//! Dead means both: more than so many failures in a row, and longer than so long since the last answer. The first
//! alone would punish a short hiccup of many quick questions, the second alone one lost answer after a long pause.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::vma::Vma;

use super::vm_machine::Watch;

/// When an agent counts as dead, and how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivenessLimits {
    /// Failures in a row, at least.
    pub failures: u32,
    /// Silence, longer than.
    pub silence: Duration,
    /// Pause after an answer.
    pub after_answer: Duration,
    /// Longest pause after a failure.
    pub after_failure: Duration,
    /// First pause after a failure; grows by half each time. Zero: always the longest.
    pub first_retry: Duration,
    /// How long one question may take.
    pub patience: Duration,
}

impl LivenessLimits {
    /// The limits of this configuration. A booting agent is asked often at first, so that a quick boot is seen at
    /// once.
    pub fn from_config(config: &Config, watch: Watch) -> Self {
        let of = |what: &str| {
            let state = match watch {
                Watch::Starting => "starting",
                Watch::Running => "running",
            };
            format!("internal.hkd.vmhandler.vma.failed.{what}.on.{state}")
        };
        Self {
            failures: u32::try_from(config.integer(&of("max_count"))).unwrap_or(0),
            silence: config.seconds(&of("max_time")),
            after_answer: config.seconds("internal.hkd.vmhandler.vma_monitor.delay.after.ok"),
            after_failure: config.seconds("internal.hkd.vmhandler.vma_monitor.delay.after.error"),
            first_retry: match watch {
                Watch::Starting => Duration::from_millis(20),
                Watch::Running => Duration::ZERO,
            },
            patience: config.seconds("internal.hkd.agent.rpc.timeout"),
        }
    }
}

/// Counts answers and failures of one agent.
#[derive(Clone, Debug)]
pub struct Liveness {
    limits: LivenessLimits,
    failures: u32,
    last_sign: Instant,
}

impl Liveness {
    /// Begins to count; the silence begins now.
    pub fn new(limits: LivenessLimits, now: Instant) -> Self {
        Self { limits, failures: 0, last_sign: now }
    }

    /// Goes on with a count that another daemon began `age` ago and took along with it: as if every question since
    /// then had failed. A quarter of the silence stays, so that a restart alone is never the end of a slow boot.
    pub fn resumed(limits: LivenessLimits, age: Duration, now: Instant) -> Self {
        let age = age.min(limits.silence * 3 / 4);
        let most = limits.failures;
        let mut liveness = Self::new(limits, now.checked_sub(age).unwrap_or(now));
        let mut spent = Duration::ZERO;
        while spent < age && liveness.failures < most {
            spent += liveness.failed();
        }
        liveness
    }

    /// It answered. Returns the pause before the next question.
    pub fn answered(&mut self, now: Instant) -> Duration {
        self.failures = 0;
        self.last_sign = now;
        self.limits.after_answer
    }

    /// It did not. Returns the pause before the next question.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        if self.limits.first_retry.is_zero() {
            return self.limits.after_failure;
        }
        let growth = 1.5_f64.powi(i32::try_from(self.failures.min(64) - 1).unwrap_or(64));
        let pause = self.limits.first_retry.as_secs_f64() * growth;
        Duration::try_from_secs_f64(pause).unwrap_or(self.limits.after_failure).min(self.limits.after_failure)
    }

    /// Whether it counts as dead.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.failures >= self.limits.failures && self.silence(now) > self.limits.silence
    }

    /// How long it has been silent.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_sign)
    }
}

/// What the monitor has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Alive,
    Dead(String),
}

/// Asks one agent again and again.
#[derive(Debug)]
pub(crate) struct AgentMonitor {
    agent: Arc<dyn Vma>,
    liveness: Liveness,
    limits: LivenessLimits,
    pause: Duration,
    told_alive: bool,
}

impl AgentMonitor {
    /// A monitor of what has been waited for since `age`.
    pub(crate) fn new(agent: Arc<dyn Vma>, limits: LivenessLimits, age: Duration) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let liveness = Liveness::resumed(limits.clone(), age, now);
        Self { agent, liveness, limits, pause: Duration::ZERO, told_alive: false }
    }

    /// Waits for the first answer after a silence, or for the verdict that it is dead.
    pub(crate) async fn next(mut self) -> (Self, News) {
        loop {
            tokio::time::sleep(self.pause).await;
            let answer = tokio::time::timeout(self.limits.patience, self.agent.ping()).await;
            let now = tokio::time::Instant::now().into_std();
            let why = match answer {
                Ok(Ok(())) => {
                    self.pause = self.liveness.answered(now);
                    if !std::mem::replace(&mut self.told_alive, true) {
                        return (self, News::Alive);
                    }
                    continue;
                }
                Ok(Err(error)) => chain(&error).to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            self.told_alive = false;
            self.pause = self.liveness.failed();
            if self.liveness.is_dead(now) {
                let silence = self.liveness.silence(now).as_secs();
                self.liveness = Liveness::new(self.limits.clone(), now);
                return (self, News::Dead(format!("its agent did not answer for {silence} s ({why})")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::testkit::fakes::FakeVma;

    fn limits(watch: Watch) -> LivenessLimits {
        LivenessLimits::from_config(&Config::defaults(), watch)
    }

    /// Seconds until a silent agent is declared dead, with the default limits.
    fn verdict(watch: Watch, each_question: Duration) -> u64 {
        let start = Instant::now();
        let mut liveness = Liveness::new(limits(watch), start);
        let mut now = start;
        loop {
            now += each_question;
            let pause = liveness.failed();
            if liveness.is_dead(now) {
                return (now - start).as_secs();
            }
            now += pause;
        }
    }

    #[test]
    fn a_silent_boot_is_dead_after_the_documented_time() {
        // Quick first questions spend part of the 40 failures before the pauses reach 10 s.
        let refused = verdict(Watch::Starting, Duration::ZERO);
        assert!((200..=400).contains(&refused), "{refused}");
        let timed_out = verdict(Watch::Starting, Duration::from_secs(3));
        assert!((refused..=520).contains(&timed_out), "{timed_out}");
    }

    #[test]
    fn a_restart_of_the_daemon_begins_no_new_boot() {
        let start = Instant::now();
        let verdict_after = |age: u64| {
            let age = Duration::from_secs(age);
            let mut liveness = Liveness::resumed(limits(Watch::Starting), age, start);
            let mut now = start;
            loop {
                let pause = liveness.failed();
                if liveness.is_dead(now) {
                    return (now - start).as_secs();
                }
                now += pause;
            }
        };
        let whole = verdict_after(0);
        assert_eq!(whole, verdict(Watch::Starting, Duration::ZERO));
        let rest = verdict_after(100);
        assert!((whole - 110..=whole - 90).contains(&rest), "{rest} of {whole}");
        // A start that waited long for its turn is not given up because the daemon was restarted.
        assert!((45..whole - 100).contains(&verdict_after(3600)), "{}", verdict_after(3600));
    }

    #[test]
    fn a_running_one_is_dead_about_320_seconds_after_its_last_answer() {
        let start = Instant::now();
        let mut liveness = Liveness::new(limits(Watch::Running), start);
        let mut now = start + liveness.answered(start);
        loop {
            let pause = liveness.failed();
            if liveness.is_dead(now) {
                break;
            }
            now += pause;
        }
        assert!((320..=335).contains(&(now - start).as_secs()), "{:?}", now - start);
    }

    #[test]
    fn neither_many_failures_nor_a_long_silence_alone_is_death() {
        let start = Instant::now();
        let mut liveness = Liveness::new(limits(Watch::Running), start);
        for _ in 0..1000 {
            liveness.failed();
        }
        assert!(!liveness.is_dead(start + Duration::from_secs(300)), "not long enough");
        let mut liveness = Liveness::new(limits(Watch::Running), start);
        liveness.failed();
        assert!(!liveness.is_dead(start + Duration::from_secs(3000)), "one lost answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_boot_is_noticed_quickly() {
        let agent = FakeVma::new();
        agent.set_reachable(false);
        let monitor = AgentMonitor::new(Arc::new(agent.clone()), limits(Watch::Starting), Duration::ZERO);
        let begun = tokio::time::Instant::now();
        let asked = tokio::spawn(monitor.next());
        tokio::time::sleep(Duration::from_millis(300)).await;
        agent.set_reachable(true);
        let (monitor, news) = asked.await.unwrap();
        assert_eq!(news, News::Alive);
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());

        agent.set_reachable(false);
        let (_, news) = monitor.next().await;
        assert!(matches!(news, News::Dead(text) if text.starts_with("its agent did not answer for")));
    }
}
