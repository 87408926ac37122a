//! See the crate description; modules follow.
pub mod password;
