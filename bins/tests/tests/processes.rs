//! Killing the client, the agent, nxagent, the house-keeping daemon or the router leaves nothing stuck, each tried at
//! every logged step of a connect to a stopped machine and of one to a suspended desktop: who is left is told or goes
//! on, the next connect works, the desktop outlives all that is not in its machine, and nothing remains of the machine.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use qvd_system_tests::machine::{Machine, processes_naming};
use qvd_system_tests::node::Node;
use qvd_system_tests::process::{Process, poll_quickly, wait_until};
use qvd_system_tests::report::Report;
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Visit};
use qvd_system_tests::trace::{STARTED, Source, Step, Watch};
use qvd_system_tests::{can_show_a_desktop, skeleton};

const LIMIT: Duration = Duration::from_secs(90);

/// How long a desktop is up before a step that does not come is given up.
const PATIENCE: Duration = Duration::from_millis(700);

/// How often a kill is made that came late, as it does on a busy machine.
const ATTEMPTS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Client,
    Agent,
    Nxagent,
    Hkd,
    Router,
}

/// What the connect finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    Stopped,
    Suspended,
}

#[test]
fn the_client_may_die_at_every_step() {
    at_every_step(Victim::Client);
}

#[test]
fn the_agent_may_die_at_every_step() {
    at_every_step(Victim::Agent);
}

#[test]
fn nxagent_may_die_at_every_step() {
    at_every_step(Victim::Nxagent);
}

#[test]
fn the_house_keeping_daemon_may_die_at_every_step() {
    at_every_step(Victim::Hkd);
}

#[test]
fn the_router_may_die_at_every_step() {
    at_every_step(Victim::Router);
}

fn at_every_step(victim: Victim) {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 800, 600).expect("a screen");
    let report = Report::begin(env!("CARGO_TARGET_TMPDIR"), &format!("deaths-{victim:?}").to_lowercase());
    let report = report.expect("a report");
    let sweep = |beginning| {
        let (dir, screen) = (dir.path(), &screen);
        move || sweep(victim, beginning, dir, screen)
    };
    let tallies = std::thread::scope(|scope| {
        let threads =
            [Beginning::Stopped, Beginning::Suspended].map(|beginning| scope.spawn(sweep(beginning)));
        threads.map(|thread| thread.join().expect("no bug in the lab").expect("the lab works"))
    });
    for tally in &tallies {
        report.line(&tally.to_string());
    }
    for tally in tallies {
        assert_eq!(tally.failures, "");
        assert!(tally.kills >= tally.victim.least_kills(tally.beginning), "few steps: {tally}");
        assert!(tally.near * 3 >= tally.kills * 2, "too many kills came late: {tally}");
        assert!(tally.retried * 4 <= tally.kills, "too many were told to retry: {tally}");
    }
    drop(screen);
    assert_eq!(processes_naming(&dir.path().display().to_string()), Vec::<String>::new());
}

/// Kills at every step of one beginning, at several nodes at the same time.
fn sweep(victim: Victim, beginning: Beginning, dir: &Path, screen: &Screen) -> Result<Tally> {
    let dir = dir.join(format!("{beginning:?}").to_lowercase());
    let lab = |number: usize| Lab::furnish(&dir.join(number.to_string()), screen, beginning);
    let mut first = lab(1)?;
    let steps = first.measure()?;
    let moments: Vec<Moment> =
        moments(&steps).into_iter().filter(|m| victim.lives_at(m, beginning)).collect();
    let left = Mutex::new(moments.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = |lab: &mut Lab| -> Result<Tally> {
        let mut tally = Tally::new(victim, beginning);
        while let Some(moment) = next() {
            for attempt in 1..=ATTEMPTS {
                let outcome = lab.kill_at(victim, moment);
                let is_late = matches!(&outcome, Ok(Some(kill)) if !kill.is_near());
                let again = is_late && attempt < ATTEMPTS && tally.would_be_late();
                tally.count(moment, outcome, again);
                if !again {
                    break;
                }
            }
        }
        lab.prepare().context("after the last kill")?;
        Ok(tally)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> =
            (2..=beginning.nodes()).map(|number| scope.spawn(move || work(&mut lab(number)?))).collect();
        let mut tally = work(&mut first)?;
        for other in others {
            tally.merge(other.join().expect("no bug in the lab")?);
        }
        Ok(tally)
    })
}

/// A step of a connect, with its place in it.
#[derive(Clone, Debug)]
struct Moment {
    step: Step,
    /// How many different things the user had been told, this one included.
    told: usize,
    agent_spoke: bool,
    nxagent_spoke: bool,
}

fn moments(steps: &[Step]) -> Vec<Moment> {
    let (mut told, mut agent_spoke, mut nxagent_spoke) = (0, false, false);
    let moment = |step: &Step| {
        told += usize::from(step.source == Source::Client);
        agent_spoke |= matches!(step.source, Source::Agent | Source::Call);
        nxagent_spoke |= step.source == Source::Nxagent;
        Moment { step: step.clone(), told, agent_spoke, nxagent_spoke }
    };
    steps.iter().map(moment).collect()
}

impl Beginning {
    /// Nodes that share its steps. A connect to a stopped machine has more of them, and each takes longer.
    fn nodes(self) -> usize {
        match self {
            Self::Stopped => 3,
            Self::Suspended => 2,
        }
    }
}

impl Victim {
    /// Whether there is one to kill.
    fn lives_at(self, moment: &Moment, beginning: Beginning) -> bool {
        match (self, beginning) {
            (Self::Client | Self::Hkd | Self::Router, _) | (_, Beginning::Suspended) => true,
            (Self::Agent, Beginning::Stopped) => moment.agent_spoke,
            (Self::Nxagent, Beginning::Stopped) => moment.nxagent_spoke,
        }
    }

    /// Fewer steps than these were not all of them.
    fn least_kills(self, beginning: Beginning) -> usize {
        match (self, beginning) {
            (Self::Client | Self::Hkd | Self::Router, Beginning::Stopped) => 30,
            (Self::Agent, Beginning::Stopped) => 20,
            (Self::Nxagent, Beginning::Stopped) => 5,
            (_, Beginning::Suspended) => 20,
        }
    }

    /// Whether the desktop dies with it.
    fn takes_the_desktop_along(self) -> bool {
        match self {
            Self::Agent | Self::Nxagent => true,
            Self::Client | Self::Hkd | Self::Router => false,
        }
    }
}

/// What became of the client whose connect was disturbed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Shows,
    Ended { code: Option<i32>, words: String },
}

/// What is known of a kill whose consequences were all as they should be.
#[derive(Clone, Copy, Debug)]
struct Kill {
    /// How many more things than at its moment the user had been told when the victim was dead.
    late: usize,
    /// Whether the next user had to try twice.
    retried: bool,
}

impl Kill {
    fn is_near(self) -> bool {
        self.late < 2
    }
}

struct Lab<'a> {
    screen: &'a Screen,
    node: Node,
    account: Account,
    beginning: Beginning,
    clients: usize,
    /// The last run of the machine; a stopped one leaves nothing behind.
    machine: Option<Machine>,
}

impl<'a> Lab<'a> {
    fn furnish(dir: &Path, screen: &'a Screen, beginning: Beginning) -> Result<Self> {
        fs::create_dir_all(dir).context("cannot make the node's directory")?;
        let agent = dir.join("vma.conf");
        fs::write(&agent, "log.level = DEBUG\n").context("cannot write the agent's configuration")?;
        let more = format!(
            "vm.process.home.skel = {}\nvm.process.vma.config = {}\nlog.level = DEBUG\n",
            skeleton("bare"),
            agent.display()
        );
        let node = Node::start(dir, None, &more)?;
        node.add_flavour()?;
        let account = node.add_account("alice")?;
        Ok(Self { screen, node, account, beginning, clients: 0, machine: None })
    }

    /// The steps of a connect that nobody disturbs.
    fn measure(&mut self) -> Result<Vec<Step>> {
        self.prepare()?;
        let (mut client, mut watch) = self.connect()?;
        poll_quickly(LIMIT, || {
            watch.poll();
            (self.is_connected(&watch) || !client.is_running()).then_some(())
        });
        self.leave(client).context("a connect that nobody disturbs")?;
        Ok(watch.steps())
    }

    /// Whether client and agent both say that the desktop is up.
    fn is_connected(&self, watch: &Watch) -> bool {
        watch.has_started() && self.node.x_state(self.account.vm).as_deref() == Some("connected")
    }

    /// One connect in which the victim dies at this moment, and one that must work; `None` when the moment did not
    /// come.
    fn kill_at(&mut self, victim: Victim, moment: &Moment) -> Result<Option<Kill>> {
        self.prepare()?;
        let before = (self.beginning == Beginning::Suspended).then(|| self.desktop()).transpose()?;
        let (mut client, mut watch) = self.connect()?;
        if !wait_step(&moment.step, &mut client, &mut watch) {
            self.leave(client)?;
            return Ok(None);
        }
        self.kill(victim, &mut client)?;
        watch.poll();
        let told = watch.steps().iter().filter(|step| step.source == Source::Client).count();
        let had_started = watch.has_started();
        let must_end = match victim {
            Victim::Hkd => false,
            // A desktop that was up goes with these, and with it its client.
            Victim::Client | Victim::Agent | Victim::Nxagent => had_started,
            // So does a connection; a client that had none yet finds the router when it is back.
            Victim::Router => client.lines().iter().any(|line| line.starts_with("Logged in")),
        };
        match victim {
            Victim::Hkd => self.node.restart_hkd()?,
            Victim::Router => self.node.restart_router()?,
            Victim::Client | Victim::Agent | Victim::Nxagent => {}
        }
        let outcome = outcome(must_end, &mut client)?;
        expected(victim, had_started, &outcome)?;
        client.stop(Duration::from_secs(10));

        let (client, retried) = self.connect_next(victim).context("the next connect")?;
        if let Some(before) = before.filter(|_| !victim.takes_the_desktop_along()) {
            ensure!(self.desktop()? == before, "the desktop was lost");
        }
        self.leave(client)?;
        Ok(Some(Kill { late: told.saturating_sub(moment.told), retried }))
    }

    /// The connect that must work, and whether its user had to try twice: while the machine that died is on its way
    /// down, a user is told to retry.
    fn connect_next(&mut self, victim: Victim) -> Result<(Process, bool)> {
        let (mut client, _) = self.connect()?;
        let ended = wait_until("an outcome of the next connect", LIMIT, || {
            let ended = !client.is_running();
            (ended || client.lines().iter().any(|line| line == STARTED)).then_some(ended)
        })?;
        let is_told = client.lines().last().is_some_and(|line| line.ends_with(", retry later"));
        if ended && is_told && victim.takes_the_desktop_along() {
            let (client, _) = self.connect()?;
            return Ok((self.wait_connected(client)?, true));
        }
        Ok((self.wait_connected(client)?, false))
    }

    /// Brings the machine into the state in which the connect finds it.
    fn prepare(&mut self) -> Result<()> {
        let vm = self.account.vm;
        match self.beginning {
            Beginning::Stopped => {
                self.node.qa(&["vm", "stop", "-f", &format!("id={vm}"), "--wait"])?;
                self.wait_state("stopped,user_state=disconnected")?;
                self.machine.take().map_or(Ok(()), |machine| machine.wait_gone(LIMIT))
            }
            Beginning::Suspended => {
                if self.node.x_state(vm).as_deref() != Some("suspended") {
                    let (client, _) = self.connect()?;
                    self.leave(client)?;
                }
                wait_until("a suspended desktop", LIMIT, || {
                    (self.node.x_state(vm).as_deref() == Some("suspended")).then_some(())
                })?;
                self.wait_state("running,user_state=disconnected")
            }
        }
    }

    /// Waits until client and agent both say that the desktop is up.
    fn wait_connected(&self, mut client: Process) -> Result<Process> {
        let vm = self.account.vm;
        client.wait_line(STARTED, LIMIT).with_context(|| format!("machine:\n{}", self.node.guest_log(vm)))?;
        wait_until("a connected desktop", LIMIT, || {
            (self.node.x_state(vm).as_deref() == Some("connected")).then_some(())
        })
        .with_context(|| format!("machine:\n{}", self.node.guest_log(vm)))?;
        Ok(client)
    }

    /// Ends a client as its user does, once it shows the desktop.
    fn leave(&mut self, client: Process) -> Result<()> {
        let mut client = self.wait_connected(client)?;
        self.machine = Some(Machine::of(&self.node, self.account.vm)?);
        client.signal(Signal::SIGTERM)?;
        client.wait_exit(LIMIT)?;
        self.wait_state("running,user_state=disconnected")
    }

    fn wait_state(&self, state: &str) -> Result<()> {
        let filter = format!("id={},state={state}", self.account.vm);
        wait_until(&format!("a machine in state {state}"), LIMIT, || {
            let rows = self.node.qa(&["vm", "list", "-q", "-f", &filter]).ok()?;
            (!rows.trim().is_empty()).then_some(())
        })
    }

    fn kill(&mut self, victim: Victim, client: &mut Process) -> Result<()> {
        let inside = |name: &str| {
            // It may be about to become what it is called.
            let killed = poll_quickly(LIMIT, || {
                let killed = Machine::of(&self.node, self.account.vm).and_then(|machine| machine.kill(name));
                killed.is_ok().then_some(())
            });
            killed.with_context(|| format!("no {name} to kill"))
        };
        match victim {
            Victim::Client => client.signal(Signal::SIGKILL),
            Victim::Agent => inside("qvd-vma"),
            Victim::Nxagent => inside("nxagent"),
            Victim::Hkd => self.node.kill_hkd(),
            Victim::Router => self.node.kill_router(),
        }
    }

    /// What tells this desktop from every other of the machine.
    fn desktop(&self) -> Result<(i32, String)> {
        let agent = self.node.guest_dir(self.account.vm).join("nxagent.pid");
        let agent = fs::read_to_string(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
        Ok((Machine::of(&self.node, self.account.vm)?.init(), agent))
    }

    /// Starts a client, and listens to everybody.
    fn connect(&mut self) -> Result<(Process, Watch)> {
        self.clients += 1;
        let mut watch = Watch::new(&self.node, self.account.vm, &[&self.node.hkd_log()]);
        let visit = Visit { geometry: (640, 480), ..Visit::default() };
        let command = self.node.client_command(self.screen, &self.account, &visit)?;
        let log = self.node.dir().join(format!("qvdclient-{}.log", self.clients));
        let password = format!("{}\n", self.account.password);
        let client = Process::start_with_input("qvdclient", command, &log, Some(&password))?;
        watch.add(&client);
        Ok((client, watch))
    }
}

/// Waits for a step; whether it came.
fn wait_step(step: &Step, client: &mut Process, watch: &mut Watch) -> bool {
    let mut up_since = None;
    let came = poll_quickly(LIMIT, || {
        watch.poll();
        if watch.has_heard(step) {
            return Some(true);
        }
        if watch.has_started() {
            up_since = up_since.or_else(|| Some(Instant::now()));
        }
        let is_over = up_since.is_some_and(|since: Instant| since.elapsed() >= PATIENCE);
        (is_over || !client.is_running()).then_some(false)
    });
    came == Some(true)
}

/// Waits for what becomes of the client.
fn outcome(must_end: bool, client: &mut Process) -> Result<Outcome> {
    wait_until("an outcome for the client", LIMIT, || {
        let shows = !must_end && client.lines().iter().any(|line| line == STARTED);
        (shows || !client.is_running()).then_some(())
    })
    .with_context(|| format!("the client said {:?} last", client.lines().last()))?;
    if client.is_running() {
        return Ok(Outcome::Shows);
    }
    let code = client.wait_exit(LIMIT)?.code();
    Ok(Outcome::Ended { code, words: client.lines().pop().unwrap_or_default() })
}

/// Whether that may become of it: it ends in words that tell its user what to do, or goes on where it can.
fn expected(victim: Victim, had_started: bool, outcome: &Outcome) -> Result<()> {
    let told = |codes: &[i32], beginnings: &[&str]| match outcome {
        Outcome::Ended { code: Some(code), words } => {
            let words = words.strip_prefix("qvdclient: ").unwrap_or_default();
            codes.contains(code) && beginnings.iter().any(|beginning| words.starts_with(beginning))
        }
        Outcome::Ended { code: None, .. } | Outcome::Shows => false,
    };
    let shows = *outcome == Outcome::Shows;
    let is_fine = match (victim, had_started) {
        (Victim::Client, _) => matches!(outcome, Outcome::Ended { code: None, .. }),
        (Victim::Hkd, true) => shows,
        (Victim::Hkd, false) => shows || told(&[7], &["not available: "]),
        (Victim::Agent | Victim::Nxagent, true) => told(&[8], &["the session ended: ", NXPROXY]),
        // Who has not been connected yet is given another agent, when it is early enough.
        (Victim::Agent | Victim::Nxagent, false) => shows || told(&[7, 8], &["not available: ", NXPROXY]),
        (Victim::Router, true) => told(&[8], &["the session ended: ", NXPROXY]),
        (Victim::Router, false) => {
            shows
                || told(
                    &[5, 7],
                    &["the server closed the connection while ", "the connection broke while ", "127.0.0.1:"],
                )
                || told(&[8], &["the session ended: ", NXPROXY])
        }
    };
    ensure!(
        is_fine,
        "the client: {outcome:?}, its desktop had {}started",
        if had_started { "" } else { "not " }
    );
    Ok(())
}

const NXPROXY: &str = "nxproxy could not show the desktop: ";

/// What came of the kills.
#[derive(Clone, Debug)]
struct Tally {
    victim: Victim,
    beginning: Beginning,
    kills: usize,
    near: usize,
    /// Kills that came late and were made again.
    again: usize,
    missed: usize,
    retried: usize,
    failures: String,
}

impl Tally {
    fn new(victim: Victim, beginning: Beginning) -> Self {
        Self {
            victim,
            beginning,
            kills: 0,
            near: 0,
            again: 0,
            missed: 0,
            retried: 0,
            failures: String::new(),
        }
    }

    /// `again`: it came late and is made once more, so that it is no kill at this step yet.
    fn count(&mut self, moment: &Moment, outcome: Result<Option<Kill>>, again: bool) {
        let Self { victim, beginning, .. } = *self;
        eprintln!("{victim:?} {beginning:?} at {}: {outcome:?}", moment.step);
        match outcome {
            Ok(Some(kill)) => {
                self.again += usize::from(again);
                self.kills += usize::from(!again);
                self.near += usize::from(!again && kill.is_near());
                self.retried += usize::from(kill.retried);
            }
            Ok(None) => self.missed += 1,
            Err(e) => {
                let _ =
                    writeln!(self.failures, "{victim:?} killed at {} ({beginning:?}): {e:#}", moment.step);
            }
        }
    }

    /// Whether another late kill would make too many of them. Some steps follow each other faster than anybody can be
    /// killed between them.
    fn would_be_late(&self) -> bool {
        self.near * 3 < (self.kills + 1) * 2
    }

    fn merge(&mut self, other: Self) {
        self.kills += other.kills;
        self.near += other.near;
        self.again += other.again;
        self.missed += other.missed;
        self.retried += other.retried;
        self.failures += &other.failures;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = match self.beginning {
            Beginning::Stopped => "connect",
            Beginning::Suspended => "resume",
        };
        write!(
            f,
            "{:?} killed at {} steps of a {of}, {} times before two more were told, {} times more too late; {} steps \
             did not come; the next connect worked, the second time in {} cases",
            self.victim, self.kills, self.near, self.again, self.missed, self.retried
        )
    }
}
