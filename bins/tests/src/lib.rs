//! A lab of the real parts: X screens, window managers, QVD's own programs, NX.
//!
//! Whole-system tests, the demonstration (`qvd-demo`) and the hand-over sweep use it. Everything that it starts
//! ends when its value is dropped.

#![forbid(unsafe_code)]

pub mod ask;
pub mod believer;
pub mod conformance;
pub mod desktop;
pub mod handover;
pub mod interrupts;
pub mod issuer;
pub mod machine;
pub mod node;
pub mod picture;
pub mod process;
pub mod relay;
pub mod report;
pub mod scratch;
pub mod screen;
pub mod site;
pub mod trace;
pub mod upgrade;
pub mod visitor;
pub mod window;

/// Says why a test does nothing; where everything was installed (`QVD_TEST_REQUIRE=1`) that is a failure.
///
/// # Panics
///
/// With `QVD_TEST_REQUIRE=1`.
pub fn skip(why: &str) {
    assert!(std::env::var_os("QVD_TEST_REQUIRE").is_none(), "must not be skipped here: {why}");
    eprintln!("skipped: {why}");
}

/// Whether this machine has what a test with a real desktop needs; says what is missing when it has not.
///
/// # Panics
///
/// As [`skip`].
pub fn can_show_a_desktop() -> bool {
    let needed = ["Xvfb", "jwm", "nxagent", "nxproxy", "xterm", "icewm", "xdotool"];
    let missing: Vec<_> = needed.into_iter().filter(|name| !process::in_path(name)).collect();
    if !missing.is_empty() {
        skip(&format!("not installed: {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// The skeleton of a home with one of this crate's desktops.
pub fn skeleton(name: &str) -> String {
    format!("{}/desktops/{name}", env!("CARGO_MANIFEST_DIR"))
}
