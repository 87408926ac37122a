//! The lab itself: a screen of its own comes up, shows windows, and leaves nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qvd_system_tests::process::{Process, in_path, wait_until};
use qvd_system_tests::screen::{Screen, UserScreen};

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

/// Says what it makes of its environment, when asked to; as a test of its own it does nothing.
#[test]
fn as_a_user_with_a_display() {
    if std::env::var_os("QVD_TEST_USER_SCREEN").is_some() {
        match UserScreen::from_environment() {
            Ok(screen) => println!("screen: {}", screen.name()),
            Err(why) => println!("none: {why:#}"),
        }
    }
}

/// What a user with this `DISPLAY` hears.
fn user_screen(display: Option<&str>, authority: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "as_a_user_with_a_display", "--nocapture"]);
    command.env("QVD_TEST_USER_SCREEN", "1").env("XAUTHORITY", authority).env_remove("DISPLAY");
    command.envs(display.map(|display| ("DISPLAY", display)));
    let output = command.output().expect("this program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find(|line| line.starts_with("screen: ") || line.starts_with("none: "));
    said.expect("an answer").to_owned()
}

#[test]
fn the_users_display_is_taken_in_every_form_and_else_the_reason_is_said() {
    if !["Xvfb", "jwm"].iter().all(|p| in_path(p)) {
        qvd_system_tests::skip("Xvfb or jwm is missing");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let screen = Screen::start(dir.path(), 800, 600).expect("a screen");
    let command = screen.command("true");
    let variable = |name: &str| {
        let value = command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
        value.and_then(|value| value.to_str()).expect("a variable of the screen").to_owned()
    };
    let (name, authority) = (variable("DISPLAY"), variable("XAUTHORITY"));
    for form in [name.clone(), format!("{name}.0"), format!("unix{name}")] {
        assert_eq!(user_screen(Some(&form), Path::new(&authority)), format!("screen: {form}"));
    }
    assert_eq!(user_screen(None, Path::new("/nonexistent")), "none: DISPLAY is not set");
    let gone = user_screen(Some("localhost:59000"), Path::new("/nonexistent"));
    let words = "none: DISPLAY localhost:59000 cannot be used with the cookies of /nonexistent: cannot open";
    assert!(gone.starts_with(words), "{gone}");
}
