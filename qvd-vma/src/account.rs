//! Whose desktop it is: the account that the session properties ask for, checked. The look-up of existing
//! accounts is the only IO here.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};

use crate::xsession::options::property;

/// Defaults for what the properties leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountDefaults {
    /// Login name.
    pub name: String,
    /// Supplementary groups, separated by commas.
    pub groups: String,
    /// Directory that holds home directories.
    pub homes: PathBuf,
}

/// The account that a session is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedAccount {
    /// Login name.
    pub name: String,
    /// User id, when it must be a certain one.
    pub uid: Option<u32>,
    /// Group id, when it must be a certain one.
    pub gid: Option<u32>,
    /// Primary group.
    pub group: String,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Home directory.
    pub home: PathBuf,
    /// The configuration itself names this account, so that it may be the administrator's.
    pub is_default: bool,
}

/// An account that may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableAccount {
    /// A property would not survive as a name, number or path.
    #[error("invalid characters in parameter {0}")]
    Invalid(&'static str),
    /// The administrator's account may only be used when the configuration says so.
    #[error("sessions as user '{0}' are not allowed")]
    Administrator(String),
}

impl WantedAccount {
    /// Reads the account out of the session properties.
    ///
    /// # Errors
    ///
    /// [`UnusableAccount::Invalid`] for names, numbers and paths that are none.
    pub fn from_properties(
        properties: &[(String, String)],
        defaults: &AccountDefaults,
    ) -> Result<Self, UnusableAccount> {
        let given = |name| property(properties, name).filter(|value| !value.is_empty());
        let number = |name: &'static str| match given(name).map(str::parse::<u32>) {
            None => Ok(None),
            Some(Ok(number)) if number != 0 => Ok(Some(number)),
            Some(_) => Err(UnusableAccount::Invalid(name)),
        };
        let name = given(USER_NAME).unwrap_or(&defaults.name);
        if !is_account_name(name) {
            return Err(UnusableAccount::Invalid(USER_NAME));
        }
        let group = given("qvd.vm.user.group").unwrap_or(name);
        if !is_account_name(group) {
            return Err(UnusableAccount::Invalid("qvd.vm.user.group"));
        }
        let groups = property(properties, USER_GROUPS).unwrap_or(&defaults.groups);
        let groups: Vec<String> = groups
            .split(',')
            .map(|group| group.split_whitespace().collect::<String>())
            .filter(|group| !group.is_empty())
            .collect();
        if !groups.iter().all(|group| is_account_name(group)) {
            return Err(UnusableAccount::Invalid(USER_GROUPS));
        }
        let home = match given(USER_HOME) {
            Some(home) => PathBuf::from(home),
            None => defaults.homes.join(name),
        };
        if !is_plain_path(&home) {
            return Err(UnusableAccount::Invalid(USER_HOME));
        }
        Ok(Self {
            name: name.to_owned(),
            uid: number("qvd.vm.user.uid")?,
            gid: number("qvd.vm.user.gid")?,
            group: group.to_owned(),
            groups,
            home,
            is_default: name == defaults.name,
        })
    }

    /// The properties with what was left out of them filled in: what hooks are told.
    pub fn filled_in(&self, properties: &[(String, String)]) -> Vec<(String, String)> {
        let own = [
            (USER_NAME, self.name.clone()),
            (USER_GROUPS, self.groups.join(",")),
            (USER_HOME, self.home.display().to_string()),
        ];
        let mut all: Vec<_> =
            properties.iter().filter(|(name, _)| !own.iter().any(|(own, _)| own == name)).cloned().collect();
        all.extend(own.map(|(name, value)| (name.to_owned(), value)));
        all
    }
}

/// An account that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: Uid,
    /// Primary group id.
    pub gid: Gid,
    /// Home directory of the session.
    pub home: PathBuf,
}

impl Account {
    /// The account if it exists. Without root rights there is only one that a session can have: our own.
    ///
    /// # Errors
    ///
    /// When the account database cannot be read, or the account may not be used.
    pub fn find(wanted: &WantedAccount) -> io::Result<Option<Self>> {
        let own = Uid::effective();
        if !own.is_root() {
            let name = User::from_uid(own)?.map_or_else(|| wanted.name.clone(), |user| user.name);
            return Ok(Some(Self { name, uid: own, gid: Gid::effective(), home: wanted.home.clone() }));
        }
        let Some(user) = User::from_name(&wanted.name)? else { return Ok(None) };
        if user.uid.is_root() && !wanted.is_default {
            return Err(io::Error::other(UnusableAccount::Administrator(user.name)));
        }
        Ok(Some(Self { name: user.name, uid: user.uid, gid: user.gid, home: wanted.home.clone() }))
    }

    /// Whether it is the account that this process has already.
    pub fn is_own(&self) -> bool {
        self.uid == Uid::effective()
    }
}

const USER_NAME: &str = "qvd.vm.user.name";
const USER_GROUPS: &str = "qvd.vm.user.groups";
const USER_HOME: &str = "qvd.vm.user.home";

fn is_account_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b))
}

/// Absolute, without detours, and without what account files use as separators.
fn is_plain_path(path: &Path) -> bool {
    use std::path::Component;
    let text = path.to_string_lossy();
    path.is_absolute()
        && !text.contains([':', ',', '\n', '\r', '\0'])
        && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> AccountDefaults {
        AccountDefaults { name: "qvd".into(), groups: "audio, video".into(), homes: "/home".into() }
    }

    fn wanted(pairs: &[(&str, &str)]) -> Result<WantedAccount, UnusableAccount> {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        WantedAccount::from_properties(&pairs, &defaults())
    }

    #[test]
    fn defaults_fill_what_is_absent() {
        let account = wanted(&[]).unwrap();
        assert_eq!((account.name.as_str(), account.group.as_str()), ("qvd", "qvd"));
        assert_eq!(account.home, Path::new("/home/qvd"));
        assert_eq!(account.groups, ["audio", "video"]);
        assert!(account.is_default);
        assert!(wanted(&[("qvd.vm.user.groups", "")]).unwrap().groups.is_empty());
    }

    #[test]
    fn properties_win() {
        let account = wanted(&[
            ("qvd.vm.user.name", "ana@corp"),
            ("qvd.vm.user.uid", "1234"),
            ("qvd.vm.user.home", "/srv/ana"),
        ])
        .unwrap();
        assert_eq!((account.uid, account.home.as_path()), (Some(1234), Path::new("/srv/ana")));
        assert!(!account.is_default);
        let told = account.filled_in(&[("a".into(), "1".into()), ("qvd.vm.user.name".into(), "x".into())]);
        let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "qvd.vm.user.name", "qvd.vm.user.groups", "qvd.vm.user.home"]);
        assert_eq!(told[1].1, "ana@corp");
    }

    #[test]
    fn what_would_harm_a_command_line_is_refused() {
        for (name, value) in [
            ("qvd.vm.user.name", "-o"),
            ("qvd.vm.user.name", ".."),
            ("qvd.vm.user.name", "a b"),
            ("qvd.vm.user.name", "a/b"),
            ("qvd.vm.user.uid", "0"),
            ("qvd.vm.user.uid", "x"),
            ("qvd.vm.user.group", "a:b"),
            ("qvd.vm.user.groups", "a,-b"),
            ("qvd.vm.user.home", "relative"),
            ("qvd.vm.user.home", "/home/../etc"),
            ("qvd.vm.user.home", "/home/a:b"),
        ] {
            assert_eq!(
                wanted(&[(name, value)]).unwrap_err().to_string(),
                format!("invalid characters in parameter {name}"),
                "{value}"
            );
        }
    }
}
