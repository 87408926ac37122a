//! Samples, their median and spread, and the processor time of a process.

use std::time::Duration;

use anyhow::{Context as _, Result};

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

/// Processor time that processes have used, user and system together.
///
/// # Errors
///
/// When one of them is gone.
pub fn cpu_time(pids: &[i32]) -> Result<Duration> {
    // Clock ticks of /proc are 1/100 s on every Linux; scheduler statistics would be finer but are not always built in.
    let mut total = Duration::ZERO;
    for pid in pids {
        let fine = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .filter(|ns| *ns > 0 && threads(*pid) == 1);
        total += match fine {
            Some(ns) => Duration::from_nanos(ns),
            None => coarse(*pid)?,
        };
    }
    Ok(total)
}

fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |dir| dir.count())
}

fn coarse(pid: i32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let tick = |at: usize| fields.get(at).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_millis((tick(11) + tick(12)) * 10))
}

/// Resident memory of processes in KiB.
///
/// # Errors
///
/// When one of them is gone.
pub fn resident_kib(pids: &[i32]) -> Result<u64> {
    let mut total = 0;
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("process {pid} is gone"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        total += line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
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
    fn this_process_has_used_time_and_memory() {
        let own = [std::process::id() as i32];
        assert!(resident_kib(&own).unwrap() > 100);
        cpu_time(&own).unwrap();
    }
}
