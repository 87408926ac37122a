//! The small process that owns a machine's lock and outlives its launcher.
//!
//! ```text
//! qvd-hkd ── spawns ──► qvd-hkd holder run DIR NONCE      (a)  ends as soon as the outcome is known
//!                        └─ fork, setsid, fork ─► holder   (b)  own session; cgroup monitor; VM lock
//!                                                  └─ clone ─► init   (c)  pid 1 of the machine; cgroup payload
//!                                                              └─ spawn ─► qvd-vma   (d)  the session's account
//!                                                                           ├─ nxagent
//!                                                                           └─ the desktop …
//! ```
//!
//! | process | holds | ends |
//! |---|---|---|
//! | (a) courier | its parent's pipe | once (b) has said how it went |
//! | (b) holder | the lock; a copy of nothing of its parent | after it has reaped (c), having written `exit` |
//! | (c) init | a copy of the lock's descriptor, for its holder's sudden death | with (d), or by SIGKILL; the kernel lets it go only when its namespace is empty |
//! | (d) agent | the listening socket `vma.sock`, as its standard input | politely on SIGTERM |
//!
//! If (b) dies first the kernel kills (c), and with (c) everything in its namespace. The copy in (c) covers the time
//! until then, and without namespaces the time in which (c) ends its descendants; it does not cover a namespace
//! that empties slowly, because a dying (c) closes its files first. What then still lives is known by `run.json`:
//! the next holder refuses to follow it.
//!
//! What the machine sees is made by (c) before it starts (d): the host read-only, `/tmp`, `/run` and `/dev/shm`
//! empty and its own, `/proc` of its own processes, terminals of its own, nothing in the directories where its site
//! keeps run-time state, homes and database, its home on `/home` (with the agent's logs in `.qvd-log`), and [`GUEST_RUN`], [`GUEST_BIN`] and
//! [`GUEST_HOST`] below `/run`.
//!
//! Files in the machine's directory `path.run/vms/<id>`, which only the launcher's account can change:
//!
//! | file | says | written by |
//! |---|---|---|
//! | `launch-<nonce>.json` | the order; taken away by the holder that obeys it | driver |
//! | `run.json` | what runs here: [`RunRecord`] | holder, before init starts the agent |
//! | `exit` | how it ended: [`ExitRecord`] | holder, last of all |
//! | `holder.log` | what the holder and init printed | both |
//! | `console.log` | the latest of what the agent printed; bounded | holder |
//! | `vma.sock` | where calls of the agent come in, for this account and the router's group | holder |
//! | `guest/` | the machine's `/run/qvd`, owned by its account; the desktop's `nx.sock` is in it, no log | agent |
//!
//! Nothing here may start a thread: namespaces and forks need a single one.

mod accounts;
mod console;
mod courier;
mod init;
mod launch;
mod place;
mod probe;
mod records;
mod view;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use accounts::safe_name;
pub use probe::{ProbeReport, ProbeStep};
pub use records::{
    AGENT_LOGS, Account, CONSOLE_LOG, EXIT_RECORD, ExitRecord, GUEST_DIR, HOLDER_LOG, Isolation, Order,
    RUN_RECORD, Report, RunRecord, launch_file_name,
};
pub(crate) use records::{read as read_record, write as write_record};

/// The machine's run directory as the machine sees it.
pub const GUEST_RUN: &str = "/run/qvd";

/// The directory of the agent's program as the machine sees it.
pub const GUEST_BIN: &str = "/run/qvd-bin";

/// Below it, each exposed directory of the host under its full path.
pub const GUEST_HOST: &str = "/run/qvd-host";

/// Where the machine sees its home.
pub const GUEST_HOME: &str = "/home";

/// What a program calls, first of all, when its first argument is `holder`; `args` are the words after it.
///
/// Must be called before any thread exists. Words: `run DIR NONCE` obeys the order file in a machine's directory;
/// `probe DIR` tries in an empty directory what this system allows and prints a [`ProbeReport`].
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Whoever started the daemon may have blocked signals, and every program below would inherit that: nxagent then
    // waits for ever for a child that it cannot terminate.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let args: Vec<OsString> = args.into_iter().collect();
    let words: Vec<&str> = args.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    match words.as_slice() {
        ["run", _, nonce] => launch::main(Path::new(&args[1]), nonce),
        ["probe", _] => probe::main(PathBuf::from(&args[1])),
        _ => {
            eprintln!(
                "usage: holder run DIR NONCE | holder probe DIR (started by the process driver, not by hand)"
            );
            ExitCode::from(2)
        }
    }
}
