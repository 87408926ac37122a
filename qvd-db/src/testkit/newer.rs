//! The tables of a version that is not written yet.

use crate::Db;
use crate::error::Result;
use crate::migrate::{self, Effect, MIGRATIONS, Step};

/// What a version that is not written yet does to programs of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewerSchema {
    /// They go on: columns are added to the tables that a router, a daemon and the administration use, and a table and
    /// an index.
    Additive,
    /// They cannot work with the outcome.
    Breaking,
}

impl Db {
    /// Brings the tables one version ahead of this program, as `qvd db deploy` of that version would: while nodes run,
    /// if programs of this version can work with the outcome. For tests of an upgrade; a database that is ahead
    /// already is not brought further.
    ///
    /// # Errors
    ///
    /// As [`Db::deploy`].
    pub async fn deploy_newer(&self, newer: NewerSchema) -> Result<()> {
        let version = MIGRATIONS.last().map_or(1, |step| step.version + 1);
        let step = match newer {
            NewerSchema::Additive => Step {
                version,
                description: "adds",
                effect: Effect::Additive,
                postgres: ADDS,
                sqlite: ADDS_SQLITE,
            },
            NewerSchema::Breaking => Step {
                version,
                description: "breaks",
                effect: Effect::Breaking,
                postgres: BREAKS,
                sqlite: BREAKS,
            },
        };
        let steps: Vec<Step> = MIGRATIONS.iter().copied().chain([step]).collect();
        migrate::deploy_to(self.pools(), &steps, false).await
    }
}

macro_rules! adds {
    ($integer:literal, $strict:literal, [$($table:literal),* $(,)?]) => {
        concat!(
            $("alter table ", $table, " add column newer_note text; ",
              "alter table ", $table, " add column newer_count ", $integer, " not null default 7; ",)*
            "create table newer_things (vm_id ", $integer, " primary key references vms (id) on delete cascade, ",
            "note text)", $strict, "; ",
            "create index vms_newer_note on vms (newer_note); "
        )
    };
    ($integer:literal, $strict:literal) => {
        adds!($integer, $strict, [
            "tenants", "users", "osfs", "dis", "di_tags", "hosts", "vms", "user_properties", "vm_properties",
            "osf_properties", "di_properties", "host_properties", "host_runtimes", "vm_runtimes", "vm_counters",
            "host_counters", "configs", "ssl_configs", "user_tokens", "events", "placement_decisions",
        ])
    };
}

const ADDS: &str = adds!("bigint", "");
const ADDS_SQLITE: &str = adds!("integer", " strict");

/// The floor is far above whatever version this is.
const BREAKS: &str = "alter table vm_runtimes rename column session_id to newer_session_id; update schema_floor set version = 1000000";
