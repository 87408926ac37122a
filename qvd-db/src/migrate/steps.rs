//! The steps that brought the schema to where it is.
//!
//! # What a step may do while programs of the last version run
//!
//! A site is brought to a new version with its desktops alive: first the tables, then one program after the other.
//! Until the last of them is new, older programs work with newer tables. A step that they do not notice is
//! [`Effect::Additive`], and is applied while nodes run. It may
//!
//! * add a column that is nullable or has a default: older programs name the columns they read and write (a test sees
//!   to that), so they neither see it nor fill it;
//! * add a table. What refers from it to a table that older programs delete from says `on delete cascade` or
//!   `on delete set null`;
//! * add an index that is not unique, or a unique one over new columns alone. It keeps writers out while it is built,
//!   so it is not for a table that is large everywhere;
//! * widen a check, for values that older programs never read: what they do read they must know.
//!
//! It must not rename, drop, retype or tighten anything, nor change what an old statement means (a trigger, a new
//! meaning of an old value). What must do that is [`Effect::Breaking`]: it is applied while all nodes are stopped, and
//! its text raises the floor, the oldest version whose programs can work with the tables:
//! `update schema_floor set version = <its own number>;`. A breaking change can often be had without one: add in this
//! version, stop using the old in the next, drop in the one after, when the floor may rise without hurting anybody.

/// One migration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Its number, one more than that of the step before.
    pub(crate) version: i64,
    /// What it does, in a word or two.
    pub(crate) description: &'static str,
    /// What it does to programs that do not know it.
    pub(crate) effect: Effect,
    /// Its text for PostgreSQL.
    pub(crate) postgres: &'static str,
    /// Its text for SQLite.
    pub(crate) sqlite: &'static str,
}

/// What a step does to programs that do not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// They go on.
    Additive,
    /// They cannot work with the result.
    Breaking,
}

/// Every migration. Once released, a text never changes: what is applied is compared with it.
pub(crate) const MIGRATIONS: &[Step] = &[Step {
    version: 1,
    description: "initial",
    effect: Effect::Breaking,
    postgres: include_str!("../../migrations/postgres/0001_initial.sql"),
    sqlite: include_str!("../../migrations/sqlite/0001_initial.sql"),
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_from_one_and_those_that_break_raise_the_floor() {
        for (step, number) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(step.version, number, "{}", step.description);
            for text in [step.postgres, step.sqlite] {
                let raises = match number {
                    1 => text.contains("insert into schema_floor (id, version) values (1, 1);"),
                    _ => text.contains(&format!("update schema_floor set version = {number};")),
                };
                assert_eq!(raises, step.effect == Effect::Breaking, "{}", step.description);
                assert_eq!(text.contains("schema_floor"), raises, "{}: the floor is its own number", number);
            }
        }
    }
}
