//! Killing the client, the agent, nxagent, the house-keeping daemon or the router, each at every step of a connect
//! that is told to the user, leaves nothing stuck: the next connect works, and nothing remains of the machine.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use qvd_system_tests::machine::{Machine, processes_naming};
use qvd_system_tests::node::Node;
use qvd_system_tests::process::{Process, wait_until};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Visit};
use qvd_system_tests::{can_show_a_desktop, skeleton};

const LIMIT: Duration = Duration::from_secs(90);

/// What the client says at the steps of a connect to a stopped machine, in their order.
const STEPS: [&str; 9] = [
    "Session acquired for VM_ID",
    "Assigning VM",
    "Starting virtual machine",
    "Waiting for VM to reach state 'running'",
    "Starting X session at VM",
    "Waiting for X session to come up",
    "Connecting X session",
    "Connection established",
    "Desktop started",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Client,
    Agent,
    Nxagent,
    Hkd,
    Router,
}

impl Victim {
    /// The first step at which it exists, or is about to.
    fn first_step(self) -> usize {
        match self {
            Self::Client | Self::Hkd | Self::Router => 0,
            Self::Agent => 3,
            Self::Nxagent => 4,
        }
    }
}

struct Lab {
    screen: Screen,
    node: Node,
    account: Account,
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
    let more = format!("vm.process.home.skel = {}\n", skeleton("bare"));
    let node = Node::start(dir.path(), None, &more).expect("a node");
    node.add_flavour().expect("a flavour");
    let account = node.add_account("alice").expect("an account");
    let mut lab = Lab { screen, node, account };
    let mut failures = String::new();
    for step in &STEPS[victim.first_step()..] {
        let begun = Instant::now();
        let outcome = lab.kill_at(victim, step);
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{victim:?} killed at '{step}': {seconds:.1} s");
        if let Err(e) = outcome {
            let _ = writeln!(failures, "{victim:?} killed at '{step}': {e:#}");
        }
    }
    drop(lab);
    assert_eq!(failures, "");
    assert_eq!(processes_naming(&dir.path().display().to_string()), Vec::<String>::new());
}

impl Lab {
    /// One connect to the stopped machine, cut; one that must work; and the end of the machine.
    fn kill_at(&mut self, victim: Victim, step: &str) -> Result<()> {
        let mut client = self.connect("cut")?;
        client.wait_line(step, LIMIT)?;
        self.kill(victim, &mut client)?;
        // Whoever is left is told something, or goes on: nobody hangs.
        wait_until("an outcome for the client", LIMIT, || {
            let over = !client.is_running() || client.lines().iter().any(|l| l.contains("Desktop started"));
            over.then_some(())
        })?;
        client.stop(Duration::from_secs(10));

        let mut client = self.connect("next")?;
        client.wait_line("Desktop started", LIMIT).with_context(|| {
            format!("the next connect; the machine says:\n{}", self.node.guest_log(self.account.vm))
        })?;
        let machine = Machine::of(&self.node, self.account.vm)?;
        client.signal(Signal::SIGTERM)?;
        client.wait_exit(LIMIT)?;
        self.node.qa(&["vm", "stop", "-f", &format!("id={}", self.account.vm)])?;
        let filter = format!("id={},state=stopped,user_state=disconnected", self.account.vm);
        wait_until("a stopped machine without a session", LIMIT, || {
            let rows = self.node.qa(&["vm", "list", "-q", "-f", &filter]).ok()?;
            (!rows.trim().is_empty()).then_some(())
        })?;
        machine.wait_gone(LIMIT)
    }

    fn kill(&mut self, victim: Victim, client: &mut Process) -> Result<()> {
        match victim {
            Victim::Client => client.signal(Signal::SIGKILL),
            Victim::Agent => self.kill_inside("qvd-vma", client),
            Victim::Nxagent => self.kill_inside("nxagent", client),
            Victim::Hkd => self.node.crash_hkd(),
            Victim::Router => self.node.crash_router(),
        }
    }

    /// Kills a process of the machine as soon as there is one of this name.
    fn kill_inside(&self, name: &str, client: &mut Process) -> Result<()> {
        let killed = wait_until(&format!("a {name} to kill"), LIMIT, || {
            if Machine::of(&self.node, self.account.vm).and_then(|machine| machine.kill(name)).is_ok() {
                return Some(true);
            }
            (!client.is_running()).then_some(false)
        })?;
        if !killed {
            bail!("the client ended before there was a {name}: {:?}", client.lines().last());
        }
        Ok(())
    }

    fn connect(&self, name: &str) -> Result<Process> {
        let visit = Visit { geometry: (640, 480), ..Visit::default() };
        let command = self.node.client_command(&self.screen, &self.account, &visit)?;
        let log = self.node.dir().join(format!("qvdclient-{name}.log"));
        Process::start_with_input("qvdclient", command, &log, Some(&format!("{}\n", self.account.password)))
    }
}
