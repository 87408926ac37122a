//! From layers to values: references expanded, types checked, and the guilty setting found when a check fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::checks;
use super::layers::{Layer, Layers, Source};
use super::problem::Problem;
use super::registry::registry;
use super::template::{self, Piece};

/// The value of one key after everything was considered.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) text: String,
    /// The key is a secret, or the value contains one.
    pub(super) secret: bool,
    /// How many references stand one behind the other.
    depth: usize,
}

/// All values, and what is wrong with them.
#[derive(Default)]
pub(super) struct Values {
    pub(super) by_key: BTreeMap<String, Value>,
    pub(super) failures: Vec<Failure>,
}

impl Values {
    pub(super) fn text(&self, key: &str) -> &str {
        self.by_key.get(key).map_or("", |value| value.text.as_str())
    }
}

/// A value that cannot be used.
pub(super) struct Failure {
    pub(super) key: String,
    pub(super) message: String,
    /// The settings that could have caused it.
    pub(super) suspects: Vec<String>,
    /// Whether the suspects belong together, so that none of them can stay when one has to go.
    pub(super) together: bool,
}

/// Evaluates every key that is set or has a default.
pub(super) fn evaluate(layers: &Layers) -> Values {
    let mut resolver = Resolver::new(layers);
    let mut values = Values::default();
    for key in layers.keys() {
        match resolver.resolve(key).map_err(|error| error.to_string()).and_then(|value| checked(key, value)) {
            Ok(value) => {
                values.by_key.insert(key.to_owned(), value);
            }
            Err(message) => {
                let suspects = involved(layers, key);
                values.failures.push(Failure { key: key.to_owned(), message, suspects, together: false });
            }
        }
    }
    // A built-in value can only fail because of a written one, which is in the list itself.
    let is_written =
        |failure: &Failure| layers.get(&failure.key).is_some_and(|(_, source)| *source != Source::Default);
    if values.failures.iter().any(is_written) {
        values.failures.retain(is_written);
    }
    let failures = checks::failures(&values);
    values.failures.extend(failures);
    values
}

/// Checks a setting that is not the winning one of its key, with the values that are in force.
pub(super) fn check_hidden(layers: &Layers, key: &str, raw: &str) -> Result<(), String> {
    let expanded = Resolver::new(layers).expand(key, raw).map_err(|error| error.to_string())?;
    checked(key, expanded).map(|_| ())
}

/// Takes database settings back until everything can be used: to what `previous` had, and if that had nothing,
/// to the layers below. Answers the values and why which settings were taken back.
pub(super) fn settle(layers: &mut Layers, previous: &Layer) -> (Values, Vec<Problem>) {
    let mut problems = Vec::new();
    loop {
        let values = evaluate(layers);
        let mut reverted = BTreeSet::new();
        for failure in &values.failures {
            for key in culprits(failure, &layers.database, previous) {
                if reverted.insert(key.clone()) {
                    let message = if key == failure.key {
                        failure.message.clone()
                    } else {
                        format!("would break {}: {}", failure.key, failure.message)
                    };
                    problems.push(Problem::new(message).at(&Source::Database).of(&key));
                }
            }
        }
        if reverted.is_empty() {
            return (values, problems);
        }
        for key in reverted {
            match previous.get(&key) {
                Some(setting) => layers.database.insert(key, setting.clone()),
                None => layers.database.remove(&key),
            };
        }
    }
}

/// Which of the database settings that differ from `previous` have to go because of a failure.
fn culprits(failure: &Failure, database: &Layer, previous: &Layer) -> Vec<String> {
    let changed = |key: &String| database.get(key) != previous.get(key);
    if !failure.together && changed(&failure.key) {
        return vec![failure.key.clone()];
    }
    failure.suspects.iter().filter(|key| changed(key)).cloned().collect()
}

/// The value in the spelling of its type.
fn checked(key: &str, value: Value) -> Result<Value, String> {
    let Some(spec) = registry().get(key) else { return Ok(value) };
    match spec.kind.normalize(&value.text, spec.default.is_none()) {
        Ok(text) => Ok(Value { text, ..value }),
        Err(complaint) if value.secret => Err(format!("'*****' {complaint}")),
        Err(complaint) => Err(format!("'{}' {complaint}", value.text)),
    }
}

/// A key and everything it refers to, directly or not.
fn involved(layers: &Layers, key: &str) -> Vec<String> {
    let mut seen = BTreeSet::from([key.to_owned()]);
    let mut found = vec![key.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let raw = layers.get(&found[next]).map_or("", |(raw, _)| raw);
        for piece in template::pieces(raw).unwrap_or_default() {
            if let Piece::Reference(name) = piece
                && seen.insert(name.to_owned())
            {
                found.push(name.to_owned());
            }
        }
        next += 1;
    }
    found
}

struct Resolver<'a> {
    layers: &'a Layers,
    known: HashMap<String, Result<Value, Unresolved>>,
    /// The keys being expanded, outermost first.
    open: Vec<String>,
}

impl<'a> Resolver<'a> {
    fn new(layers: &'a Layers) -> Self {
        Self { layers, known: HashMap::new(), open: Vec::new() }
    }

    fn resolve(&mut self, key: &str) -> Result<Value, Unresolved> {
        if let Some(known) = self.known.get(key) {
            return known.clone();
        }
        let Some((raw, _)) = self.layers.get(key) else {
            return Err(Unresolved::Missing(key.to_owned()));
        };
        let result = self.expand(key, raw);
        // Too deep depends on where one starts: the inner keys of a long chain may be fine.
        if !matches!(result, Err(Unresolved::TooDeep)) {
            self.known.insert(key.to_owned(), result.clone());
        }
        result
    }

    /// Expands a value written for `key`.
    fn expand(&mut self, key: &str, raw: &str) -> Result<Value, Unresolved> {
        if let Some(from) = self.open.iter().position(|open| open == key) {
            return Err(Unresolved::Circle(format!("{} -> {key}", self.open[from..].join(" -> "))));
        }
        if self.open.len() > MAX_DEPTH {
            return Err(Unresolved::TooDeep);
        }
        self.open.push(key.to_owned());
        let result = self.expand_pieces(key, raw);
        self.open.pop();
        result
    }

    fn expand_pieces(&mut self, key: &str, raw: &str) -> Result<Value, Unresolved> {
        let mut value = Value { text: String::with_capacity(raw.len()), secret: is_secret(key), depth: 0 };
        for piece in template::pieces(raw)? {
            match piece {
                Piece::Text(text) => value.text.push_str(text),
                Piece::Reference(name) => {
                    let target = self.resolve(name)?;
                    value.text.push_str(&target.text);
                    value.secret |= target.secret;
                    value.depth = value.depth.max(target.depth + 1);
                }
            }
            if value.text.len() > MAX_LENGTH {
                return Err(Unresolved::TooLong);
            }
        }
        if value.depth > MAX_DEPTH { Err(Unresolved::TooDeep) } else { Ok(value) }
    }
}

/// Why the references in a value could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Unresolved {
    #[error("Configuration entry for {0} missing")]
    Missing(String),
    #[error("refers to itself ({0})")]
    Circle(String),
    #[error("has more than {MAX_DEPTH} references one behind the other")]
    TooDeep,
    #[error("is longer than {MAX_LENGTH} bytes when its references are expanded")]
    TooLong,
    #[error(transparent)]
    Unclosed(#[from] template::Unclosed),
}

/// Whether a value of this key must not be shown in logs and messages.
pub(super) fn is_secret(key: &str) -> bool {
    const SIGNS: &[&str] = &["password", "passwd", "bindpass", "token", "secret", "salt"];
    let lower = key.to_ascii_lowercase();
    let by_type = || registry().get(key).is_some_and(|spec| spec.kind == super::Kind::Secret);
    SIGNS.iter().any(|sign| lower.contains(sign)) || key == "l7r.ssl.key" || by_type()
}

const MAX_DEPTH: usize = 16;

/// No honest value is longer; sixteen levels of doubling could be.
const MAX_LENGTH: usize = 1 << 20;
