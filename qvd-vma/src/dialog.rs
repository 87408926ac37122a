//! What nxagent runs when it wants to ask the user something: suspending is the answer.
//!
//! Nobody should lose a desktop to a wrong click in a dialogue that looks like nothing else on the screen.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::getppid;

use crate::session_exec;

/// Name under which the agent's program does this.
pub const PROGRAM: &str = "nxdiag";

/// Answers one dialogue of the parent process.
pub fn run(arguments: impl Iterator<Item = OsString>) {
    let parent = getppid();
    if suspends(arguments)
        && parent.as_raw() > 1
        && let Err(error) = kill(parent, Signal::SIGHUP)
    {
        tracing::warn!(%error, "cannot suspend the X agent");
    }
}

/// The program for dialogues: the configured one if it is there, else the agent's own under another name.
pub(crate) fn program(configured: Option<&str>, own_program: &Path, dir: &Path) -> Option<String> {
    if let Some(path) = configured.filter(|path| Path::new(path).exists()) {
        return Some(path.to_owned());
    }
    // Only this program knows what to do under that name.
    if !session_exec::is_known_to(own_program) {
        return None;
    }
    let link: PathBuf = dir.join(PROGRAM);
    match std::fs::read_link(&link) {
        Ok(target) if target == own_program => {}
        _ => {
            drop(std::fs::remove_file(&link));
            std::os::unix::fs::symlink(own_program, &link).ok()?;
        }
    }
    Some(link.display().to_string())
}

/// Whether the dialogue of `--dialog TYPE` is answered by a suspend: all but the menu at the window's corner are.
fn suspends(arguments: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<_> = arguments.collect();
    words.windows(2).any(|pair| pair[0] == "--dialog" && pair[1] != "pulldown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialogue_but_the_menu_suspends() {
        let asked = |text: &str| suspends(text.split(' ').map(OsString::from));
        assert!(asked("--parent 77 --dialog yesnosuspend --message x"));
        assert!(!asked("--dialog pulldown --window 5"));
        assert!(!asked("--caption x"));
        assert!(!asked("--dialog"));
    }

    #[test]
    fn the_own_program_stands_in_for_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let own = Path::new("/usr/bin/qvd-vma");
        assert_eq!(program(Some("/bin/false"), own, dir.path()).as_deref(), Some("/bin/false"));
        let link = program(Some("/nonexistent/nxdiag"), own, dir.path()).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), own);
        assert_eq!(program(None, own, dir.path()), Some(link));
        assert_eq!(program(None, Path::new("/some/test"), dir.path()), None);
    }
}
