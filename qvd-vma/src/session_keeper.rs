//! The parent of all that a desktop starts.
//!
//! Programs leave their process group and their parent: key agents, message buses, whatever a panel launches.
//! The keeper adopts them all, so that none outlives the session: when the desktop's own program has ended, or
//! when whoever started the keeper closes its standard input, which its sudden death does too, all are ended.
//! It runs as the session's user and holds no rights.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process_tree::descendants;

/// Runs `command` until it ends or standard input does, then ends all that is left of it. The result is the
/// program's exit status, that of a shell when a signal ended it.
pub(crate) fn run(command: &mut Command) -> io::Result<u8> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let leader = Pid::from_raw(command.stdin(Stdio::null()).spawn()?.id().cast_signed());
    let (news, heard) = mpsc::channel();
    let released = news.clone();
    thread::spawn(move || {
        // Nothing is ever written: what comes is the end.
        while matches!(io::stdin().read(&mut [0; 64]), Ok(1..)) {}
        let _ = released.send(News::Released);
    });
    thread::spawn(move || reap(&news));
    let mut status = None;
    let mut released = false;
    while status.is_none() && !released {
        match heard.recv() {
            Ok(News::Ended(pid, how)) if pid == leader => status = Some(how),
            Ok(News::Ended(..)) => {}
            Ok(News::Released) | Err(_) => released = true,
        }
    }
    let later = end_all(&heard, leader);
    // Whoever let go of us has no use for a status.
    Ok(status.or(later).unwrap_or(0))
}

/// Between SIGTERM and SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// SIGKILL is repeated so often: a process may be forking while its parent is killed. What remains then is not
/// the user's to end.
const ROUNDS: usize = 20;

/// The longest wait for news between two looks.
const LOOK: Duration = Duration::from_millis(50);

enum News {
    /// A child, own or adopted, ended so.
    Ended(Pid, u8),
    /// Standard input ended.
    Released,
}

/// Reaps children until there are none.
fn reap(news: &mpsc::Sender<News>) {
    loop {
        let ended = match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) => News::Ended(pid, u8::try_from(code & 0xff).unwrap_or(1)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                News::Ended(pid, u8::try_from(128 + signal as i32).unwrap_or(u8::MAX))
            }
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        if news.send(ended).is_err() {
            return;
        }
    }
}

/// Ends all descendants: politely, then not. The leader's status, if it is among them.
fn end_all(heard: &Receiver<News>, leader: Pid) -> Option<u8> {
    let mut status = None;
    let mut listen = || match heard.recv_timeout(LOOK) {
        Ok(News::Ended(pid, how)) if pid == leader => status = Some(how),
        Ok(_) | Err(RecvTimeoutError::Timeout) => {}
        // The reaper has no children any more, and standard input has ended too: nobody is left.
        Err(RecvTimeoutError::Disconnected) => {}
    };
    let own = std::process::id().cast_signed();
    let signal_all = |signal| {
        let all = descendants(own);
        for pid in &all {
            // Gone meanwhile, or not ours to end.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        !all.is_empty()
    };
    let until = Instant::now() + GRACE;
    let mut left = signal_all(Signal::SIGTERM);
    while left && Instant::now() < until {
        listen();
        left = !descendants(own).is_empty();
    }
    for _ in 0..ROUNDS {
        if !signal_all(Signal::SIGKILL) {
            break;
        }
        listen();
    }
    status
}
