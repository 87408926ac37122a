//! The processes of a demonstration, written down while it runs, so that a later one can end what it left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qvd_system_tests::process::wait_until;

/// How long everything may take to end; virtual machines are stopped first.
const LIMIT: Duration = Duration::from_secs(90);

/// The file of the list. A line per process: number, time of birth, name.
#[derive(Debug)]
pub(crate) struct Running {
    file: PathBuf,
}

/// The name in the list's last line when its processes were left running on purpose.
const KEPT: &str = "kept";

impl Running {
    /// The list below the demonstration's directory; it need not exist.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { file: dir.join("running") }
    }

    /// Adds processes that were started.
    pub(crate) fn add(&self, processes: &[(i32, &str)]) -> Result<()> {
        let mut text = fs::read_to_string(&self.file).unwrap_or_default();
        for (pid, name) in processes {
            if let Some(born) = born(*pid) {
                text.push_str(&format!("{pid} {born} {name}\n"));
            }
        }
        self.write(&text)
    }

    /// Marks them as left running on purpose.
    pub(crate) fn keep(&self) -> Result<()> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        self.write(&format!("{text}0 0 {KEPT}\n"))
    }

    /// Whether they were left running on purpose and still do.
    pub(crate) fn is_kept(&self) -> bool {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().any(|line| line.ends_with(KEPT)) && !self.living().is_empty()
    }

    /// Asks those that live to end, waits for it, and forgets them.
    pub(crate) fn end(&self) -> Result<()> {
        for (pid, _) in self.living() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        wait_until("the end of an earlier demonstration", LIMIT, || self.living().is_empty().then_some(()))
            .with_context(|| format!("still running: {:?}", self.living()))?;
        self.forget();
        Ok(())
    }

    /// Forgets all of them.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_file(&self.file);
    }

    /// Those that live. A number may belong to another process by now: it was born at another time.
    fn living(&self) -> Vec<(i32, String)> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let listed = text.lines().filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.to_owned()))
        });
        listed
            .filter(|(pid, then, _): &(i32, u64, _)| born(*pid) == Some(*then))
            .map(|(pid, _, name)| (pid, name))
            .collect()
    }

    fn write(&self, text: &str) -> Result<()> {
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// When a living process was born, in the kernel's ticks since the machine's own start.
fn born(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows it are the fields from the third on.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let alive = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| alive)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_was_written_down_is_ended_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::of(dir.path());
        assert!(!running.is_kept());
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        running.add(&[(pid, "sleep")]).unwrap();
        // The same number, another birth: not ours to end.
        let file = dir.path().join("running");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text}{own} 1 other\n")).unwrap();
        assert_eq!(running.living(), [(pid, "sleep".to_owned())]);
        running.keep().unwrap();
        assert!(running.is_kept());
        running.end().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!running.is_kept() && !file.exists());
    }
}
