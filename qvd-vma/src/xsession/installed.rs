//! Whether the X server of the session is there at all: told at once, in words, to the user who waits for it.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What to say when the program of a command cannot be run here; nothing when it can.
pub(super) fn complaint(command: &[String]) -> Option<String> {
    let program = command.first().map_or("", String::as_str);
    let path = env::var_os("PATH").unwrap_or_default();
    (!can_run(program, &path)).then(|| {
        format!("'{program}' is not installed in the virtual machine; its administrator can install nxagent")
    })
}

fn can_run(program: &str, path: &OsStr) -> bool {
    if program.contains('/') {
        return is_executable(Path::new(program));
    }
    !program.is_empty() && env::split_paths(path).any(|dir| is_executable(&dir.join(program)))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_as_it_will_be_started() {
        assert!(can_run("sh", OsStr::new("/nonexistent:/bin")));
        assert!(can_run("/bin/sh", OsStr::new("")));
        assert!(!can_run("sh", OsStr::new("/nonexistent")));
        assert!(!can_run("/etc/passwd", OsStr::new("/bin")), "not executable");
        assert!(!can_run("/etc", OsStr::new("/bin")), "a directory");
        assert!(!can_run("", OsStr::new("/bin")));
    }

    #[test]
    fn the_complaint_names_the_program() {
        let words = complaint(&["/nonexistent/nxagent".to_owned(), "-x".to_owned()]).unwrap();
        assert!(words.contains("'/nonexistent/nxagent' is not installed"), "{words}");
        assert_eq!(complaint(&["/bin/sh".to_owned()]), None);
    }
}
