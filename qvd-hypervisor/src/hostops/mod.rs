//! The one seam for privileged calls and for what the kernel knows about processes.
//!
//! [`HostOps`] is what the drivers ask about a host; [`SystemHost`] asks the kernel and [`FakeHost`] a script,
//! so that a machine that cannot be killed can be tested. The rest are thin, typed forms of single calls,
//! used by the holder. This is the only module of the project with `unsafe` in it; each block says why it is sound.

#![allow(unsafe_code)]

mod cgroup;
mod fake;
mod files;
mod fork;
mod host;
mod lock;
mod mount;
mod nfs;
mod process;
mod watch;

pub use cgroup::{CgroupLimits, CgroupPlace, VmCgroups};
pub use fake::FakeHost;
pub use files::write_atomically;
pub(crate) use fork::close_inherited;
pub use fork::{
    Fork, Namespaces, adopt_orphans, die_with_parent, forbid_new_privileges, fork, spawn_init,
    unblock_signals_in,
};
pub use host::{HostOps, LockState, SystemHost};
pub use lock::{LockContent, LockOutcome, VmLock};
pub use mount::{
    DetachedMount, cover, make_private, mount_proc, mount_terminals, mount_tmpfs, set_tree_read_only,
};
pub use nfs::unsafe_lock_options;
pub use process::{Custody, Life, PidFd, ProcessId, boot_id, descendants};
pub use watch::readable;
