//! Memory of processes as the kernel accounts for it.

use std::fs;

use anyhow::{Context as _, Result};

/// What a process takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Name of its program.
    pub name: String,
    /// Proportional share in KiB: pages shared by n processes count as 1/n.
    pub pss_kib: u64,
    /// Resident in KiB, shared pages included.
    pub rss_kib: u64,
}

impl Footprint {
    /// Of a living process.
    ///
    /// # Errors
    ///
    /// When it is gone or not the caller's to look at.
    pub fn of(pid: i32) -> Result<Self> {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let comm = format!("/proc/{pid}/comm");
        let name = fs::read_to_string(&comm).with_context(|| format!("cannot read {comm}"))?;
        Ok(Self { name: name.trim().to_owned(), pss_kib: field("Pss:"), rss_kib: field("Rss:") })
    }
}

/// This process and all below it, parents first.
pub fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", all[at])).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
        at += 1;
    }
    all
}

/// Processes whose command line holds this word and this text.
pub fn called_with(word: &str, text: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            words.iter().any(|w| w == word) && words.iter().any(|w| w.contains(text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_is_found_below_its_parent_and_by_its_words() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut cat = std::process::Command::new("cat");
        cat.args(["-", "/dev/null/0.0471"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = cat.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // The kernel shows a new program's words a little after it has started; one that answers has them.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let (below, called) = (family(own), called_with("-", "/0.0471"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(below[0], own);
        assert!(below.contains(&pid) && called.contains(&pid), "{below:?} {called:?}");
        let footprint = Footprint::of(own).unwrap();
        assert!(footprint.pss_kib > 100 && footprint.rss_kib >= footprint.pss_kib, "{footprint:?}");
    }
}
