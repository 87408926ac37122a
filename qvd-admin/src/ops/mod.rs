//! Every administrative operation, once: typed request in, typed result out.
//!
//! An operation validates, writes through [`qvd_db`] and says what it did. It prints nothing, asks nobody and reads no
//! argument; the command line and the HTTP interface are two ways to call it.
//!
//! Selections ([`Admin::hosts`], [`Admin::vms`], …) are read first and acted upon afterwards; every write is guarded in
//! the database, so that what moved in between is skipped with a reason instead of overwritten.

mod configuration;
mod host;
mod image;
mod image_file;
mod image_store;
mod osf;
mod placement;
mod property;
mod rows;
mod size;
mod token;
mod user;
mod vm;
mod vm_access;
mod vm_add;
mod vm_edit;
mod vm_run;

use std::sync::Arc;

use jiff::Zoned;
use qvd_core::TenantId;
use qvd_core::balance::LoadBalancer;
use qvd_core::config::Config;
use qvd_db::Db;

pub use configuration::{ConfigSet, Entry};
pub use host::{HostCounters, NewHost};
pub use image::{Expirations, ImageAdded, ImageSource, NewImage, Tagging};
pub use osf::NewOsf;
pub use placement::{HostExplanation, Judged, Replay, Verdict};
pub use property::Owned;
pub use rows::{Found, HostRow, ImageRow, OsfRow, UserRow, VmRow};
pub use token::TokenRow;
pub use user::NewUser;
pub use vm::VmCounters;
pub use vm_access::Access;
pub use vm_add::{NewVms, OsfRef, UserRef};
pub use vm_edit::VmEdit;
pub use vm_run::Waited;

/// What an operation did to each of several objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<Id> {
    /// Those that were changed.
    pub done: Vec<Id>,
    /// Those that were not.
    pub skipped: Vec<Skipped<Id>>,
    /// What the administrator should know besides.
    pub warnings: Vec<String>,
}

/// An object that an operation left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped<Id> {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl<Id> Default for Outcome<Id> {
    fn default() -> Self {
        Self { done: Vec::new(), skipped: Vec::new(), warnings: Vec::new() }
    }
}

impl<Id> Outcome<Id> {
    fn skip(&mut self, id: Id, name: &str, reason: impl Into<String>) {
        self.skipped.push(Skipped { id, name: name.to_owned(), reason: reason.into() });
    }
}

/// The operations, over one database. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    db: Db,
    config: Config,
    balancer: Arc<dyn LoadBalancer>,
    clock: Arc<dyn Fn() -> Zoned + Send + Sync>,
    random: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("db", &self.db)
            .field("balancer", &self.balancer)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// Operations on this database. `config` is the effective configuration (files and database); `balancer` places
    /// virtual machines that an administrator starts.
    pub fn new(db: Db, config: Config, balancer: Arc<dyn LoadBalancer>) -> Self {
        Self { db, config, balancer, clock: Arc::new(Zoned::now), random: Arc::new(random) }
    }

    /// Takes the time of day, and the zone it is told in, from elsewhere.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> Zoned + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Takes random numbers in `[0, 1)` from elsewhere.
    #[must_use]
    pub fn with_random(mut self, random: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.random = Arc::new(random);
        self
    }

    /// The time, in the administrator's zone.
    pub fn now(&self) -> Zoned {
        (self.clock)()
    }

    /// The effective configuration that operations see.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn tenant(&self) -> TenantId {
        TenantId::DEFAULT
    }
}

/// A number in `[0, 1)`; the middle when the system has no randomness to give, which only makes placement predictable.
fn random() -> f64 {
    getrandom::u64().map_or(0.5, |bits| (bits >> 11) as f64 / (1_u64 << 53) as f64)
}
