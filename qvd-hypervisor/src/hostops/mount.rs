//! Mounts of the calling process's own mount namespace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// A tree of mounts taken out of the name space, to be attached again at a place of its own: what lies there
/// stays reachable even after something else was mounted above it.
#[derive(Debug)]
pub struct DetachedMount(OwnedFd);

impl DetachedMount {
    /// Takes what is at `path` (a directory with everything mounted below, or a file).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = c_path(path)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
        // SAFETY: `path` is a NUL-terminated string that lives over the call; the rest are integers.
        let raw = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        let raw = Errno::result(raw)?;
        // SAFETY: the kernel just made this descriptor for us and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw as i32) }))
    }

    /// Forbids writing through it.
    ///
    /// # Errors
    ///
    /// The kernel's; `ENOSYS` before Linux 5.12.
    pub fn set_read_only(&self) -> io::Result<()> {
        set_read_only(self.0.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
    }

    /// Attaches it at `target`, which must exist and be of the same kind.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn attach(self, target: &Path) -> io::Result<()> {
        let target = c_path(target)?;
        // SAFETY: both strings are NUL-terminated and live over the call; the descriptor is ours; the rest are
        // integers.
        let raw = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(raw)?;
        Ok(())
    }
}

/// Cuts all mounts off from the namespace they were copied from: nothing spreads in either direction.
///
/// # Errors
///
/// The kernel's.
pub fn make_private() -> io::Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// Forbids writing to everything that is mounted, in one call.
///
/// # Errors
///
/// The kernel's; `ENOSYS` before Linux 5.12.
pub fn set_tree_read_only() -> io::Result<()> {
    set_read_only(libc::AT_FDCWD, c"/", 0)
}

/// Mounts an empty, private tmpfs of at most `size` bytes.
///
/// # Errors
///
/// The kernel's.
pub fn mount_tmpfs(target: &Path, mode: u32, size: u64) -> io::Result<()> {
    let options = format!("mode={mode:o},size={size}");
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Mounts an empty tmpfs over `target` that nobody can write to.
///
/// # Errors
///
/// The kernel's.
pub fn cover(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some("mode=555,size=4k"))?;
    Ok(())
}

/// Mounts a set of pseudo terminals of its own: those of the host are not in it.
///
/// # Errors
///
/// The kernel's.
pub fn mount_terminals(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), target, Some("devpts"), flags, Some("newinstance,ptmxmode=0666,mode=0620"))?;
    Ok(())
}

/// Mounts the `/proc` of the calling process's pid namespace.
///
/// # Errors
///
/// The kernel's.
pub fn mount_proc() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    Ok(())
}

fn set_read_only(dir: i32, path: &std::ffi::CStr, flags: i32) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: `path` is NUL-terminated and `attributes` is a live value of exactly the size that is passed; the
    // kernel only reads both.
    let raw = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags | libc::AT_RECURSIVE,
            &attributes as *const libc::mount_attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(raw)?;
    Ok(())
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
