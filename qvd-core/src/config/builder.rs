//! Putting a [`Config`] together from texts, and saying everything that is wrong with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layers::{Layer, Layers, Setting, Source};
use super::problem::{ConfigError, Problem};
use super::registry::{KeySpec, Retired, Scope, registry};
use super::{Config, Kind, checks, is_key, properties, resolve};

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
        for (name, text) in &self.files {
            let entries = intake.read_file(name, text);
            let layer = intake.accept(entries);
            intake.layers.files.extend(layer);
        }
        let entries = intake.read_environment(&self.environment);
        intake.layers.environment = intake.accept(entries);
        let from_command_line = |(key, raw)| Entry { key, raw, source: Source::CommandLine };
        intake.layers.command_line =
            intake.accept(self.command_line.into_iter().map(from_command_line).collect());

        let Intake { mut layers, unknown, mut warnings, mut problems } = intake;
        let with_database = self.database.is_some();
        let (database, ignored) = database_layer(self.database.unwrap_or_default());
        layers.database = database;
        let offered = layers.database.clone();
        let (values, rejected) = resolve::settle(&mut layers, &Layer::new());
        problems.extend(values.failures.iter().map(|failure| blame(&layers, failure)));
        problems.extend(hidden_problems(&layers));
        problems.extend(without_fallback(&layers, &offered, &rejected));
        if super::value::boolean(values.text("config.strict")) == Some(true) {
            problems.extend(unknown);
        } else {
            warnings.extend(unknown.iter().map(ToString::to_string));
        }
        let lasting_warnings = warnings.len();
        warnings.extend(ignored);
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
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::new(in_order(problems))) }
    }
}

/// The rows that count, and a warning for each that does not.
pub(super) fn database_layer(rows: impl IntoIterator<Item = (String, String)>) -> (Layer, Vec<String>) {
    let mut layer = Layer::new();
    let mut renamed = Layer::new();
    let mut warnings = Vec::new();
    for (key, raw) in rows {
        let setting = Setting { raw, source: Source::Database };
        let retired = registry().retired(&key);
        if let Some(warning) = retired.as_ref().map(|retired| retired_warning(&key, retired)) {
            warnings.push(format!("database: {warning}"));
        }
        let is_renamed = retired.is_some();
        let key = match retired {
            Some(Retired::Ignored) => continue,
            Some(Retired::Renamed(new)) => new,
            None => key,
        };
        match registry().get(&key) {
            Some(spec) if spec.scope == Scope::File => warnings.push(file_only_warning(&key, spec)),
            Some(_) | None if is_renamed => drop(renamed.insert(key, setting)),
            Some(_) | None => drop(layer.insert(key, setting)),
        }
    }
    for (key, setting) in renamed {
        layer.entry(key).or_insert(setting);
    }
    (layer, warnings)
}

pub(super) fn file_only_warning(key: &str, spec: &KeySpec) -> String {
    format!("{key} is only read from {}; the database value has no effect", spec.file_name())
}

pub(super) fn retired_warning(key: &str, retired: &Retired) -> String {
    match retired {
        Retired::Renamed(new) => format!("configuration key '{key}' is deprecated, use '{new}'"),
        Retired::Ignored => format!("configuration key '{key}' has no effect any more"),
    }
}

pub(super) fn unknown_key(key: &str) -> String {
    if !is_key(key) {
        return format!("'{key}' cannot be a configuration key (letters, digits, '_', '.' and '-')");
    }
    match registry().suggest(key) {
        Some(near) => format!("unknown configuration key '{key}' (did you mean '{near}'?)"),
        None => format!("unknown configuration key '{key}'"),
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

/// As a reader goes through the files; the rest as found.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    let mut files: Vec<String> = Vec::new();
    let mut place = |problem: &Problem| match problem.origin() {
        Some(Source::File { name, line }) => {
            let file = files.iter().position(|known| known == name).unwrap_or_else(|| {
                files.push(name.clone());
                files.len() - 1
            });
            (file, *line)
        }
        _ => (usize::MAX, 0),
    };
    let places: Vec<_> = problems.iter().map(&mut place).collect();
    let mut numbered: Vec<_> = places.into_iter().zip(problems.drain(..)).collect();
    numbered.sort_by_key(|(place, _)| *place);
    numbered.into_iter().map(|(_, problem)| problem).collect()
}

/// Something that was set, before its key was looked at.
struct Entry {
    key: String,
    raw: String,
    source: Source,
}

/// Reads entries and keeps what there is to say about them.
#[derive(Default)]
struct Intake {
    layers: Layers,
    unknown: Vec<Problem>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

impl Intake {
    fn read_file(&mut self, name: &str, text: &str) -> Vec<Entry> {
        let source = |line| Source::File { name: name.to_owned(), line };
        let parsed = properties::parse(text);
        for error in parsed.errors {
            self.problems.push(Problem::new(error.to_string()).at(&source(error.line)));
        }
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        for property in &parsed.properties {
            if let Some(earlier) = lines.insert(property.key.clone(), property.line) {
                self.warnings.push(format!(
                    "{name}:{}: '{}' is set again and replaces the value of line {earlier}",
                    property.line, property.key
                ));
            }
        }
        let entry = |p: properties::Property| Entry { key: p.key, raw: p.value, source: source(p.line) };
        parsed.properties.into_iter().map(entry).collect()
    }

    fn read_environment(&mut self, text: &str) -> Vec<Entry> {
        let mut entries = Vec::new();
        for part in split_at_semicolons(text) {
            match part.split_once('=') {
                Some((key, value)) => entries.push(Entry {
                    key: key.trim().to_owned(),
                    raw: value.trim().to_owned(),
                    source: Source::Environment,
                }),
                None if part.trim().is_empty() => {}
                // Not the text itself: it may be the second half of a password with a semicolon in it.
                None => self.problems.push(
                    Problem::new("a part without '=' (a ';' in a value is written '\\;')")
                        .at(&Source::Environment),
                ),
            }
        }
        entries
    }

    /// The entries under their present names. What stands under its present name wins over an old one.
    fn accept(&mut self, entries: Vec<Entry>) -> Layer {
        let mut layer = Layer::new();
        let mut renamed = Layer::new();
        for Entry { key, raw, source } in entries {
            let retired = registry().retired(&key);
            if let Some(retired) = &retired {
                self.warnings.push(format!("{source}: {}", retired_warning(&key, retired)));
            }
            match retired {
                Some(Retired::Ignored) => {}
                Some(Retired::Renamed(new)) => {
                    let raw = self.without_blanks(&new, raw, &source);
                    renamed.insert(new, Setting { raw, source });
                }
                None => match registry().get(&key).map(|spec| spec.scope) {
                    Some(Scope::Db) => {
                        self.warnings.push(format!(
                            "{source}: {key} is only read from the database; set it with 'config ssl'"
                        ));
                    }
                    Some(Scope::File | Scope::Both) => {
                        let raw = self.without_blanks(&key, raw, &source);
                        layer.insert(key, Setting { raw, source });
                    }
                    None => {
                        self.unknown.push(Problem::new(unknown_key(&key)).at(&source));
                        layer.insert(key, Setting { raw, source });
                    }
                },
            }
        }
        for (key, setting) in renamed {
            layer.entry(key).or_insert(setting);
        }
        layer
    }

    /// Removes blanks around values that cannot mean them: numbers, words and credentials.
    fn without_blanks(&mut self, key: &str, raw: String, source: &Source) -> String {
        let ignores =
            registry().get(key).is_some_and(|spec| spec.kind.ignores_blanks() || spec.kind == Kind::Secret);
        let trimmed = raw.trim();
        if trimmed.len() == raw.len() || !(ignores || key == "database.user") {
            return raw;
        }
        self.warnings.push(format!("{source}: {key}: the blanks around the value are not part of it"));
        trimmed.to_owned()
    }
}

/// The parts between semicolons; a backslash keeps a semicolon.
fn split_at_semicolons(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = if c == ';' { None } else { parts.last_mut() };
        match part {
            None => parts.push(String::new()),
            Some(part) if c == '\\' => part.push(chars.next_if_eq(&';').unwrap_or('\\')),
            Some(part) => part.push(c),
        }
    }
    parts
}
