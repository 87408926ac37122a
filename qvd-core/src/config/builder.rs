//! Putting a [`Config`] together from texts, and saying everything that is wrong with them.

use std::sync::Arc;

use super::intake::Intake;
use super::layers::{Layer, Layers, Setting, Source};
use super::problem::{ConfigError, Problem};
use super::registry::registry;
use super::{Config, Kind, checks, resolve, value};

/// Collects what a program was told. The order of the calls does not matter, except that a later file wins
/// over an earlier one.
///
/// Files and the environment are read by the program: this is only about their text.
#[derive(Clone, Default)]
#[must_use]
pub struct ConfigBuilder {
    files: Vec<(String, String)>,
    missing_files: Vec<String>,
    environment: String,
    database: Option<Vec<(String, String)>>,
    command_line: Vec<(String, String)>,
    required: Vec<String>,
}

impl std::fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.files.iter().map(|(name, _)| name).collect();
        f.debug_struct("ConfigBuilder").field("files", &files).finish_non_exhaustive()
    }
}

impl ConfigBuilder {
    /// Adds a file. `name` is how messages call it.
    pub fn file(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.push((name.into(), text.into()));
        self
    }

    /// Notes a file that was looked for and is not there, for the message about a key that nobody set.
    pub fn missing_file(mut self, name: impl Into<String>) -> Self {
        self.missing_files.push(name.into());
        self
    }

    /// Adds the text of the environment variable `QVD_SET`: `key=value;key=value`, where `\;` is a semicolon.
    pub fn environment(mut self, text: impl Into<String>) -> Self {
        self.environment = text.into();
        self
    }

    /// Adds the keys and values of the database.
    pub fn database(mut self, rows: impl IntoIterator<Item = (String, String)>) -> Self {
        self.database.get_or_insert_default().extend(rows);
        self
    }

    /// Adds an option of the command line.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.command_line.push((key.into(), value.into()));
        self
    }

    /// Demands that a key has a value.
    pub fn require(mut self, key: impl Into<String>) -> Self {
        self.required.push(key.into());
        self
    }

    /// Checks everything.
    ///
    /// A bad value in the database does not fail: the value below it is used and the problem is in
    /// [`Config::rejected`], unless there is no value below it.
    ///
    /// # Errors
    /// All that is wrong, at once: lines that cannot be read, values that are not of their type, references
    /// that lead nowhere, values that do not go together, required keys without a value, and under
    /// `config.strict = 1` keys that do not exist.
    pub fn build(self) -> Result<Config, ConfigError> {
        let mut intake = Intake::default();
        let mut layers = Layers::default();
        for (name, text) in &self.files {
            layers.files.extend(intake.file(name, text));
        }
        layers.environment = intake.environment(&self.environment);
        layers.command_line = intake.pairs(self.command_line, &Source::CommandLine);
        let Intake { unknown, mut warnings, mut problems } = intake;

        let with_database = self.database.is_some();
        let mut database = Intake::default();
        layers.database = database.pairs(self.database.unwrap_or_default(), &Source::Database);
        let offered = layers.database.clone();
        let (values, rejected) = resolve::settle(&mut layers, &Layer::new());
        problems.extend(values.failures.iter().map(|failure| blame(&layers, failure)));
        problems.extend(hidden_problems(&layers));
        problems.extend(without_fallback(&layers, &offered, &rejected));
        if value::boolean(values.text("config.strict")) == Some(true) {
            problems.extend(unknown);
        } else {
            warnings.extend(unknown.iter().map(ToString::to_string));
        }
        let lasting_warnings = warnings.len();
        warnings.extend(database.warnings);
        warnings.extend(checks::warnings(&values));

        let mut looked_in: Vec<String> = self.files.into_iter().map(|(name, _)| name).collect();
        looked_in.extend(self.missing_files);
        let config = Config(Arc::new(super::Inner {
            layers,
            values: values.by_key,
            warnings,
            lasting_warnings,
            rejected,
            looked_in,
            with_database,
        }));
        problems.extend(self.required.iter().filter_map(|key| config.require(key).err()));
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::new(in_order(problems, &config.0.looked_in)))
        }
    }
}

/// The problem of a failure, at the line of the setting that a person can change.
pub(super) fn blame(layers: &Layers, failure: &resolve::Failure) -> Problem {
    let written = |key: &&String| layers.get(key).is_some_and(|(_, source)| *source != Source::Default);
    let guilty = Some(&failure.key).filter(written).or_else(|| failure.suspects.iter().find(written));
    let Some(guilty) = guilty else { return Problem::new(&failure.message).of(&failure.key) };
    let message = if *guilty == failure.key {
        failure.message.clone()
    } else {
        format!("would break {}: {}", failure.key, failure.message)
    };
    let problem = Problem::new(message).of(guilty);
    match layers.get(guilty) {
        Some((_, source)) => problem.at(source),
        None => problem,
    }
}

/// Bad values that a higher layer hides today and that would come to light the day it does not.
fn hidden_problems(layers: &Layers) -> Vec<Problem> {
    let check = |(key, setting): (&String, &Setting)| {
        let message = resolve::check_hidden(layers, key, &setting.raw).err()?;
        Some(Problem::new(message).at(&setting.source).of(key))
    };
    layers.hidden().filter_map(check).collect()
}

/// Rejected database values that leave their key without any value.
fn without_fallback(layers: &Layers, offered: &Layer, rejected: &[Problem]) -> Vec<Problem> {
    let lost = |problem: &&Problem| {
        problem.key().is_some_and(|key| {
            let is_bool = registry().get(key).is_some_and(|spec| spec.kind == Kind::Bool);
            offered.contains_key(key)
                && layers.get(key).is_none()
                && registry().get(key).is_some()
                && !is_bool
        })
    };
    rejected.iter().filter(lost).cloned().collect()
}

/// As a reader goes through the files; what is not from a file stays behind, in its order.
fn in_order(mut problems: Vec<Problem>, files: &[String]) -> Vec<Problem> {
    problems.sort_by_key(|problem| match problem.origin() {
        Some(Source::File { name, line }) => {
            (files.iter().position(|file| file == name).unwrap_or(files.len()), *line)
        }
        _ => (usize::MAX, 0),
    });
    problems
}
