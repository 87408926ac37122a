//! Who descends from whom, as the kernel tells it at a moment.

use std::collections::HashMap;
use std::fs;

/// Living descendants of a process, without itself; zombies count as gone.
pub(crate) fn descendants(ancestor: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<(i32, bool)>> = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that ended meanwhile has no file any more.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
            && let Some((parent, lives)) = parent_of(&stat)
        {
            children.entry(parent).or_default().push((pid, lives));
        }
    }
    let (mut found, mut open) = (Vec::new(), vec![ancestor]);
    while let Some(parent) = open.pop() {
        for (pid, lives) in children.remove(&parent).unwrap_or_default() {
            open.push(pid);
            if lives {
                found.push(pid);
            }
        }
    }
    found
}

/// When a process started, in ticks of the kernel; with its number that names it for good.
pub(crate) fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    fields(&stat)?.nth(19)?.parse().ok()
}

/// Whether a process runs as a user alone: one with the rights of another, like a setuid program, does not.
pub(crate) fn belongs_to(pid: i32, user: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_only(&status, user))
}

/// Whether the real, effective, saved and file system ids in a `status` file are all that user's.
fn has_only(status: &str, user: u32) -> bool {
    let Some(ids) = status.lines().find_map(|line| line.strip_prefix("Uid:")) else { return false };
    let mut ids = ids.split_whitespace().map(str::parse::<u32>).peekable();
    ids.peek().is_some() && ids.all(|id| id == Ok(user))
}

/// Parent of the process that this is the `stat` line of, and whether it still runs.
fn parent_of(stat: &str) -> Option<(i32, bool)> {
    let mut fields = fields(stat)?;
    let state = fields.next()?;
    Some((fields.next()?.parse().ok()?, !matches!(state, "Z" | "X")))
}

/// The fields behind the program's name, which may hold anything, brackets and spaces included.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_hide_the_parent() {
        assert_eq!(parent_of("7 (a) R 1 (b)) S 42 7 7"), Some((42, true)));
        assert_eq!(parent_of("7 (sh) Z 42 7 7"), Some((42, false)));
        assert_eq!(parent_of("7 sh"), None);
    }

    #[test]
    fn a_process_with_anybody_elses_rights_is_not_the_users() {
        assert!(has_only("Name:\tsh\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\n", 7));
        assert!(!has_only("Name:\tsudo\nUid:\t7\t0\t0\t0\n", 7));
        assert!(!has_only("Name:\tUid: 7\n", 7) && !has_only("Uid:\n", 7) && !has_only("", 7));
        assert!(belongs_to(std::process::id().cast_signed(), nix::unistd::Uid::effective().as_raw()));
        assert!(!belongs_to(i32::MAX, 0));
    }

    #[test]
    fn children_and_their_children_are_found() {
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", "sleep 100 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The line comes when the sleeper has been forked.
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = shell.id().cast_signed();
        let all = descendants(std::process::id().cast_signed());
        let below = descendants(pid);
        assert!(all.contains(&pid) && below.len() == 1 && all.contains(&below[0]), "{all:?} {below:?}");
        assert!(started(pid).unwrap() <= started(below[0]).unwrap());
        shell.kill().unwrap();
        shell.wait().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(below[0]), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        assert_eq!(started(i32::MAX), None);
    }
}
