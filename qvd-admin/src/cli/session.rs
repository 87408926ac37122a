//! A command that runs: its database, its streams, and how it speaks.

use std::fmt::Display;
use std::io;

use qvd_core::ErrorKind;
use qvd_core::error::chain;

use super::console::Console;
use super::invocation::Invocation;
use super::json;
use super::table::Table;
use crate::error::Error;
use crate::filter::{Fields, boolean};
use crate::ops::{Admin, Outcome};

/// A running command.
pub(super) struct Session<'s, 'c> {
    pub(super) console: &'s mut Console<'c>,
    pub(super) admin: Admin,
    pub(super) invocation: Invocation,
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Everything that was selected is done.
    Complete,
    /// Nothing was selected, or something was skipped.
    Partial,
}

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    Operation(Error),
    /// The reasons were told already.
    Told,
    /// Its own streams.
    Stream(io::Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Operation(error.into())
    }
}

impl Ending {
    /// Of a command that did something to some objects.
    pub(super) fn of<Id>(outcome: &Outcome<Id>) -> Self {
        if outcome.done.is_empty() || !outcome.skipped.is_empty() { Self::Partial } else { Self::Complete }
    }

    pub(super) fn of_selection<T>(selection: &[T]) -> Self {
        if selection.is_empty() { Self::Partial } else { Self::Complete }
    }
}

impl Session<'_, '_> {
    /// Output proper: rows, values.
    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.console.print(text).map_err(Failure::Stream)
    }

    /// A success message. Readers of JSON get it on the side.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        match (self.invocation.quiet, self.invocation.json) {
            (true, _) => Ok(()),
            (false, true) => {
                self.console.complain(text.trim_end());
                Ok(())
            }
            (false, false) => self.print(&format!("{text}\n")),
        }
    }

    pub(super) fn warn(&mut self, text: impl Display) {
        if !self.invocation.quiet {
            self.console.complain(&format!("Warning: {text}"));
        }
    }

    /// Tells what was left alone and why.
    pub(super) fn explain<Id: Display>(&mut self, kind: &str, outcome: &Outcome<Id>) {
        for skipped in &outcome.skipped {
            self.warn(format_args!("{kind} {} ({}) skipped: {}", skipped.id, skipped.name, skipped.reason));
        }
        for warning in &outcome.warnings {
            self.warn(warning);
        }
    }

    /// Whether to go on: a filter or `--force` says so, else the person who is asked
    /// `Are you sure you want to …? [y/N] `.
    pub(super) fn confirmed(&mut self, what: &str) -> Result<bool, Failure> {
        let selected = self.invocation.command.keys.is_some() && !self.invocation.filter.is_all();
        if self.invocation.force || selected {
            return Ok(true);
        }
        let answer = self.console.ask(&format!("Are you sure you want to {what}? [y/N] "));
        match answer.map_err(Failure::Stream)? {
            Some(answer) => Ok(answer.starts_with(['y', 'Y'])),
            None => {
                self.console.complain("Warning: not confirmed, nothing done (use --force)");
                Ok(false)
            }
        }
    }

    /// The argument of this name.
    pub(super) fn argument(&self, name: &str) -> Option<&str> {
        self.invocation.named.get(name).map(String::as_str)
    }

    /// The argument of this name; the check before has made sure of it.
    pub(super) fn mandatory(&self, name: &str) -> String {
        self.argument(name).unwrap_or_default().to_owned()
    }

    /// An argument that is a truth value.
    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, Failure> {
        match self.argument(name) {
            None => Ok(None),
            Some(text) => match boolean(text) {
                Some(flag) => Ok(Some(flag)),
                None => {
                    let message = format!("invalid value '{text}' for '{name}': boolean expected");
                    Err(Error::invalid(name, message).into())
                }
            },
        }
    }

    /// An argument that is an id.
    pub(super) fn id(&self, name: &'static str) -> Result<Option<i64>, Failure> {
        match self.argument(name) {
            None => Ok(None),
            Some(text) => match text.trim().parse() {
                Ok(id) => Ok(Some(id)),
                Err(_) => {
                    let message = format!("invalid value '{text}' for '{name}': integer expected");
                    Err(Error::invalid(name, message).into())
                }
            },
        }
    }

    /// Prints a list in the form that was asked for.
    pub(super) fn list<T: Fields>(
        &mut self,
        rows: &[T],
        table: impl FnOnce() -> Table,
    ) -> Result<Ending, Failure> {
        if self.invocation.json {
            self.print(&json::rows(rows))?;
        } else {
            self.print(&table().render(self.invocation.quiet))?;
        }
        Ok(Ending::of_selection(rows))
    }
}

/// Prints an error as the last word of a command.
pub(super) fn report(console: &mut Console<'_>, error: &Error, quiet: bool, json: bool) {
    if json {
        console.complain(&json::error(error));
    } else if !quiet {
        console.complain(&format!("Error: {}", sentence(error)));
    }
}

/// One sentence. What the database said of a bug of ours is for its log, not for the administrator.
pub(super) fn sentence(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Internal => error.to_string(),
        _ => chain(error).to_string(),
    }
}
