//! From texts to layers: which keys count where, old names, and what there is to say about them.

use std::collections::BTreeMap;

use super::layers::{Layer, Setting, Source};
use super::problem::Problem;
use super::registry::{KeySpec, Retired, Scope, registry};
use super::{Kind, is_key, properties};

/// Reads settings and keeps what has to be said about them.
#[derive(Default)]
pub(super) struct Intake {
    /// Keys that nobody knows, outside of the database.
    pub(super) unknown: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl Intake {
    pub(super) fn file(&mut self, name: &str, text: &str) -> Layer {
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
        let entry = |p: properties::Property| (p.key, Setting { raw: p.value, source: source(p.line) });
        self.accept(parsed.properties.into_iter().map(entry))
    }

    /// The text of `QVD_SET`.
    pub(super) fn environment(&mut self, text: &str) -> Layer {
        let mut pairs = Vec::new();
        for part in split_at_semicolons(text) {
            match part.split_once('=') {
                Some((key, value)) => pairs.push((key.trim().to_owned(), value.trim().to_owned())),
                None if part.trim().is_empty() => {}
                None => {
                    // Not the text itself: it may be the second half of a password with a semicolon in it.
                    let message = "a part without '=' (a ';' in a value is written '\\;')";
                    self.problems.push(Problem::new(message).at(&Source::Environment));
                }
            }
        }
        self.pairs(pairs, &Source::Environment)
    }

    pub(super) fn pairs(
        &mut self,
        pairs: impl IntoIterator<Item = (String, String)>,
        source: &Source,
    ) -> Layer {
        self.accept(pairs.into_iter().map(|(key, raw)| (key, Setting { raw, source: source.clone() })))
    }

    /// The settings that count, under their present names. What stands under its present name wins over an old one.
    fn accept(&mut self, settings: impl Iterator<Item = (String, Setting)>) -> Layer {
        let (mut layer, mut renamed) = (Layer::new(), Layer::new());
        for (key, setting) in settings {
            let retired = registry().retired(&key);
            if let Some(retired) = &retired {
                self.warnings.push(format!("{}: {}", setting.source, retired_warning(&key, retired)));
            }
            let (key, target) = match retired {
                Some(Retired::Ignored) => continue,
                Some(Retired::Renamed(new)) => (new, &mut renamed),
                None => (key, &mut layer),
            };
            if let Some(setting) = self.admit(&key, setting) {
                target.insert(key, setting);
            }
        }
        for (key, setting) in renamed {
            layer.entry(key).or_insert(setting);
        }
        layer
    }

    /// The setting, if its key counts where it stands.
    fn admit(&mut self, key: &str, setting: Setting) -> Option<Setting> {
        let in_database = setting.source == Source::Database;
        let Some(spec) = registry().get(key) else {
            if !in_database {
                self.unknown.push(Problem::new(unknown_key(key)).at(&setting.source));
            }
            return Some(setting);
        };
        match spec.scope {
            Scope::File if in_database => {
                self.warnings.push(file_only_warning(key, spec));
                None
            }
            Scope::Db if !in_database => {
                let place = &setting.source;
                self.warnings
                    .push(format!("{place}: {key} is only read from the database; set it with 'config ssl'"));
                None
            }
            Scope::File | Scope::Both | Scope::Db => Some(self.without_blanks(key, spec, setting)),
        }
    }

    /// Removes blanks that an editor left around numbers, words and credentials, which cannot mean them.
    fn without_blanks(&mut self, key: &str, spec: &KeySpec, setting: Setting) -> Setting {
        let typed = matches!(setting.source, Source::Database | Source::CommandLine);
        let is_credential = spec.kind == Kind::Secret || key == "database.user";
        let trimmed = setting.raw.trim();
        if typed || trimmed.len() == setting.raw.len() || !(spec.kind.ignores_blanks() || is_credential) {
            return setting;
        }
        self.warnings
            .push(format!("{}: {key}: the blanks around the value are not part of it", setting.source));
        Setting { raw: trimmed.to_owned(), source: setting.source }
    }
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

/// The parts between semicolons; a backslash keeps a semicolon.
fn split_at_semicolons(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ';' => parts.push(std::mem::take(&mut part)),
            '\\' => part.push(chars.next_if_eq(&';').unwrap_or('\\')),
            c => part.push(c),
        }
    }
    parts.push(part);
    parts
}
