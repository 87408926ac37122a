//! What this machine has and how busy it is. Reading here, arithmetic beside it.

use std::fs;

use qvd_core::units::Mebibytes;
use qvd_db::HostLoad;

/// What the machine can give to virtual machines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Capacity {
    pub(crate) ram: Mebibytes,
    /// In bogomips.
    pub(crate) cpu: f64,
}

/// Reads the machine's capacity; zero where the kernel does not tell.
pub(crate) fn capacity() -> Capacity {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Capacity { ram: memory(&meminfo, "MemTotal").unwrap_or_default(), cpu: usable_cpu(&cpuinfo) }
}

/// Reads how busy it is.
pub(crate) fn load(vms_starting: u32, heavy_free: u32) -> HostLoad {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    HostLoad {
        mem_available: memory(&meminfo, "MemAvailable"),
        load1: load1(&loadavg),
        vms_starting,
        heavy_free,
        ..HostLoad::default()
    }
}

/// Who this machine is, in this boot.
pub(crate) fn machine() -> (String, String) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    (read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"))
}

fn memory(meminfo: &str, field: &str) -> Option<Mebibytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(Mebibytes(kibibytes / 1024))
}

/// Four fifths of all bogomips, as in version 3.5.
fn usable_cpu(cpuinfo: &str) -> f64 {
    let bogomips = cpuinfo.lines().filter_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.trim().eq_ignore_ascii_case("bogomips").then(|| value.trim().parse::<f64>().ok())?
    });
    0.8 * bogomips.sum::<f64>()
}

fn load1(loadavg: &str) -> Option<f64> {
    loadavg.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let meminfo = "MemTotal:        2048000 kB\nMemFree: 1 kB\nMemAvailable:    1024000 kB\n";
        assert_eq!(memory(meminfo, "MemTotal"), Some(Mebibytes(2000)));
        assert_eq!(memory(meminfo, "MemAvailable"), Some(Mebibytes(1000)));
        assert_eq!(memory(meminfo, "Mem"), None);
        let cpuinfo = "bogomips\t: 5000.00\nflags: x\nBogoMIPS\t: 100.5\n";
        assert!((usable_cpu(cpuinfo) - 0.8 * 5100.5).abs() < 1e-9);
        assert_eq!(load1("0.25 0.1 0.0 1/2 3\n"), Some(0.25));
        assert_eq!(load1(""), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(capacity().ram > Mebibytes(0));
    }
}
