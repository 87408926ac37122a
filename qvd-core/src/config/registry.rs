//! The table of known keys: `keys.csv`, read at first use.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::csv;
use super::kind::Kind;
use super::suggest;

/// The table compiled into this crate.
pub fn registry() -> &'static Registry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
        // A broken table cannot get here: a test reads this very text.
        Registry::read(include_str!("keys.csv")).unwrap_or_else(|error| unreachable!("keys.csv: {error}"))
    });
    &REGISTRY
}

/// Where a key can be set to have an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In files only: it is needed before there is a database, or by a part that has none.
    File,
    /// In files and in the database; the database wins.
    Both,
    /// In the database only.
    Db,
}

/// What is known of one key, or of a family of keys.
///
/// The name of a family has a place to fill: `NAME` stands for anything, `N` for a number.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeySpec {
    /// The key.
    pub name: &'static str,
    /// The part that reads it: `hkd`, `l7r`, `vma`, `client`, …
    pub component: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The value when nobody sets one; `${…}` not expanded.
    pub default: Option<&'static str>,
    /// Where it can be set.
    pub scope: Scope,
    /// What it does, in one line.
    pub doc: &'static str,
}

impl KeySpec {
    /// The usual name of the file that sets this key.
    pub fn file_name(&self) -> &'static str {
        match self.component {
            "client" => "client.conf",
            "vma" => "vma.conf",
            _ if self.name.starts_with("internal.vma.") || self.name.starts_with("internal.nxagent.") => {
                "vma.conf"
            }
            _ => "node.conf",
        }
    }

    /// Whether a running daemon notices a change only when it is started again.
    pub fn needs_restart(&self) -> bool {
        const ENDINGS: &[&str] =
            &[".as_user", ".as_group", ".pid_file", ".user.umask", ".use_ssl", ".lock.path"];
        const NAMES: &[&str] = &[
            "l7r.address",
            "l7r.limit.connections",
            "l7r.loadbalancer.plugin",
            "l7r.metrics.address",
            "l7r.port",
            "l7r.proxy_protocol",
            "l7r.workers",
            "wat.address",
            "wat.port",
            "nodename",
            "vm.hypervisor",
        ];
        const BEGINNINGS: &[&str] = &["database.", "internal.database.", "log.", "log4perl."];
        // Authenticators are made once, with all that they are told.
        self.component == "auth"
            || NAMES.contains(&self.name)
            || ENDINGS.iter().any(|ending| self.name.ends_with(ending))
            || BEGINNINGS.iter().any(|beginning| self.name.starts_with(beginning))
    }
}

/// All known keys.
#[derive(Debug)]
pub struct Registry {
    keys: BTreeMap<&'static str, KeySpec>,
    families: Vec<Family>,
    renamed: Vec<(Pattern, Pattern)>,
    ignored: Vec<&'static str>,
}

/// What became of a key that is no longer used under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retired {
    /// It is now this key.
    Renamed(String),
    /// It has no effect any more.
    Ignored,
}

impl Registry {
    /// The key of this name, or the family it belongs to.
    ///
    /// ```
    /// use qvd_core::config::{registry, Kind};
    /// assert_eq!(registry().get("l7r.port").unwrap().default, Some("8443"));
    /// assert_eq!(registry().get("client.mount.3.remote").unwrap().kind, Kind::Path);
    /// assert!(registry().get("l7r.prot").is_none());
    /// ```
    pub fn get(&self, key: &str) -> Option<&KeySpec> {
        self.keys.get(key).or_else(|| {
            self.families
                .iter()
                .find(|family| family.pattern.fill_of(key).is_some())
                .map(|family| &family.spec)
        })
    }

    /// Every key and family, by name.
    pub fn iter(&self) -> impl Iterator<Item = &KeySpec> {
        let mut all: Vec<_> =
            self.keys.values().chain(self.families.iter().map(|family| &family.spec)).collect();
        all.sort_by_key(|spec| spec.name);
        all.into_iter()
    }

    /// What became of `key`, when it is an old name.
    pub fn retired(&self, key: &str) -> Option<Retired> {
        if self.ignored.contains(&key) {
            return Some(Retired::Ignored);
        }
        let renamed = |(old, new): &(Pattern, Pattern)| old.fill_of(key).map(|fill| new.filled(fill));
        self.renamed.iter().find_map(renamed).map(Retired::Renamed)
    }

    /// The known key that looks most like `key`, when one is near.
    pub fn suggest(&self, key: &str) -> Option<&'static str> {
        suggest::nearest(key, self.keys.keys().copied())
    }

    /// Keys that have a name of their own, without the families.
    pub(super) fn named(&self) -> impl Iterator<Item = &KeySpec> {
        self.keys.values()
    }

    fn read(text: &'static str) -> Result<Self, String> {
        let mut registry =
            Self { keys: BTreeMap::new(), families: Vec::new(), renamed: Vec::new(), ignored: Vec::new() };
        let mut records = csv::records(text);
        if records.next().is_none_or(|header| header.fields != COLUMNS) {
            return Err(format!("the first line is not {}", COLUMNS.join(",")));
        }
        for record in records {
            registry.add(&record.fields).map_err(|error| format!("line {}: {error}", record.line))?;
        }
        // The longest fixed text first, so that hkd.process.limit.hard.NAME wins over hkd.process.limit.NAME.
        registry.families.sort_by_key(|family| std::cmp::Reverse(family.spec.name.len()));
        Ok(registry)
    }

    fn add(&mut self, fields: &[&'static str]) -> Result<(), String> {
        let &[name, component, kind, default, scope, doc] = fields else {
            return Err(format!("{} fields instead of {}", fields.len(), COLUMNS.len()));
        };
        if let Some(target) = kind.strip_prefix("alias ") {
            self.renamed.push((Pattern::of(name), Pattern::of(target)));
            return Ok(());
        }
        if kind == "ignored" {
            self.ignored.push(name);
            return Ok(());
        }
        let kind = Kind::from_table(kind).ok_or_else(|| format!("'{kind}' is no type"))?;
        let scope = match scope {
            "file" => Scope::File,
            "both" => Scope::Both,
            "db" => Scope::Db,
            other => return Err(format!("'{other}' is no place to set a key")),
        };
        let default = (!default.is_empty()).then_some(default);
        let spec = KeySpec { name, component, kind, default, scope, doc };
        let pattern = Pattern::of(name);
        if pattern.place.is_some() {
            self.families.push(Family { pattern, spec });
        } else if self.keys.insert(name, spec).is_some() {
            return Err(format!("'{name}' is there twice"));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Family {
    pattern: Pattern,
    spec: KeySpec,
}

/// A key with at most one place to fill.
#[derive(Debug)]
struct Pattern {
    before: &'static str,
    place: Option<Place>,
    after: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Anything,
    Number,
}

impl Pattern {
    fn of(name: &'static str) -> Self {
        if let Some(at) = name.find("NAME") {
            return Self { before: &name[..at], place: Some(Place::Anything), after: &name[at + 4..] };
        }
        if let Some(before) = name.strip_suffix(".N") {
            return Self { before: &name[..before.len() + 1], place: Some(Place::Number), after: "" };
        }
        match name.find(".N.") {
            Some(at) => Self { before: &name[..at + 1], place: Some(Place::Number), after: &name[at + 2..] },
            None => Self { before: name, place: None, after: "" },
        }
    }

    /// What fills the place when `key` matches.
    fn fill_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let fill = key.strip_prefix(self.before)?.strip_suffix(self.after)?;
        let fits = match self.place {
            None => fill.is_empty(),
            Some(Place::Anything) => !fill.is_empty(),
            Some(Place::Number) => !fill.is_empty() && fill.bytes().all(|b| b.is_ascii_digit()),
        };
        fits.then_some(fill)
    }

    /// The key with its place filled, if it has one.
    fn filled(&self, fill: &str) -> String {
        let fill = self.place.map_or("", |_| fill);
        format!("{}{fill}{}", self.before, self.after)
    }
}

const COLUMNS: [&str; 6] = ["key", "component", "type", "default", "where", "doc"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_loads_and_every_default_has_its_type() {
        let registry = Registry::read(include_str!("keys.csv")).expect("the table is readable");
        for spec in registry.iter() {
            assert!(!spec.doc.is_empty(), "{} is documented", spec.name);
            assert!(!spec.component.is_empty(), "{} has a reader", spec.name);
            let Some(default) = spec.default else { continue };
            if !default.contains("${") {
                assert_eq!(
                    spec.kind.normalize(default, false).as_deref(),
                    Ok(default),
                    "the default of {} is one of its values, in its own spelling",
                    spec.name
                );
            }
        }
    }

    #[test]
    fn the_table_is_sorted_and_its_names_are_keys() {
        let names: Vec<_> =
            csv::records(include_str!("keys.csv")).skip(1).map(|record| record.fields[0]).collect();
        assert!(names.is_sorted(), "rows are in the order of their keys");
        assert!(names.len() > 550, "only {} rows", names.len());
        for name in names {
            assert!(super::super::is_key(name), "{name}");
        }
    }

    #[test]
    fn old_names_lead_to_keys_that_exist() {
        let registry = registry();
        for (old, new) in &registry.renamed {
            let target = new.filled("0");
            assert!(registry.get(&target).is_some(), "{target} is a key");
            assert!(registry.get(&old.filled("0")).is_none(), "{} is not both", old.filled("0"));
        }
        assert_eq!(registry.ignored, ["path.ssl.certs"]);
    }

    #[test]
    fn aliases() {
        for (old, new) in [
            ("l7r.auth.mode", "l7r.auth.plugins"),
            ("path.ssl.ca.system", "path.ssl.ca.system.path"),
            ("auth.ldap.normalize.name", "auth.ldap.name.normalize"),
            ("client.auth_env.share.list.7", "client.auth_env_share.list.7"),
            ("client.user.pass", "client.user.password"),
            ("vm.network.ip.netmask", "vm.network.netmask"),
            ("l7r.options.SSL_version", "l7r.ssl.options.SSL_version"),
            ("l7r.options.SSL_cipher_list", "l7r.ssl.options.SSL_cipher_list"),
        ] {
            assert_eq!(registry().retired(old), Some(Retired::Renamed(new.to_owned())), "{old}");
        }
        assert_eq!(registry().retired("path.ssl.certs"), Some(Retired::Ignored));
        assert_eq!(registry().retired("path.ssl.ca.system.path"), None);
        assert_eq!(registry().retired("client.auth_env.share.list.x"), None);
    }

    #[test]
    fn families_are_open_where_they_should_be() {
        let name = |key| registry().get(key).map(|spec| spec.name);
        for (key, family) in [
            ("admin.ssh.opt.Port", "admin.ssh.opt.NAME"),
            ("client.mount.0.remote", "client.mount.N.remote"),
            ("client.mount.12.local", "client.mount.N.local"),
            ("client.share.0", "client.share.N"),
            ("client.auth_env_share.list.1", "client.auth_env_share.list.N"),
            ("client.ssl.options.SSL_x", "client.ssl.options.NAME"),
            ("command.kvm.args.extra", "command.NAME.args.extra"),
            ("hkd.process.limit.nofile", "hkd.process.limit.NAME"),
            ("hkd.process.limit.hard.nofile", "hkd.process.limit.hard.NAME"),
            ("log4perl.appender.A.layout", "log4perl.NAME"),
            ("vma.default.client.geometry", "vma.default.NAME"),
            ("vma.default.client.link", "vma.default.client.link"),
            ("path.cgroup.cpuset.lxc", "path.cgroup.cpuset.lxc"),
            ("img.workers", "img.NAME"),
        ] {
            assert_eq!(name(key), Some(family), "{key}");
        }
        for key in
            ["client.mount.x.remote", "client.mount..remote", "client.share.", "command.kvmm", "vma.default."]
        {
            assert_eq!(name(key), None, "{key}");
        }
    }

    #[test]
    fn broken_tables_are_refused_with_their_line() {
        let head = "key,component,type,default,where,doc\n";
        for (row, error) in [
            ("a,core,strnig,,file,doc\n", "line 2: 'strnig' is no type"),
            ("a,core,string,,disk,doc\n", "line 2: 'disk' is no place to set a key"),
            ("a,core,string,,file\n", "line 2: 5 fields instead of 6"),
            ("a,core,string,,file,d\na,core,string,,file,d\n", "line 3: 'a' is there twice"),
        ] {
            let text: &'static str = Box::leak(format!("{head}{row}").into_boxed_str());
            assert_eq!(Registry::read(text).map(|_| ()), Err(error.to_owned()));
        }
        assert!(Registry::read("key,type\n").is_err());
    }

    #[test]
    fn restart_is_needed_for_what_is_read_once() {
        for (key, expected) in [
            ("l7r.port", true),
            ("hkd.pid_file", true),
            ("vm.hypervisor", true),
            ("l7r.workers", true),
            ("auth.oidc.issuer", true),
            ("l7r.auth.plugins", true),
            ("l7r.limit.idle.timeout", false),
            ("internal.vm.port.ssh", false),
        ] {
            assert_eq!(registry().get(key).map(KeySpec::needs_restart), Some(expected), "{key}");
        }
    }
}
