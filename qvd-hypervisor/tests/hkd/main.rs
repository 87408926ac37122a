//! The daemon as a whole: in-memory database, fake driver, fake agents, its own loop and tasks.

#![cfg(feature = "hkd")]

mod crashes;
mod life;
mod node;
mod site;
