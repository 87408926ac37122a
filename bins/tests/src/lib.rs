//! A lab of the real parts: X screens, window managers, QVD's own programs, NX.
//!
//! Whole-system tests, the demonstration (`qvd-demo`) and the hand-over sweep use it. Everything that it starts
//! ends when its value is dropped.

pub mod desktop;
pub mod picture;
pub mod process;
pub mod screen;
pub mod site;
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
