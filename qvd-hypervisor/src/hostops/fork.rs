//! Making processes the way only a holder may: from a single thread, with namespaces of their own.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The caller, with the child's number.
    Parent(Pid),
    /// The new process.
    Child,
}

/// What a new process does not share with its maker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// Own pid, mount, ipc and uts namespaces; without them it is an ordinary child.
    pub own: bool,
    /// An own network namespace besides.
    pub net: bool,
    /// A user namespace besides: what an account other than root needs to be allowed the rest.
    pub user: bool,
}

/// Forks the calling process.
///
/// # Errors
///
/// `EDEADLK` when the caller has more than one thread; else the kernel's.
pub fn fork() -> io::Result<Fork> {
    require_single_thread()?;
    // SAFETY: the only thread forks, so no lock of another thread can be left taken in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Starts `init` in a new process, the first of its namespaces; it ends with the returned status.
///
/// The new process gets a copy of the caller's memory and descriptors, as with [`fork()`].
///
/// # Errors
///
/// `EDEADLK` when the caller has more than one thread; `EPERM` or `ENOSPC` when the system does not allow such
/// namespaces; else the kernel's.
pub fn spawn_init(namespaces: Namespaces, mut init: impl FnMut() -> u8) -> io::Result<Pid> {
    require_single_thread()?;
    let mut flags = CloneFlags::empty();
    if namespaces.own {
        flags |= CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
    }
    if namespaces.net {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    if namespaces.user {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    let mut stack = vec![0_u8; INIT_STACK];
    let entry = Box::new(|| isize::from(init()));
    // SAFETY: the only thread clones, and without CLONE_VM: the child works on its own copy of this memory, the
    // stack included, so nothing it does is seen here, and `stack` and `init` outlive it in that copy because the
    // callback never returns into this function.
    let pid = unsafe { nix::sched::clone(entry, &mut stack, flags, Some(libc::SIGCHLD)) }?;
    Ok(pid)
}

/// Asks for a signal when the parent process ends.
///
/// The caller must look afterwards whether the parent was still there.
///
/// # Errors
///
/// The kernel's.
pub fn die_with_parent(signal: Signal) -> io::Result<()> {
    Ok(prctl::set_pdeathsig(signal)?)
}

/// Orphans among the descendants become children of the caller.
///
/// # Errors
///
/// The kernel's.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// No program started from now on gains rights by being set-user-id.
///
/// # Errors
///
/// The kernel's.
pub fn forbid_new_privileges() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

/// Lets a program start with no signal blocked, whatever its maker has blocked for itself.
pub fn unblock_signals_in(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes one system call on a set on its own stack; it allocates
    // nothing and takes no lock.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) }
}

/// Closes every descriptor but the first three: what a careless ancestor left open is not ours to keep.
///
/// # Errors
///
/// The kernel's.
///
/// Not public: [`holder::main`](crate::holder::main) alone calls it, first of all, while no value of the program
/// owns a descriptor above 2.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: integers only. Both callers in `holder` do this before they open anything, so that none is closed
    // under a living owner; no other crate can call it.
    let raw = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    match Errno::result(raw) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn require_single_thread() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => Err(Errno::EDEADLK.into()),
    }
}

/// Enough for mounts, JSON and one spawn.
const INIT_STACK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness itself has more than one thread.
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(2));
        let other = {
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                barrier.wait();
            })
        };
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EDEADLK));
        assert!(spawn_init(Namespaces { own: false, net: false, user: false }, || 0).is_err());
        barrier.wait();
        other.join().unwrap();
    }
}
