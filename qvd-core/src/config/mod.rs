//! Configuration: the registry of keys, the file syntax, and layering.
//!
//! A [`Config`] is made from texts by a [`ConfigBuilder`] and never changes; a change in the database makes a
//! new one ([`Config::with_database`]). Everything is checked when it is made, so that reading a value cannot
//! fail. This module opens no file and reads no environment: programs hand it the texts.
//!
//! | rank | layer |
//! |---|---|
//! | lowest | defaults of the [registry] |
//! | | files, later ones win key by key |
//! | | `QVD_SET` |
//! | | the database, for keys that can be set there |
//! | highest | the command line |
//!
//! A value may hold `${other.key}`, which stands for the effective value of that key, whatever layer it is
//! from; `${{}` is a literal `${`.

mod builder;
mod checks;
mod csv;
mod intake;
mod kind;
mod layers;
mod problem;
pub mod properties;
mod registry;
mod resolve;
mod suggest;
mod template;
mod value;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::Secret;
use intake::Intake;

pub use builder::ConfigBuilder;
pub use kind::Kind;
pub use layers::Source;
pub use problem::{ConfigError, Problem};
pub use registry::{KeySpec, Registry, Retired, Scope, registry};
pub use words::{UnclosedQuote, split_words};

/// All effective values, immutable and cheap to clone.
///
/// The typed getters answer for any key of the [registry]; a key without a value, or one that nobody knows,
/// is empty, false or zero. Use [`Config::has`] where "not set" means something else.
///
/// # Example
/// ```
/// use qvd_core::config::Config;
/// use std::time::Duration;
///
/// let config = Config::builder()
///     .file("node.conf", "nodename = n1\npath.log = /srv/log\nl7r.port = 8443\n")
///     .database([("l7r.port".to_owned(), "443".to_owned())])
///     .set("internal.l7r.timeout.vm_start", "2m")
///     .build()?;
/// assert_eq!(config.port("l7r.port"), 443);
/// assert_eq!(config.text("log.filename"), "/srv/log/qvd.log");
/// assert_eq!(config.seconds("internal.l7r.timeout.vm_start"), Duration::from_secs(120));
///
/// // Every mistake is reported, each with its line.
/// let error = Config::builder().file("node.conf", "l7r.port = 84x3\nl7r.use_ssl = maybe").build().unwrap_err();
/// assert_eq!(error.to_string().lines().next(), Some("node.conf:1: l7r.port: '84x3' is not a port number (1-65535)"));
/// assert_eq!(error.problems().len(), 2);
///
/// // A change in the database makes a new configuration; what is wrong there does no harm.
/// let (config, problems) = config.with_database([("l7r.port".to_owned(), "none".to_owned())]);
/// assert_eq!(config.port("l7r.port"), 443);
/// assert_eq!(problems[0].to_string(), "database: l7r.port: 'none' is not a port number (1-65535)");
/// # Ok::<(), qvd_core::config::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Config(Arc<Inner>);

struct Inner {
    layers: layers::Layers,
    values: BTreeMap<String, resolve::Value>,
    warnings: Vec<String>,
    /// How many of the warnings are about what does not come from the database; they stand first.
    lasting_warnings: usize,
    rejected: Vec<Problem>,
    looked_in: Vec<String>,
    with_database: bool,
}

/// One key with its value, as [`Config::iter_effective`] lists it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Effective<'a> {
    /// The key.
    pub key: &'a str,
    /// The value with everything expanded.
    pub value: &'a str,
    /// The value as it was written.
    pub raw: &'a str,
    /// Where it was written.
    pub source: &'a Source,
    /// Whether the value is, or contains, something that must not be shown unasked.
    pub secret: bool,
}

impl fmt::Debug for Effective<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.secret { "*****" } else { self.value };
        write!(f, "{}={value} ({})", self.key, self.source)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.iter_effective().filter(|entry| *entry.source != Source::Default);
        f.debug_list().entries(set).finish()
    }
}

impl Config {
    /// Starts with the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The defaults alone.
    pub fn defaults() -> Self {
        static DEFAULTS: LazyLock<Config> = LazyLock::new(|| {
            // The defaults are constants of this crate; a test builds them.
            Config::builder().build().unwrap_or_else(|error| unreachable!("defaults: {error}"))
        });
        DEFAULTS.clone()
    }

    /// The value of a key; `None` when nobody set one and there is no default.
    pub fn get(&self, key: &str) -> Option<String> {
        self.value(key).map(str::to_owned)
    }

    /// Whether the key has a value that is not empty.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| !value.is_empty())
    }

    /// Where the value of a key comes from; `None` when it has none.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.0.layers.get(key).map(|(_, source)| source)
    }

    /// A text.
    pub fn text(&self, key: &str) -> String {
        self.str(key).to_owned()
    }

    /// A boolean.
    pub fn flag(&self, key: &str) -> bool {
        value::boolean(self.str(key)).unwrap_or(false)
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> i64 {
        self.str(key).parse().unwrap_or(0)
    }

    /// A decimal number.
    pub fn number(&self, key: &str) -> f64 {
        value::number(self.str(key)).unwrap_or(0.0)
    }

    /// A time.
    pub fn seconds(&self, key: &str) -> Duration {
        value::seconds(self.str(key)).unwrap_or(Duration::ZERO)
    }

    /// A TCP port.
    pub fn port(&self, key: &str) -> u16 {
        self.str(key).parse().unwrap_or(0)
    }

    /// A file mode or umask.
    pub fn octal(&self, key: &str) -> u32 {
        value::octal(self.str(key)).unwrap_or(0)
    }

    /// A path.
    pub fn path(&self, key: &str) -> PathBuf {
        PathBuf::from(self.str(key))
    }

    /// Several paths, written with colons between them.
    pub fn path_list(&self, key: &str) -> Vec<PathBuf> {
        value::list(self.str(key), ':').into_iter().map(PathBuf::from).collect()
    }

    /// Several texts, written with commas between them.
    pub fn list(&self, key: &str) -> Vec<String> {
        value::list(self.str(key), ',').into_iter().map(str::to_owned).collect()
    }

    /// A text that must not be shown.
    pub fn secret(&self, key: &str) -> Secret<String> {
        Secret::new(self.text(key))
    }

    /// An IP address with a port; `None` when not set.
    pub fn socket(&self, key: &str) -> Option<SocketAddr> {
        self.str(key).parse().ok()
    }

    /// An IPv4 address; `None` when not set.
    pub fn ipv4(&self, key: &str) -> Option<Ipv4Addr> {
        self.str(key).parse().ok()
    }

    /// A network mask as the length of its prefix, 0 to 32; `None` when not set.
    pub fn netmask(&self, key: &str) -> Option<u8> {
        value::netmask(self.str(key))
    }

    /// Width and height in pixels; `None` when not set.
    pub fn geometry(&self, key: &str) -> Option<(u32, u32)> {
        value::geometry(self.str(key))
    }

    /// A program and the words to call it with: those of the key itself, then those of `KEY.args.extra`.
    /// Empty when the key is.
    pub fn command(&self, key: &str) -> Vec<String> {
        let mut command = self.words(key);
        if !command.is_empty() {
            command.extend(self.words(&format!("{key}.args.extra")));
        }
        command
    }

    /// A text as words: see [`split_words`]. A text with an open quote is split at its blanks.
    pub fn words(&self, key: &str) -> Vec<String> {
        let text = self.str(key);
        split_words(text).unwrap_or_else(|_| text.split_whitespace().map(str::to_owned).collect())
    }

    /// The keys of an indexed family with their values: `PREFIX.0`, `PREFIX.1`, … until the first that has none.
    /// Write the place of the number as `N`: `client.share.N`.
    /// Empty when nothing in `family` is `N`.
    pub fn indexed(&self, family: &str) -> Vec<String> {
        let parts: Vec<&str> = family.split('.').collect();
        let Some(place) = parts.iter().position(|part| *part == "N") else { return Vec::new() };
        let (before, after) = (&parts[..place], &parts[place + 1..]);
        let key = |index: usize| [before, &[index.to_string().as_str()], after].concat().join(".");
        (0..).map_while(|index| self.get(&key(index))).collect()
    }

    /// Fails when a key has no value.
    ///
    /// # Errors
    /// The message names the key and the places where it was looked for.
    pub fn require(&self, key: &str) -> Result<(), Problem> {
        if self.has(key) {
            return Ok(());
        }
        let mut places: Vec<&str> = self.0.looked_in.iter().map(String::as_str).collect();
        if self.0.with_database {
            places.push("database");
        }
        let looked_in = if places.is_empty() { "no file".to_owned() } else { places.join(", ") };
        Err(Problem::new(format!("configuration key '{key}' is not set (looked in: {looked_in})")))
    }

    /// The same with other database values.
    ///
    /// A value that cannot be used keeps the one that was in force before, be it from the database or from
    /// below; a deleted one that others need stays. Each such problem is answered, to be logged as an error.
    #[must_use]
    pub fn with_database(&self, rows: impl IntoIterator<Item = (String, String)>) -> (Self, Vec<Problem>) {
        let mut intake = Intake::default();
        let mut layers = self.0.layers.clone();
        layers.database = intake.pairs(rows, &Source::Database);
        let (values, problems) = resolve::settle(&mut layers, &self.0.layers.database);
        let mut warnings = self.0.warnings[..self.0.lasting_warnings].to_vec();
        warnings.extend(intake.warnings);
        warnings.extend(checks::warnings(&values));
        let next = Inner {
            layers,
            values: values.by_key,
            warnings,
            lasting_warnings: self.0.lasting_warnings,
            rejected: problems.clone(),
            looked_in: self.0.looked_in.clone(),
            with_database: true,
        };
        (Self(Arc::new(next)), problems)
    }

    /// Checks values before they are stored in the database.
    ///
    /// # Errors
    /// Everything for which the values have to be refused; then none of them may be stored. The text is meant
    /// for the person who typed them. Otherwise the answer is what there is to warn about.
    pub fn check_database(&self, changes: &[(String, String)]) -> Result<Vec<String>, Vec<Problem>> {
        let mut warnings = Vec::new();
        let mut problems = Vec::new();
        for (key, raw) in changes {
            if !is_key(key) || key.len() > MAX_KEY_LENGTH {
                let rule = format!("letters, digits, '_', '.' and '-', at most {MAX_KEY_LENGTH} characters");
                problems.push(Problem::new(format!("'{key}' cannot be a configuration key ({rule})")));
            } else if raw.chars().count() > MAX_VALUE_LENGTH {
                problems.push(Problem::new(format!("is longer than {MAX_VALUE_LENGTH} characters")).of(key));
            }
            if let Some(retired) = registry().retired(key) {
                warnings.push(intake::retired_warning(key, &retired));
            } else {
                match registry().get(key) {
                    None => warnings.push(intake::unknown_key(key)),
                    Some(spec) if spec.scope == Scope::File => {
                        warnings.push(intake::file_only_warning(key, spec));
                        let message = resolve::check_hidden(&self.0.layers, key, raw).err();
                        problems.extend(message.map(|message| Problem::new(message).of(key)));
                    }
                    Some(_) => {}
                }
            }
        }
        let mut layers = self.0.layers.clone();
        layers.database.extend(Intake::default().pairs(changes.iter().cloned(), &Source::Database));
        let (_, rejected) = resolve::settle(&mut layers, &self.0.layers.database);
        problems.extend(rejected.into_iter().map(Problem::without_origin));
        if problems.is_empty() { Ok(warnings) } else { Err(problems) }
    }

    /// Every key that has a value, by name.
    pub fn iter_effective(&self) -> impl Iterator<Item = Effective<'_>> {
        self.0.values.iter().filter_map(|(key, value)| {
            let (raw, source) = self.0.layers.get(key)?;
            Some(Effective { key, value: &value.text, raw, source, secret: value.secret })
        })
    }

    /// The keys whose values differ between two configurations.
    pub fn changed_keys(&self, other: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<&String> =
            self.0.values.keys().chain(other.0.values.keys()).collect();
        keys.into_iter().filter(|key| self.value(key) != other.value(key)).cloned().collect()
    }

    /// What a person should be told although it works: unknown keys, old names, values without effect.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Database values that could not be used, to be logged as errors.
    pub fn rejected(&self) -> &[Problem] {
        &self.0.rejected
    }

    fn str(&self, key: &str) -> &str {
        self.value(key).unwrap_or("")
    }

    fn value(&self, key: &str) -> Option<&str> {
        let text = |key: &str| self.0.values.get(key).map(|value| value.text.as_str());
        text(key).or_else(|| match registry().retired(key) {
            Some(Retired::Renamed(new)) => text(&new),
            Some(Retired::Ignored) | None => None,
        })
    }
}

/// Whether a text can be the name of a key.
fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What the database has room for.
const MAX_KEY_LENGTH: usize = 255;
const MAX_VALUE_LENGTH: usize = 32_768;
