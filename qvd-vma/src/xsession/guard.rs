//! The library that keeps nxagent alive when its client's link breaks during a resume.
//!
//! nxagent goes on after its display broke, and Xlib is not made for that: it takes what lies on its stack for
//! replies that never came, and the agent dies of it or spins, with all programs of the desktop. The library is
//! preloaded into nxagent and into nothing else.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Pid;
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
    /// Always; without it no session starts.
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

/// No directory was found from which the loader would take the library.
#[derive(Debug, thiserror::Error)]
#[error("the guard of nxagent cannot be put anywhere: {}; set vma.nxagent.guard.path", .0.join("; "))]
pub struct NoPlace(Vec<String>);

/// Puts the library into the first of these directories that the loader can take it from.
///
/// # Errors
///
/// [`NoPlace`] tells about each of them why it is none.
pub fn install(dirs: &[&Path]) -> Result<PathBuf, NoPlace> {
    let mut reasons = Vec::new();
    for dir in dirs {
        match install_in(dir) {
            Ok(path) => return Ok(path),
            Err(reason) => reasons.push(format!("'{}': {reason}", dir.display())),
        }
    }
    Err(NoPlace(reasons))
}

/// Whether the process has loaded the library; `None` when that cannot be seen. The loader leaves out what it
/// cannot take, and only says so.
pub fn is_loaded(pid: Pid, library: &Path) -> Option<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let name = library.file_name()?.to_str()?;
    Some(has_code(&maps, name))
}

/// Whether code of this file is mapped. A library that was given up in the middle leaves its data behind.
fn has_code(maps: &str, name: &str) -> bool {
    maps.lines().any(|line| {
        let executable = line.split(' ').nth(1).is_some_and(|rights| rights.contains('x'));
        executable && line.rsplit('/').next() == Some(name)
    })
}

fn install_in(dir: &Path) -> Result<PathBuf, String> {
    // What separates the names of several libraries.
    if dir.to_str().is_none_or(|text| text.contains([' ', ':', '\t', '\n'])) {
        return Err("the loader takes no path with a space or colon".to_owned());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(|error| error.to_string())?;
    let filesystem = statvfs(dir).map_err(|error| error.to_string())?;
    if filesystem.flags().contains(FsFlags::ST_NOEXEC) {
        return Err("its file system is mounted noexec".to_owned());
    }
    let path = dir.join("nxagent-guard.so");
    session_files::write(&path, LIBRARY, 0o644, None).map_err(|error| error.to_string())?;
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

    #[test]
    fn a_place_that_the_loader_would_pass_over_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (spaced, file, good) =
            (dir.path().join("a b"), dir.path().join("file"), dir.path().join("deep/good"));
        fs::write(&file, "").unwrap();
        let error = install(&[&spaced, &file]).unwrap_err().to_string();
        assert!(error.contains("a b': the loader takes no path") && error.contains("file': "), "{error}");
        let path = install(&[&spaced, &file, &good]).unwrap();
        assert_eq!(path, good.join("nxagent-guard.so"));
        assert_eq!(fs::read(path).unwrap(), LIBRARY);
    }

    #[test]
    fn a_file_system_without_programs_is_no_place() {
        use nix::mount::{MsFlags, mount};
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: only root can mount");
            return;
        }
        // This thread's own view, which ends with it.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (run, other) = (dir.path().join("run"), dir.path().join("other"));
        fs::create_dir(&run).unwrap();
        mount(Some("none"), &run, Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).unwrap();
        let preloaded = |library: &Path| {
            let mut cat = std::process::Command::new("/bin/cat");
            cat.arg("/proc/self/maps").env("LD_PRELOAD", library);
            has_code(&String::from_utf8(cat.output().unwrap().stdout).unwrap(), "nxagent-guard.so")
        };
        fs::write(run.join("nxagent-guard.so"), LIBRARY).unwrap();
        assert!(!preloaded(&run.join("nxagent-guard.so")), "the loader has changed its mind");
        assert!(install(&[&run]).unwrap_err().to_string().contains("noexec"));
        let path = install(&[&run, &other]).unwrap();
        assert!(path.starts_with(&other) && preloaded(&path));
        nix::mount::umount(&run).unwrap();
    }

    #[test]
    fn what_a_process_has_loaded_is_seen() {
        let own = Pid::this();
        assert_eq!(is_loaded(own, Path::new("/nowhere/nxagent-guard.so")), Some(false));
        let program = std::env::current_exe().unwrap();
        assert_eq!(is_loaded(own, &program), Some(true));
        assert_eq!(is_loaded(Pid::from_raw(i32::MAX), &program), None);
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
