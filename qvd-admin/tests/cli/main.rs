//! The command line over an in-memory database: sessions in, texts and rows out.

#![allow(clippy::unwrap_used)]

mod config;
mod images;
mod line;
mod objects;
mod prompts;
mod tokens;
mod transcript;
mod vms;
