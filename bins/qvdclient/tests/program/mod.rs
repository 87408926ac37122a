//! The program as tests start it.

#![allow(dead_code, reason = "each test file uses another part")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// The program with a home of its own and nothing of ours in its environment.
pub(crate) fn qvdclient(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvdclient"));
    command.args(args);
    at_home(command, home)
}

/// As above, on the terminal that is its standard input.
pub(crate) fn qvdclient_on_a_terminal(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.args(["--ctty", env!("CARGO_BIN_EXE_qvdclient")]).args(args);
    at_home(command, home)
}

fn at_home(mut command: Command, home: &Path) -> Command {
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("DISPLAY", stand_in_screen())
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A stand-in for `nxproxy` that says what it sees and goes.
pub(crate) fn stub(dir: &Path, text: &str) -> String {
    let path = dir.join("nxproxy-stub");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("command.nxproxy={}", path.display())
}

/// An X server as far as the client looks at it: the byte that it answers an opening with. These tests show no window.
pub(crate) fn stand_in_screen_that_says(first: u8) -> String {
    use std::io::{Read as _, Write as _};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let (number, listener) = (20_000..60_000)
        .find_map(|number| {
            let address = SocketAddr::from_abstract_name(format!("/tmp/.X11-unix/X{number}")).ok()?;
            Some((number, UnixListener::bind_addr(&address).ok()?))
        })
        .expect("a free display number");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut hello = [0; 12];
            let _ = client.read_exact(&mut hello).and_then(|()| client.write_all(&[first]));
        }
    });
    format!(":{number}")
}

/// One that admits whoever opens.
pub(crate) fn stand_in_screen() -> &'static str {
    static SCREEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    SCREEN.get_or_init(|| stand_in_screen_that_says(1))
}
