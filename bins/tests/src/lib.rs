//! A lab of the real parts: X screens, window managers, QVD's own programs, NX.
//!
//! Whole-system tests, the demonstration (`qvd-demo`) and the hand-over sweep use it. Everything that it starts
//! ends when its value is dropped.

pub mod picture;
pub mod process;
pub mod window;
