//! The lab itself: a screen of its own comes up, shows windows, and leaves nothing behind.

use std::time::Duration;

use qvd_system_tests::process::{Process, in_path, wait_until};
use qvd_system_tests::screen::Screen;

#[test]
fn a_window_on_the_screen_is_found_and_pictured() {
    if !["Xvfb", "jwm", "xterm"].iter().all(|p| in_path(p)) {
        qvd_system_tests::skip("Xvfb, jwm or xterm is missing");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let screen = Screen::start(dir.path(), 800, 600).expect("a screen");
    let mut command = screen.command("xterm");
    command.args(["-bg", "white", "-fg", "black", "-geometry", "40x10+20+20", "-title", "lab"]);
    let _terminal = Process::start("xterm", command, &dir.path().join("xterm.log")).expect("xterm starts");
    let display = screen.open().expect("the screen can be opened");
    let window = wait_until("the terminal's window", Duration::from_secs(20), || {
        display.windows().ok()?.into_iter().find(|w| w.class == "xterm.XTerm" && w.title == "lab")
    })
    .expect("the terminal shows");
    wait_until("the terminal's white ground", Duration::from_secs(20), || {
        let picture = display.picture(window.id).ok()?;
        (picture.pixel(100, 60) == Some([255, 255, 255])).then_some(())
    })
    .expect("the terminal is white");
}
