//! Samples, their median and spread, and the processor time of processes and threads.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Samples of one figure.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle one; not a number when there is none.
    pub fn median(&self) -> f64 {
        quantile(&self.0, 0.5)
    }

    /// The smallest one.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest one.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order in which they came.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// This one's medians over the other's, and the span of the ratios round by round.
    pub fn ratio_to(&self, other: &Self) -> Ratio {
        let mut rounds = Self::default();
        self.0.iter().zip(&other.0).for_each(|(own, theirs)| rounds.push(own / theirs));
        Ratio { median: self.median() / other.median(), min: rounds.min(), max: rounds.max() }
    }
}

/// One party's figure over another's.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Of the medians.
    pub median: f64,
    /// Of the round that was kindest.
    pub min: f64,
    /// Of the round that was harshest.
    pub max: f64,
}

/// The value below which this share of the samples lies.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    if samples.is_empty() {
        return f64::NAN;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Processor time that processes have used, user and system together, threads that ended included.
///
/// # Errors
///
/// When one of them is gone.
pub fn cpu_time(pids: &[i32]) -> Result<Duration> {
    // The process's own clock counts nanoseconds; `/proc/PID/stat` shows the same time in steps of 10 ms.
    let mut total = Duration::ZERO;
    for pid in pids {
        let clock =
            clock_getcpuclockid(Pid::from_raw(*pid)).with_context(|| format!("process {pid} is gone"))?;
        total += Duration::from(clock_gettime(clock).with_context(|| format!("process {pid} is gone"))?);
    }
    Ok(total)
}

/// Processor time of each thread that lives.
///
/// # Errors
///
/// When a process is gone, or the kernel keeps no account of threads.
pub fn thread_times(pids: &[i32]) -> Result<BTreeMap<i32, Duration>> {
    let mut times = BTreeMap::new();
    for pid in pids {
        let tasks =
            fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
        for task in tasks.flatten() {
            let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // One that has just ended is no worker.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let spent = text.split_whitespace().next().and_then(|word| word.parse().ok());
            times.insert(thread, Duration::from_nanos(spent.context("no time in schedstat")?));
        }
    }
    Ok(times)
}

/// Time that the machine's processors were idle since it was started, all of them added up.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn idle_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/uptime").context("cannot read /proc/uptime")?;
    let idle = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Ok(Duration::from_secs_f64(idle.context("no idle time in /proc/uptime")?))
}

/// Resident memory of processes in KiB.
///
/// # Errors
///
/// When one of them is gone.
pub fn resident_kib(pids: &[i32]) -> Result<u64> {
    let mut total = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("process {pid} is gone"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        total += line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
}

/// Processor seconds that AES-256-GCM takes for a GiB in records of 16 KiB: the best of some tries.
///
/// # Errors
///
/// When the clock or the cipher fails.
pub fn aes_s_per_gib() -> Result<f64> {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let now =
        || clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).context("no clock");
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).ok().context("AES-256-GCM takes no key")?;
    let key = LessSafeKey::new(key);
    let mut record = vec![7; 16 << 10];
    let records = 4096u32;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let before = now()?;
        for _ in 0..records {
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut record);
            let _ = std::hint::black_box(tag.ok().context("AES fails")?);
        }
        best = best.min((now()? - before).as_secs_f64());
    }
    Ok(best * f64::from(1u32 << 30) / f64::from(records) / record.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_samples() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 1.0), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_ratio_is_of_the_medians_and_spans_the_rounds() {
        let samples = |values: &[f64]| Samples(values.to_vec());
        let ratio = samples(&[1.0, 2.0, 3.0]).ratio_to(&samples(&[2.0, 2.0, 4.0]));
        assert_eq!((ratio.median, ratio.min, ratio.max), (1.0, 0.5, 1.0));
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let own = [std::process::id() as i32];
        assert!(resident_kib(&own).unwrap() > 100);
        cpu_time(&own).unwrap();
        assert!(!thread_times(&own).unwrap().is_empty());
        idle_time().unwrap();
    }
}
