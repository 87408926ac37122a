//! See the crate description; modules follow.
