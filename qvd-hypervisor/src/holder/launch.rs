//! Obeys one order: becomes the holder of a machine and stays until the machine is gone.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid, getpid, pipe2};

use super::console::Console;
use super::courier::{self, Reply, Side};
use super::init::{self, Birth, Word};
use super::place::{self, Place};
use super::records::{self, ExitRecord, Isolation, Order, Report, RunRecord};
use super::{EXIT_RECORD, RUN_RECORD, launch_file_name};
use crate::hostops::{
    CgroupLimits, CgroupPlace, Life, LockContent, LockOutcome, Namespaces, ProcessId, VmCgroups, VmLock,
    adopt_orphans, boot_id, spawn_init,
};
use crate::net;
use qvd_core::VmId;

/// `holder run DIR NONCE`: detaches a holder and prints its [`Report`].
pub(super) fn main(dir: &Path, nonce: &str) -> ExitCode {
    match courier::detach(dir) {
        Side::Courier(report) => courier::deliver(&report),
        Side::Between => ExitCode::SUCCESS,
        Side::Holder(mut reply) => match hold(dir, nonce, &mut reply) {
            Ok(()) => ExitCode::SUCCESS,
            Err(report) => {
                eprintln!("not launched: {report:?}");
                reply.send(&report);
                ExitCode::FAILURE
            }
        },
    }
}

/// From the order to the end of the machine. Reports success itself, failure by its result.
fn hold(dir: &Path, nonce: &str, reply: &mut Reply) -> Result<(), Report> {
    let order_path = dir.join(launch_file_name(nonce));
    let Some(order) = attempt("read the order", records::read::<Order>(&order_path))? else {
        return Err(Report::Withdrawn);
    };
    // Not ours to lower without rights; then the holder takes its chance with everybody.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    attempt("block signals", init::awaited_signals().thread_block().map_err(Into::into))?;

    let started = jiff::Timestamp::now().to_string();
    // Held to the end of this function, which is the end of the holder.
    let _lock = take_lock(&order, &started)?;
    claim(&order_path)?;
    refuse_to_follow_the_living(dir, &order)?;

    let groups = make_groups(&order)?;
    let place = attempt("make the run directory", place::make(dir, &order))?;

    let mut record = RunRecord {
        version: RunRecord::VERSION,
        vm_id: order.vm_id,
        run_id: order.run_id,
        host_incarnation: order.host_incarnation,
        node: order.node.clone(),
        spec_digest: order.spec_digest.clone(),
        boot_id: attempt("read the boot id", boot_id())?,
        holder: attempt("look at the holder", ProcessId::me())?,
        init: None,
        isolation: order.isolation,
        network: order.network.clone(),
        cgroups: groups.clone(),
        lock: order.lock.clone(),
        started,
    };
    let record_path = dir.join(RUN_RECORD);
    attempt("write run.json", records::write(&record_path, &record))?;

    let machine = Machine::give_birth(&order, place, &groups, reply.raw_fd())?;
    let recorded = ProcessId::of(machine.init.as_raw()).and_then(|init| {
        record.init = Some(init);
        records::write(&record_path, &record)
    });
    if let Err(error) = recorded {
        machine.abandon();
        return Err(failed("write run.json", &error));
    }
    if let Some(network) = &order.network
        && let Err(error) = net::apply::connect(network, machine.init.as_raw())
    {
        machine.abandon();
        return Err(failed(&format!("attach it to the bridge '{}'", network.bridge), &error));
    }
    let exit = machine.live(reply, &order);
    let exit =
        ExitRecord { out_of_memory: groups.ran_out_of_memory(), last_words: place::last_words(dir), ..exit };
    if let Err(error) = records::write(&dir.join(EXIT_RECORD), &exit) {
        eprintln!("cannot write the exit record: {error}");
    }
    Ok(())
}

fn take_lock(order: &Order, time: &str) -> Result<VmLock, Report> {
    let content = LockContent {
        node: order.node.clone(),
        incarnation: order.host_incarnation,
        run_id: order.run_id,
        time: time.to_owned(),
    };
    let operation = format!("lock '{}'", order.lock.display());
    match attempt(&operation, VmLock::take(&order.lock, &content))? {
        LockOutcome::Taken(lock) => Ok(lock),
        LockOutcome::Held(holder) => {
            Err(Report::HomeInUse { run_id: holder.run_id, holder: holder.to_string() })
        }
    }
}

/// Takes the order away; a clean-up, which takes the same lock first, may have been faster.
fn claim(order_path: &Path) -> Result<(), Report> {
    match fs::remove_file(order_path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Report::Withdrawn),
        Err(error) => Err(failed("claim the order", &error)),
    }
}

/// The lock is free although the last run is not quite over when its holder was killed: its init closes its files
/// before its namespace is empty.
fn refuse_to_follow_the_living(dir: &Path, order: &Order) -> Result<(), Report> {
    // An unreadable record of a run that is over (its lock is ours) is no reason not to run.
    let Ok(Some(last)) = records::read::<RunRecord>(&dir.join(RUN_RECORD)) else { return Ok(()) };
    if last.run_id > order.run_id {
        return Err(Report::Withdrawn);
    }
    let same_boot = attempt("read the boot id", boot_id())? == last.boot_id;
    let Some(init) = last.init.filter(|_| same_boot) else { return Ok(()) };
    match attempt("look at the last run", init.life())? {
        Life::Gone => Ok(()),
        Life::Alive(_) => Err(Report::HomeInUse {
            run_id: last.run_id,
            holder: format!("run {}, which is still ending", last.run_id),
        }),
    }
}

fn make_groups(order: &Order) -> Result<VmCgroups, Report> {
    let limits = CgroupLimits { memory: order.memory, processes: order.processes };
    if let Some(place) = &order.place {
        // The caller counts on it: another place is none.
        let groups = attempt(&format!("use its place {place:?}"), VmCgroups::within(place, limits))?;
        attempt("enter its place", groups.enter_monitor())?;
        return Ok(groups);
    }
    let place = CgroupPlace::new(&order.cgroup_mount, &order.cgroup_name);
    let made = place.create(VmId::new(order.vm_id), limits).and_then(|groups| {
        groups.enter_monitor()?;
        Ok(groups)
    });
    Ok(made.unwrap_or_else(|error| {
        eprintln!("no control groups: {error}");
        VmCgroups::default()
    }))
}

/// A machine between birth and death, seen from its holder.
struct Machine {
    init: Pid,
    go: File,
    words: BufReader<File>,
    console: Console,
}

impl Machine {
    /// Makes the first process; it does nothing until [`live`](Self::live) lets it go.
    fn give_birth(
        order: &Order,
        place: Place,
        groups: &VmCgroups,
        reply: Option<RawFd>,
    ) -> Result<Self, Report> {
        let own_namespaces = order.isolation == Isolation::Namespaces;
        let namespaces = Namespaces {
            own: own_namespaces,
            net: order.network.is_some(),
            user: own_namespaces && !geteuid().is_root(),
        };
        if !own_namespaces {
            // Should init be killed, its children become ours to end.
            attempt("adopt orphans", adopt_orphans())?;
        }
        let (go_read, go_write) = attempt("make a pipe", pipe2(OFlag::O_CLOEXEC).map_err(Into::into))?;
        let (words_read, words_write) = attempt("make a pipe", pipe2(OFlag::O_CLOEXEC).map_err(Into::into))?;
        let Place { guest, printer, console, calls } = place;
        let printed = console.pipe().map(|pipe| pipe.as_raw_fd());
        let not_for_init: Vec<RawFd> =
            [Some(go_write.as_raw_fd()), Some(words_read.as_raw_fd()), printed, reply]
                .into_iter()
                .flatten()
                .collect();
        let birth = Birth {
            order,
            guest: &guest,
            limit_memory: !groups.limits_memory(),
            limit_processes: !groups.limits_processes() && order.account.switch,
            printer,
            calls,
            go: go_read,
            words: words_write,
            holder: getpid(),
        };
        // Born in the payload, so that there is no moment in which it is outside.
        attempt("enter the payload's control group", groups.enter_payload())?;
        let born = spawn_init(namespaces, || {
            for fd in &not_for_init {
                let _ = nix::unistd::close(*fd);
            }
            init::run(&birth)
        });
        attempt("return to the monitor's control group", groups.enter_monitor())?;
        let init = attempt("make namespaces (try `qvd doctor`)", born)?;
        let machine =
            Self { init, go: File::from(go_write), words: BufReader::new(File::from(words_read)), console };
        drop(birth);
        if namespaces.user
            && let Err(error) = map_own_account(init)
        {
            machine.abandon();
            return Err(failed("map the account into the machine", &error));
        }
        Ok(machine)
    }

    /// Lets it go, reports, and waits for its end.
    fn live(mut self, reply: &mut Reply, order: &Order) -> ExitRecord {
        // If it died meanwhile its words say so by their end.
        let _ = self.go.write_all(&[1]);
        let mut exit = ExitRecord {
            run_id: order.run_id,
            code: None,
            signal: None,
            out_of_memory: false,
            last_words: String::new(),
        };
        let mut started = false;
        let mut line = String::new();
        while self.next_word(&mut line) {
            match serde_json::from_str(&line) {
                Ok(Word::Started) => {
                    started = true;
                    reply.send(&Report::Launched);
                }
                Ok(Word::Failed { operation, reason }) => {
                    started = true;
                    eprintln!("cannot {operation}: {reason}");
                    reply.send(&Report::Failed { operation, reason });
                }
                Ok(Word::Ended { code, signal }) => (exit.code, exit.signal) = (code, signal),
                Err(error) => eprintln!("init said nonsense: {error}"),
            }
            line.clear();
        }
        if let Ok(WaitStatus::Signaled(_, signal, _)) = wait_for(self.init) {
            exit.signal = exit.signal.or(Some(signal as i32));
        }
        if order.isolation == Isolation::None {
            init::end_descendants();
        }
        // All that could print are gone: what they left in the pipe is the last of it.
        self.console.drain();
        if !started {
            reply.send(&Report::Failed {
                operation: "start the machine's first process".into(),
                reason: format!(
                    "it ended at once{}",
                    exit.signal.map(|n| format!(" by signal {n}")).unwrap_or_default()
                ),
            });
        }
        exit
    }

    /// Waits for a line of init, taking up what the agent prints meanwhile; false at the end.
    fn next_word(&mut self, line: &mut String) -> bool {
        while self.words.buffer().is_empty() {
            let mut waited = vec![PollFd::new(self.words.get_ref().as_fd(), PollFlags::POLLIN)];
            waited.extend(self.console.pipe().map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)));
            match poll(&mut waited, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => break,
                Ok(_) => {}
            }
            let spoken = waited[0].any().unwrap_or(true);
            self.console.drain();
            if spoken {
                break;
            }
        }
        self.words.read_line(line).is_ok_and(|length| length > 0)
    }

    /// Ends what must not go on.
    fn abandon(self) {
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = wait_for(self.init);
    }
}

/// The caller's own numbers and no others: all that an ordinary user may map, and all that is needed.
pub(super) fn map_own_account(init: Pid) -> io::Result<()> {
    let proc = Path::new("/proc").join(init.to_string());
    let (uid, gid) = (geteuid(), getegid());
    fs::write(proc.join("uid_map"), format!("{uid} {uid} 1\n"))?;
    fs::write(proc.join("setgroups"), "deny")?;
    fs::write(proc.join("gid_map"), format!("{gid} {gid} 1\n"))
}

fn wait_for(pid: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other,
        }
    }
}

fn attempt<T>(operation: &str, outcome: io::Result<T>) -> Result<T, Report> {
    outcome.map_err(|error| failed(operation, &error))
}

fn failed(operation: &str, error: &io::Error) -> Report {
    Report::Failed { operation: operation.to_owned(), reason: error.to_string() }
}
