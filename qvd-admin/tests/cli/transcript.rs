//! Whole sessions with `qa` as texts.
//!
//! ```text
//! $ user del                 a command
//! < y                        what is typed
//! ! Warning: …               standard error
//! ? 1                        the exit code, when it is not 0
//! Deleting 2 user(s)         standard output
//! ```

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qvd_admin::Admin;
use qvd_admin::cli::{self, Console};
use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use qvd_core::config::{Config, split_words};
use qvd_core::state::{HostState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{DiId, HostId, RunId, VmId};
use qvd_db::{Backend, Db, Guard, TakeOver};

/// A site that nobody but the test works on.
pub(crate) struct Site {
    pub(crate) db: Db,
    config: Config,
    files: HashMap<String, String>,
    incarnations: Mutex<HashMap<HostId, i64>>,
}

/// What a command left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: u8,
    /// The program that it wanted to become.
    pub(crate) ran: Vec<String>,
}

/// Monday evening.
const NOW: &str = "2013-08-05T23:34:00[UTC]";

impl Site {
    pub(crate) async fn new() -> Self {
        Self::configured("").await
    }

    /// With a configuration file.
    pub(crate) async fn configured(text: &str) -> Self {
        let config = Config::builder().file("node.conf", text).build().unwrap();
        let db = Db::open(&Backend::SqliteMemory).await.unwrap();
        Self { db, config, files: HashMap::new(), incarnations: Mutex::default() }
    }

    /// With host `n1`, user `ana`, flavour `desk` of the process driver, its image and the machine `a`, all number 1.
    pub(crate) async fn with_one_vm() -> Self {
        let site = Self::new().await;
        site.plays(
            "\
$ host add name=n1 address=10.0.0.1 -q
$ user add login=ana password=x -q
$ osf add name=desk hypervisor=process -q
$ di add osf=desk format=none version=1 -q
$ vm add name=a user=ana osf=desk -q
",
        )
        .await;
        site
    }

    /// A file that commands can read.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.insert(name.to_owned(), text.to_owned());
        self
    }

    pub(crate) async fn admin(&self) -> Admin {
        let rows = self.db.config().load(qvd_core::TenantId::DEFAULT).await.unwrap();
        let (config, _) = self.config.with_database(rows);
        Admin::new(self.db.clone(), config, Arc::new(Fewest)).with_clock(|| NOW.parse().unwrap())
    }

    /// Runs a command.
    pub(crate) async fn qa(&self, words: &[String], typed: &str) -> Answer {
        let (mut out, mut err, mut ran) = (Vec::new(), Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            input: &mut typed.as_bytes(),
            echo: None,
            exec: &mut |argv| {
                ran.extend_from_slice(argv);
                io::Error::from_raw_os_error(2)
            },
            read_file: &|path: &Path| {
                let text = self.files.get(&path.display().to_string()).cloned();
                text.ok_or_else(|| io::Error::from_raw_os_error(2))
            },
        };
        let code = cli::run(words.iter().cloned(), &mut console, async || Ok(self.admin().await)).await;
        Answer { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), code, ran }
    }

    /// Runs a session and compares every command's answer.
    pub(crate) async fn plays(&self, transcript: &str) {
        for step in steps(transcript) {
            let words = split_words(&step.command).unwrap();
            let answer = self.qa(&words, &step.typed).await;
            let shown = show(&answer);
            assert_eq!(shown, step.expected, "\n$ {}\nanswered\n{shown}", step.command);
        }
    }

    /// Lets the daemon of a host come up.
    pub(crate) async fn host_runs(&self, id: i64) {
        let host = HostId::new(id);
        let me = TakeOver {
            run_token: uuid::Uuid::new_v4(),
            machine_id: format!("machine {id}"),
            boot_id: "boot".to_owned(),
            pid: 4711,
            lease: Duration::from_secs(450),
            fence_grace: Duration::from_secs(150),
            watch: Duration::from_secs(30),
        };
        let taken = self.db.hosts().take_over(host, me).await.unwrap();
        let incarnation = taken.incarnation;
        assert!(self.db.hosts().set_state(host, incarnation, HostState::Running).await.unwrap().is_updated());
        let drivers = ["process".to_owned(), "kvm".to_owned()];
        let hosts = self.db.hosts();
        let default = Some("process");
        let published =
            hosts.publish_capacity(host, incarnation, Mebibytes(4000), 16172.48, &drivers, default).await;
        assert!(published.unwrap().is_updated());
        self.incarnations.lock().unwrap().insert(host, incarnation);
    }

    /// Lets the daemon of a host accept an ordered start and bring the machine into a state.
    pub(crate) async fn vm_becomes(&self, vm: i64, host: i64, state: VmState) {
        let (vm, host) = (VmId::new(vm), HostId::new(host));
        let incarnation = self.incarnations.lock().unwrap()[&host];
        let run = match self.db.vms().accept_start(vm, host, incarnation).await.unwrap() {
            Guard::Updated(row) | Guard::Unchanged(row) => row.run_id,
            Guard::NotFound => panic!("no VM {vm}"),
        };
        if !matches!(state, VmState::Starting | VmState::Stopped) {
            self.moves(vm, host, run, VmState::Running).await;
        }
        if !matches!(state, VmState::Starting | VmState::Running) {
            self.moves(vm, host, run, state).await;
        }
    }

    /// Records which image a machine runs from.
    pub(crate) async fn vm_runs_from(&self, vm: i64, host: i64, image: i64) {
        let run = self.db.vms().runtime(VmId::new(vm)).await.unwrap().unwrap().run_id;
        let set = self.db.vms().set_current_di(VmId::new(vm), HostId::new(host), run, DiId::new(image)).await;
        assert!(set.unwrap().is_updated());
    }

    async fn moves(&self, vm: VmId, host: HostId, run: RunId, state: VmState) {
        if state == VmState::Stopped {
            assert!(self.db.vms().clear(vm, host, run).await.unwrap().is_updated());
            return;
        }
        assert!(self.db.vms().set_state(vm, host, run, state, None).await.unwrap().is_updated(), "{state}");
    }
}

/// Words of a command, as the shell would split them.
pub(crate) fn words(command: &str) -> Vec<String> {
    split_words(command).unwrap()
}

struct Step {
    command: String,
    typed: String,
    expected: String,
}

fn steps(transcript: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in transcript.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let step = Step { command: command.to_owned(), typed: String::new(), expected: String::new() };
            steps.push(step);
            continue;
        }
        let step = steps.last_mut().expect("a transcript begins with a command");
        match line.strip_prefix("< ") {
            Some(typed) => step.typed.push_str(&format!("{typed}\n")),
            None => step.expected.push_str(&format!("{line}\n")),
        }
    }
    steps
}

fn show(answer: &Answer) -> String {
    let mut text = answer.out.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for line in answer.err.lines() {
        text.push_str(&format!("! {line}\n"));
    }
    if answer.code != 0 {
        text.push_str(&format!("? {}\n", answer.code));
    }
    text
}

/// Fewest machines first.
#[derive(Debug)]
pub(crate) struct Fewest;

impl LoadBalancer for Fewest {
    fn name(&self) -> &str {
        "fewest"
    }

    fn rank(&self, _: &VmSnapshot, hosts: &[HostSnapshot], _: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        let mut order: Vec<_> = hosts.iter().collect();
        order.sort_by_key(|host| host.vms);
        order.into_iter().map(|host| host.id).collect()
    }
}
