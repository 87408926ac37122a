//! Homes: one directory per machine, created once and never deleted, truncated or replaced.
//!
//! The name that the database recorded wins; else a home found under either naming scheme of old; else a new one.
//! A recorded home that is not there is an error, most likely a storage that is not mounted: a second, empty home
//! would hide it for ever.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use qvd_core::{UserId, VmId};

/// Which home a machine uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomeChoice {
    /// One that is there.
    Existing(String),
    /// One that must be made.
    New(String),
}

/// Owner of a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeOwner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
}

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// The recorded home is gone.
    #[error("home '{name}' is not in '{}': mount the storage it is on, or clear the machine's storage", dir.display())]
    Missing {
        /// Recorded name.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// Two homes, and nothing says which.
    #[error("both '{one}' and '{other}' are in '{}': move the wrong one away", dir.display())]
    Ambiguous {
        /// First name.
        one: String,
        /// Second name.
        other: String,
        /// Where.
        dir: PathBuf,
    },
    /// The recorded name is not a plain file name.
    #[error("recorded home '{name}' is not a plain directory name")]
    BadName {
        /// Recorded name.
        name: String,
    },
    /// It belongs to somebody else.
    #[error(
        "home '{}' belongs to user {found}, not {expected}: change vm.process.uid.base back or chown -R it",
        path.display()
    )]
    ForeignOwner {
        /// The home.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The machine's account.
        expected: u32,
    },
    /// The system said no.
    #[error("cannot {operation} '{}'", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The lock file of a machine.
pub fn lock_path(dir: &Path, vm: VmId) -> PathBuf {
    dir.join(format!(".qvd-vm-{vm}.lock"))
}

/// The machine that a lock file belongs to, by its name.
pub fn vm_of_lock(file_name: &str) -> Option<VmId> {
    file_name.strip_prefix(".qvd-vm-")?.strip_suffix(".lock")?.parse().ok()
}

/// Decides which home a machine uses; looks, but changes nothing.
///
/// # Errors
///
/// [`HomeError`], except `ForeignOwner`.
pub fn choose(dir: &Path, vm: VmId, user: UserId, recorded: Option<&str>) -> Result<HomeChoice, HomeError> {
    if let Some(name) = recorded.filter(|name| !name.is_empty()) {
        if !is_plain_name(name) {
            return Err(HomeError::BadName { name: name.to_owned() });
        }
        return if is_there(dir, name)? {
            Ok(HomeChoice::Existing(name.to_owned()))
        } else {
            Err(HomeError::Missing { name: name.to_owned(), dir: dir.to_owned() })
        };
    }
    let usual = format!("{vm}-fs");
    let manual = format!("{vm}-{user}-homefs");
    match (is_there(dir, &usual)?, is_there(dir, &manual)?) {
        (true, true) => Err(HomeError::Ambiguous { one: usual, other: manual, dir: dir.to_owned() }),
        (true, false) => Ok(HomeChoice::Existing(usual)),
        (false, true) => Ok(HomeChoice::Existing(manual)),
        (false, false) => Ok(HomeChoice::New(usual)),
    }
}

/// Makes sure that the chosen home is there and belongs to `owner`.
///
/// The caller holds the machine's lock. `fill` may put something into a new home, which appears under its name
/// complete or not at all.
///
/// # Errors
///
/// [`HomeError::ForeignOwner`] and [`HomeError::Io`].
pub fn ensure(
    dir: &Path,
    choice: &HomeChoice,
    owner: HomeOwner,
    fill: impl FnOnce(&Path) -> Result<(), HomeError>,
) -> Result<PathBuf, HomeError> {
    match choice {
        HomeChoice::Existing(name) => {
            let path = dir.join(name);
            let found = fs::metadata(&path).map_err(io_error("look at", &path))?.uid();
            if found == owner.uid {
                Ok(path)
            } else {
                Err(HomeError::ForeignOwner { path, found, expected: owner.uid })
            }
        }
        HomeChoice::New(name) => {
            let path = dir.join(name);
            let fresh = dir.join(format!(".new-{name}"));
            match fs::remove_dir_all(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove the half-made", &fresh)(error));
                }
                _ => {}
            }
            DirBuilder::new().mode(0o700).create(&fresh).map_err(io_error("create", &fresh))?;
            fill(&fresh)?;
            give_to(&fresh, owner)?;
            fs::rename(&fresh, &path).map_err(io_error("rename to", &path))?;
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))?;
            Ok(path)
        }
    }
}

/// Copies a tree (plain files, directories and symbolic links) into a home that is being made.
///
/// # Errors
///
/// [`HomeError::Io`].
pub fn copy_skeleton(from: &Path, to: &Path, owner: HomeOwner) -> Result<(), HomeError> {
    let kind = fs::symlink_metadata(from).map_err(io_error("read the skeleton", from))?;
    if kind.is_dir() {
        DirBuilder::new().mode(kind.mode() & 0o777).create(to).map_err(io_error("create", to))?;
        for entry in fs::read_dir(from).map_err(io_error("read the skeleton", from))? {
            let entry = entry.map_err(io_error("read the skeleton", from))?;
            copy_skeleton(&entry.path(), &to.join(entry.file_name()), owner)?;
        }
    } else if kind.is_symlink() {
        let target = fs::read_link(from).map_err(io_error("read the skeleton", from))?;
        symlink(target, to).map_err(io_error("create", to))?;
    } else if kind.is_file() {
        fs::copy(from, to).map_err(io_error("copy the skeleton to", to))?;
    }
    give_to(to, owner)
}

fn give_to(path: &Path, owner: HomeOwner) -> Result<(), HomeError> {
    let Ok(here) = fs::symlink_metadata(path) else { return Ok(()) };
    if (here.uid(), here.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    lchown(path, Some(owner.uid), Some(owner.gid)).map_err(io_error("give away", path))
}

fn is_there(dir: &Path, name: &str) -> Result<bool, HomeError> {
    let path = dir.join(name);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(io_error("use as home", &path)(io::Error::from(io::ErrorKind::NotADirectory))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("look at", &path)(error)),
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.contains('/') && !name.contains('\0') && !name.starts_with('.')
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId::new(7);
    const USER: UserId = UserId::new(3);

    fn me() -> HomeOwner {
        HomeOwner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    #[test]
    fn a_home_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let choice = choose(dir.path(), VM, USER, None).unwrap();
        assert_eq!(choice, HomeChoice::New("7-fs".into()));
        let home = ensure(dir.path(), &choice, me(), |_| Ok(())).unwrap();
        fs::write(home.join("letter"), "dear").unwrap();
        let again = choose(dir.path(), VM, USER, None).unwrap();
        assert_eq!(again, HomeChoice::Existing("7-fs".into()));
        assert_eq!(ensure(dir.path(), &again, me(), |_| Ok(())).unwrap(), home);
        assert_eq!(fs::read(home.join("letter")).unwrap(), b"dear");
    }

    #[test]
    fn the_recorded_name_wins_and_its_loss_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("7-fs")).unwrap();
        fs::create_dir(dir.path().join("old")).unwrap();
        assert_eq!(choose(dir.path(), VM, USER, Some("old")).unwrap(), HomeChoice::Existing("old".into()));
        assert!(matches!(choose(dir.path(), VM, USER, Some("lost")), Err(HomeError::Missing { .. })));
        assert_eq!(choose(dir.path(), VM, USER, Some("")).unwrap(), HomeChoice::Existing("7-fs".into()));
        for bad in ["..", "a/b", "/etc", ".hidden"] {
            assert!(
                matches!(choose(dir.path(), VM, USER, Some(bad)), Err(HomeError::BadName { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn homes_of_both_schemes_are_found_and_two_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("7-3-homefs")).unwrap();
        assert_eq!(choose(dir.path(), VM, USER, None).unwrap(), HomeChoice::Existing("7-3-homefs".into()));
        fs::create_dir(dir.path().join("7-fs")).unwrap();
        assert!(matches!(choose(dir.path(), VM, USER, None), Err(HomeError::Ambiguous { .. })));
    }

    #[test]
    fn a_home_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("7-fs")).unwrap();
        let stranger = HomeOwner { uid: me().uid + 1, gid: me().gid };
        let refused = ensure(dir.path(), &HomeChoice::Existing("7-fs".into()), stranger, |_| Ok(()));
        assert!(matches!(refused, Err(HomeError::ForeignOwner { .. })));
    }

    #[test]
    fn a_new_home_begins_with_the_skeleton_or_does_not_begin() {
        let dir = tempfile::tempdir().unwrap();
        let skeleton = dir.path().join("skel");
        fs::create_dir_all(skeleton.join(".config/x")).unwrap();
        fs::write(skeleton.join(".config/x/rc"), "on").unwrap();
        symlink("rc", skeleton.join(".config/x/link")).unwrap();
        let choice = choose(dir.path(), VM, USER, None).unwrap();
        let failed = ensure(dir.path(), &choice, me(), |fresh| {
            copy_skeleton(&dir.path().join("absent"), &fresh.join("ann"), me())
        });
        assert!(failed.is_err());
        assert_eq!(choose(dir.path(), VM, USER, None).unwrap(), choice, "a half-made home is not a home");
        let home =
            ensure(dir.path(), &choice, me(), |fresh| copy_skeleton(&skeleton, &fresh.join("ann"), me()))
                .unwrap();
        assert_eq!(fs::read(home.join("ann/.config/x/link")).unwrap(), b"on");
    }

    #[test]
    fn a_file_or_link_is_no_home() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("7-fs")).unwrap();
        assert!(matches!(choose(dir.path(), VM, USER, None), Err(HomeError::Io { .. })));
    }

    #[test]
    fn lock_files_are_named_for_their_machine() {
        let path = lock_path(Path::new("/h"), VM);
        assert_eq!(path, Path::new("/h/.qvd-vm-7.lock"));
        assert_eq!(vm_of_lock(path.file_name().unwrap().to_str().unwrap()), Some(VM));
        assert_eq!(vm_of_lock("7-fs"), None);
    }
}
