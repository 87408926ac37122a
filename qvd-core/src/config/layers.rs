//! Where values come from, and which of several wins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::registry::registry;

/// Where a value comes from; lower ones win over higher ones.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Built in.
    Default,
    /// A line of a file.
    File {
        /// The file as it was named to the builder.
        name: String,
        /// The line, from 1.
        line: usize,
    },
    /// The environment variable `QVD_SET`.
    Environment,
    /// The database.
    Database,
    /// An option on the command line.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment => f.write_str("QVD_SET"),
            Self::Database => f.write_str("database"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// A value as it was written.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) raw: String,
    pub(super) source: Source,
}

pub(super) type Layer = BTreeMap<String, Setting>;

/// All that was set, by rank.
#[derive(Clone, Default)]
pub(super) struct Layers {
    pub(super) files: Layer,
    pub(super) environment: Layer,
    pub(super) database: Layer,
    pub(super) command_line: Layer,
}

impl Layers {
    /// The winning value, unexpanded, and where it stands.
    pub(super) fn get(&self, key: &str) -> Option<(&str, &Source)> {
        match self.by_rank().iter().find_map(|layer| layer.get(key)) {
            Some(setting) => Some((&setting.raw, &setting.source)),
            None => self.default(key).map(|raw| (raw, &Source::Default)),
        }
    }

    /// Every key that is set or has a default.
    pub(super) fn keys(&self) -> BTreeSet<&str> {
        let set = self.by_rank().into_iter().flat_map(|layer| layer.keys().map(String::as_str));
        let defaults = registry().named().filter(|spec| spec.default.is_some()).map(|spec| spec.name);
        set.chain(defaults).collect()
    }

    /// Settings that a higher layer hides, though somebody wrote them for this program.
    pub(super) fn hidden(&self) -> impl Iterator<Item = (&String, &Setting)> {
        let written = self.files.iter().chain(&self.environment);
        written.filter(|(key, setting)| self.get(key).is_some_and(|(_, winner)| *winner != setting.source))
    }

    fn by_rank(&self) -> [&Layer; 4] {
        [&self.command_line, &self.database, &self.environment, &self.files]
    }

    fn default(&self, key: &str) -> Option<&'static str> {
        let profile = || FAST_PROFILE.iter().find(|(name, _)| *name == key).filter(|_| self.is_fast());
        let built_in = || registry().get(key).and_then(|spec| spec.default);
        profile().map(|(_, value)| *value).or_else(built_in)
    }

    fn is_fast(&self) -> bool {
        let set = self.by_rank().iter().find_map(|layer| layer.get("hkd.cluster.profile"));
        set.is_some_and(|setting| setting.raw.trim().eq_ignore_ascii_case("fast"))
    }
}

/// The defaults that `hkd.cluster.profile = fast` puts in place of the built-in ones.
const FAST_PROFILE: &[(&str, &str)] = &[
    ("internal.hkd.agent.ticker.delay", "3"),
    ("internal.hkd.agent.ticker.timeout", "20"),
    ("internal.hkd.fence.kill.timeout", "10"),
    ("internal.hkd.lease.margin", "10"),
    ("internal.hkd.cluster.node.timeout", "40"),
    ("internal.hkd.agent.cluster_monitor.delay", "3"),
    ("internal.hkd.agent.cluster_monitor.fuzzy_delay", "1"),
];
