//! The library that keeps nxagent alive when its client's link breaks during a resume.
//!
//! nxagent goes on after its display broke, and Xlib is not made for that: it takes what lies on its stack for
//! replies that never came, and the agent dies of it or spins, with all programs of the desktop. The library is
//! preloaded into nxagent and into nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use tokio::process::Command;

use super::session_files;

/// When the library is preloaded: the key `vma.nxagent.guard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardMode {
    /// For versions that are known to need it.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always.
    On,
}

impl FromStr for GuardMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "0" => Ok(Self::Off),
            "1" => Ok(Self::On),
            _ => Err(format!("'{text}' is none of auto, 0, 1")),
        }
    }
}

/// Whether an agent that prints this as its version needs the library. All of the line that began with 3.5.99
/// do; only the much older agents do not.
pub fn is_needed(version_text: &str) -> bool {
    let version = version_text
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
    let Some(version) = version else { return true };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    [next(), next(), next()] >= [3, 5, 99]
}

/// Decides for this agent; asks it for its version when that matters.
pub async fn is_wanted(mode: GuardMode, nxagent: &[String]) -> bool {
    match mode {
        GuardMode::On => true,
        GuardMode::Off => false,
        GuardMode::Auto => match version_text(nxagent).await {
            Ok(text) => is_needed(&text),
            Err(error) => {
                tracing::warn!(%error, "the agent did not tell its version; it gets the guard");
                true
            }
        },
    }
}

/// Puts the library where the agent can load it.
///
/// # Errors
///
/// Those of writing the file.
pub fn install(dir: &Path) -> io::Result<PathBuf> {
    let path = dir.join("nxagent-guard.so");
    session_files::write(&path, LIBRARY, 0o644, None)?;
    Ok(path)
}

async fn version_text(nxagent: &[String]) -> io::Result<String> {
    let program = nxagent.first().ok_or(io::ErrorKind::NotFound)?;
    let output = Command::new(program)
        .args(&nxagent[1..])
        .arg("-version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

const PATIENCE: Duration = Duration::from_secs(5);

static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nxagent-guard.so"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_that_need_it() {
        for text in ["\nNXAGENT - Version 3.5.99.26\n\n", "NXAGENT - Version 3.6.1", "4.0.0", "no idea", ""] {
            assert!(is_needed(text), "{text}");
        }
        for text in ["NXAGENT - Version 3.5.0", "NXAGENT - Version 3.4.0.16", "3.5.98.1"] {
            assert!(!is_needed(text), "{text}");
        }
    }

    #[test]
    fn the_library_is_one() {
        assert!(LIBRARY.starts_with(b"\x7fELF"));
    }

    /// Compiles our declaration against the real one where X headers are installed.
    #[test]
    fn the_declared_layout_is_that_of_xlib() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("check.c");
        let header = concat!(env!("CARGO_MANIFEST_DIR"), "/guard/xlib_display.h");
        let text = format!(
            "#include <stddef.h>\n#include <X11/Xlibint.h>\n#include \"{header}\"\n\
             _Static_assert(offsetof(struct display, flags) == offsetof(struct _XDisplay, flags), \"flags\");\n\
             _Static_assert(XlibDisplayIOError == 1 && NoExpose == 14, \"values\");\n"
        );
        std::fs::write(&source, text).unwrap();
        let compile = |extra: &[&str]| {
            std::process::Command::new("cc")
                .args(extra)
                .arg(&source)
                .output()
                .expect("the build needs cc too")
        };
        let headers = std::process::Command::new("cc")
            .args(["-E", "-x", "c", "-include", "X11/Xlibint.h", "/dev/null"])
            .output()
            .expect("the build needs cc too");
        if !headers.status.success() {
            let required = std::env::var("QVD_TEST_REQUIRE").is_ok_and(|v| v == "1");
            assert!(!required, "X headers are missing (package libx11-dev)");
            eprintln!("skipped: X headers are missing (package libx11-dev)");
            return;
        }
        let checked = compile(&["-fsyntax-only"]);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}
