//! What the process itself is: its account, its umask, its room for connections, the sockets that it was given.

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use listenfd::ListenFd;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setuid};
use qvd_bin_common::Failure;
use qvd_core::ErrorKind;
use qvd_core::config::{Config, Source};

/// The account that the router becomes once it listens.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// What `l7r.as_user` means for this process; none when it stays what it is.
    ///
    /// Only root can become somebody else. Others may start a router, too: a site of an ordinary user needs no root, and
    /// what they did not set is not asked of them. Nor is it of root on a machine without the account that the default
    /// names; the log says so then.
    ///
    /// # Errors
    ///
    /// An account that somebody set and that there is not, or that this process cannot become.
    pub(crate) fn wanted(config: &Config) -> Result<Option<Self>, Failure> {
        let name = config.text(KEY);
        let is_set = !matches!(config.source(KEY), None | Some(Source::Default));
        let me = geteuid();
        let found = match name.as_str() {
            "" => None,
            name => User::from_name(name).map_err(|e| {
                Failure::new(ErrorKind::Unavailable, format!("cannot look up '{name}' ({KEY})")).because(e)
            })?,
        };
        match found {
            Some(user) if user.uid == me => Ok(None),
            Some(user) if me.is_root() => Ok(Some(Self { name, uid: user.uid, gid: user.gid })),
            None if is_set && !name.is_empty() => {
                let text = format!(
                    "'{KEY}' is '{name}', and there is no such account; make it ('adduser --system --group {name}') or \
                     set '{KEY}' to one that there is"
                );
                Err(Failure::new(ErrorKind::Invalid, text))
            }
            Some(_) if is_set => {
                let text = format!(
                    "'{KEY}' is '{name}', and this process belongs to user {me}, who cannot become it: start it as \
                     root or as that account, or remove the key"
                );
                Err(Failure::new(ErrorKind::Invalid, text))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Gives the account a directory that is there, for itself alone.
    pub(crate) fn own(&self, dir: &Path) -> Result<(), Failure> {
        let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
        let owned = File::options().read(true).custom_flags(flags).open(dir).and_then(|dir| {
            fchown(&dir, Some(self.uid.as_raw()), Some(self.gid.as_raw()))?;
            dir.set_permissions(Permissions::from_mode(0o700))
        });
        owned.map_err(|e| {
            let text = format!("cannot give '{}' to '{}' ({KEY})", dir.display(), self.name);
            Failure::new(ErrorKind::Unavailable, text).because(e)
        })
    }

    /// Becomes the account, for good.
    pub(crate) fn become_it(&self) -> Result<(), Failure> {
        let become_it = || {
            let name = CString::new(self.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
            // The user last: nobody else may change groups.
            initgroups(&name, self.gid)?;
            setgid(self.gid)?;
            setuid(self.uid)
        };
        become_it().map_err(|e| {
            Failure::new(ErrorKind::Internal, format!("cannot become '{}' ({KEY})", self.name)).because(e)
        })?;
        tracing::info!(account = self.name, "the router runs as an account of its own");
        Ok(())
    }

    /// The same failure, with a word on who met it.
    pub(crate) fn blame(&self, failure: Failure) -> Failure {
        Failure::new(failure.kind(), format!("as account '{}' ({KEY})", self.name)).because(failure)
    }
}

/// Warns of a router that keeps root's rights.
pub(crate) fn warn_of_root() {
    if geteuid().is_root() {
        tracing::warn!(
            "the router runs as root, which it has no need of; set '{KEY}' to an account that there is, or start it as \
             one"
        );
    }
}

/// Takes the umask from the configuration.
pub(crate) fn apply_umask(config: &Config) {
    umask(Mode::from_bits_truncate(config.octal("l7r.user.umask")));
}

/// Takes all descriptors that this process may have, and warns when they do not do for `l7r.limit.connections`.
pub(crate) fn make_room(config: &Config) {
    let limits = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    let connections = u64::try_from(config.integer("l7r.limit.connections")).unwrap_or(0);
    // A client and a desktop each, and what the process itself has open.
    let wanted = connections.saturating_mul(2).saturating_add(100);
    match limits {
        Ok(has) if has < wanted => tracing::warn!(
            has,
            wanted,
            "too few file descriptors for l7r.limit.connections; raise the service's limit (LimitNOFILE)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "limit of file descriptors unknown"),
    }
}

/// Sockets that the service manager opened (`LISTEN_FDS`); none when it opened none.
///
/// To be called before there are threads: it takes the variables out of the environment, so that no child sees them.
///
/// # Errors
///
/// A descriptor that is no TCP socket.
pub(crate) fn given_sockets() -> Result<Vec<TcpListener>, Failure> {
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..given.len() {
        let socket = given.take_tcp_listener(at).map_err(|e| {
            let text =
                format!("cannot use socket {at} of the service manager (ListenStream= of TCP is wanted)");
            Failure::new(ErrorKind::Invalid, text).because(e)
        })?;
        sockets.extend(socket);
    }
    Ok(sockets)
}

const KEY: &str = "l7r.as_user";

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(value: Option<&str>) -> Result<Option<Account>, Failure> {
        let builder = Config::builder();
        let config = match value {
            Some(value) => builder.set(KEY, value),
            None => builder,
        };
        Account::wanted(&config.build().unwrap())
    }

    #[test]
    fn an_account_that_was_set_must_be_there() {
        let refused = wanted(Some("nobody-of-this-name")).unwrap_err().to_string();
        assert!(refused.contains("'l7r.as_user'") && refused.contains("adduser"), "{refused}");
        assert!(wanted(None).is_ok(), "the default is asked of nobody");
        assert!(wanted(Some("")).unwrap().is_none());
        let me = User::from_uid(geteuid()).unwrap().unwrap();
        assert!(wanted(Some(&me.name)).unwrap().is_none(), "nothing to become");
    }

    #[test]
    fn root_becomes_another_and_others_do_not() {
        match wanted(Some("daemon")) {
            Ok(account) => {
                let account = account.unwrap();
                assert!(geteuid().is_root() && !account.uid.is_root());
            }
            Err(refused) => {
                assert!(!geteuid().is_root(), "{refused}");
                assert!(refused.to_string().contains("cannot become it"), "{refused}");
            }
        }
    }
}
