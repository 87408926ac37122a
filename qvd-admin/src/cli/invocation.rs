//! A command with everything that was said about it, checked as far as that needs no database.

use std::collections::BTreeMap;
use std::time::Duration;

use super::catalogue::{Arguments, Command};
use super::check;
use super::options::{CommandLine, pairs};
use crate::error::Error;
use crate::filter::Filter;

/// A well-formed command.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) command: &'static Command,
    /// `name=value` arguments.
    pub(super) named: BTreeMap<String, String>,
    /// Bare words.
    pub(super) words: Vec<String>,
    pub(super) filter: Filter,
    /// A filter was given to a command that takes none.
    pub(super) idle_filter: bool,
    pub(super) force: bool,
    pub(super) quiet: bool,
    pub(super) json: bool,
    pub(super) strict: bool,
    pub(super) raw: bool,
    pub(super) source: bool,
    pub(super) show_secrets: bool,
    pub(super) password_stdin: bool,
    pub(super) purge: bool,
    pub(super) wait: Option<Duration>,
}

/// Why a command line is not a command.
#[derive(Debug)]
pub(super) enum Wrong {
    One {
        error: Error,
        quiet: bool,
        json: bool,
    },
    /// To be followed by the command's help.
    Several(Vec<String>),
}

impl Invocation {
    pub(super) fn read(command: &'static Command, line: CommandLine, terminal: bool) -> Result<Self, Wrong> {
        let one = |error| Wrong::One { error, quiet: line.quiet, json: line.json };
        let syntax = |message| one(Error::Invalid { field: None, message });
        let arguments = line.arguments();
        let (named, words) = match command.arguments {
            Arguments::Words => (BTreeMap::new(), arguments.to_vec()),
            Arguments::Pairs => (pairs(arguments).map_err(syntax)?, Vec::new()),
            Arguments::Named(parameters) => {
                let named = pairs(arguments).map_err(syntax)?;
                let problems = check::problems(&named, parameters, terminal || line.password_stdin);
                if !problems.is_empty() {
                    return Err(Wrong::Several(problems));
                }
                (named, Vec::new())
            }
        };
        let filter = match command.keys {
            None => Filter::all(),
            Some(keys) => line.filters.iter().try_fold(Filter::all(), |all, text| {
                Filter::parse(text, keys).map(|filter| all.and(filter)).map_err(|error| one(error.into()))
            })?,
        };
        Ok(Self {
            command,
            named,
            words,
            filter,
            idle_filter: command.keys.is_none() && line.filters.iter().any(|text| !text.is_empty()),
            force: line.force,
            quiet: line.quiet,
            json: line.json,
            strict: line.strict,
            raw: line.raw,
            source: line.source,
            show_secrets: line.show_secrets,
            password_stdin: line.password_stdin,
            purge: line.purge,
            wait: line.wait,
        })
    }
}
