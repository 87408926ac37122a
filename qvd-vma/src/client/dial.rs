//! Connecting to a socket in a place that its owner may have laid out to lead a caller astray.
//!
//! A virtual machine may write where its desktop's socket is, and callers have rights that it has not. So no link
//! is followed, what is connected to is the very file that was looked at, and whoever listens there must be the
//! owner of the directory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use tokio::net::UnixStream;

/// Connects to the socket `name`, a path below `dir`, however long the path of the directory is.
///
/// `dir` itself is trusted, nothing below it: neither `name` nor any directory on the way to it may be a symbolic
/// link, and the socket must have been bound by the account that owns the directory it is in.
///
/// # Errors
///
/// `PermissionDenied` when somebody else listens there; `ELOOP`, `ENOTDIR` or `InvalidInput` for what is no plain
/// socket below plain directories; else those of opening and of connecting.
///
/// # Cancellation
///
/// The connection is given up.
pub async fn dial_unix(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let Spot { socket, owner } = look(dir, name)?;
    // Through the descriptor: the name may lead elsewhere by now, and may be longer than an address holds.
    let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await?;
    let peer = stream.peer_cred()?.uid();
    if peer != owner {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("'{}' is served by user {peer}, not by its owner {owner}", dir.join(name).display()),
        ));
    }
    Ok(stream)
}

/// A socket that was looked at, and who must be listening on it.
struct Spot {
    socket: OwnedFd,
    owner: u32,
}

fn look(dir: &Path, name: &str) -> io::Result<Spot> {
    let plain = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let (way, last) = name.rsplit_once('/').map_or((None, name), |(way, last)| (Some(way), last));
    let mut within = open(dir, plain | OFlag::O_DIRECTORY, Mode::empty())?;
    for step in way.into_iter().flat_map(|way| way.split('/')) {
        within = openat(&within, step, plain | OFlag::O_DIRECTORY, Mode::empty())?;
    }
    let socket = openat(&within, last, plain, Mode::empty())?;
    if kind(&socket)? != SFlag::S_IFSOCK {
        let problem = format!("'{}' is not a socket", dir.join(name).display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(Spot { owner: fstat(&within)?.st_uid, socket })
}

fn kind(file: impl AsFd) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(file)?.st_mode & SFlag::S_IFMT.bits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixListener;

    fn place() -> (tempfile::TempDir, UnixListener) {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("own/guest")).unwrap();
        fs::create_dir_all(top.path().join("other/guest")).unwrap();
        let other = UnixListener::bind(top.path().join("other/guest/s")).unwrap();
        other.set_nonblocking(true).unwrap();
        (top, other)
    }

    #[tokio::test]
    async fn a_socket_is_reached_at_any_depth() {
        let (top, other) = place();
        dial_unix(&top.path().join("other"), "guest/s").await.unwrap();
        other.accept().unwrap();
        dial_unix(&top.path().join("other/guest"), "s").await.unwrap();
        other.accept().unwrap();
        let missing = dial_unix(&top.path().join("own"), "guest/s").await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_planted_link_leads_nowhere() {
        let (top, other) = place();
        let own = top.path().join("own");
        symlink(top.path().join("other/guest/s"), own.join("guest/s")).unwrap();
        assert!(dial_unix(&own, "guest/s").await.is_err(), "the socket is a link");
        fs::remove_dir_all(own.join("guest")).unwrap();
        symlink(top.path().join("other/guest"), own.join("guest")).unwrap();
        assert!(dial_unix(&own, "guest/s").await.is_err(), "its directory is a link");
        fs::remove_dir_all(&own).unwrap();
        symlink(top.path().join("other"), &own).unwrap();
        assert!(dial_unix(&own, "guest/s").await.is_err(), "the machine's directory is a link");
        assert_eq!(other.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody was called");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_called() {
        let (top, _other) = place();
        fs::write(top.path().join("own/guest/s"), "").unwrap();
        let refused = dial_unix(&top.path().join("own"), "guest/s").await.unwrap_err();
        assert!(refused.to_string().ends_with("is not a socket"), "{refused}");
    }

    #[tokio::test]
    async fn a_stranger_who_listens_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return; // Only root can give the directory to somebody who does not listen there.
        }
        let (top, _other) = place();
        chown(top.path().join("other/guest"), Some(65_533), None).unwrap();
        let refused = dial_unix(&top.path().join("other"), "guest/s").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("user 0, not by its owner 65533"), "{refused}");
    }
}
