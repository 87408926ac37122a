//! Routers are succeeded while people work: no session ends, no byte is lost, nobody who comes is refused.
//!
//! Real routers over a real PostgreSQL. Agents and desktops are played; each session carries bytes of its own both ways
//! (`traffic`), while new clients keep coming (`visitors`). Before the first upgrade the tables are brought one
//! version ahead, as a newer release does it while the routers of the older one serve.

mod traffic;
mod visitors;

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use qvd_core::hypervisor::Endpoint;
use qvd_core::state::UserState;
use qvd_db::testkit::NewerSchema;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval};

use crate::conformance::desktop::{Desktop, Says};
use crate::conformance::host::publish;
use crate::conformance::router::Router;
use crate::conformance::wire::eventually;
use crate::conformance::world::{Person, Setup, World};
use traffic::{Desktops, Talk};
use visitors::{Undecided, Visits, keep_connecting, keep_pinging};

/// A run: sessions that live all the time, and routers that succeed one another.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade {
    /// Sessions that live from the first router to beyond the last upgrade.
    pub sessions: usize,
    /// How often a router is succeeded.
    pub upgrades: u16,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Totals {
    /// Sessions that lived all the time.
    pub sessions: usize,
    /// Sessions that ended, or lost or changed a byte.
    pub dropped: Vec<String>,
    /// Clients that did not get what they came for.
    pub refused: Vec<String>,
    /// What else is worth knowing.
    pub facts: Vec<String>,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sessions={} dropped={} refused={}", self.sessions, self.dropped.len(), self.refused.len())
    }
}

/// A person whose virtual machine runs.
struct Seat {
    person: Person,
    number: u64,
    agent: Desktop,
}

impl Seat {
    async fn take(world: &World, desktops: &Desktops, number: u64) -> Result<Self> {
        let person = world.person(&format!("user{number}")).await?;
        let mut agent = Desktop::closed()?;
        agent.open_agent()?;
        let Endpoint::Ip { address, vma_port, .. } = agent.endpoint() else {
            anyhow::bail!("no address: {:?}", agent.endpoint())
        };
        let endpoint = Endpoint::Ip { address, vma_port, x_port: desktops.port() };
        world.run(person.vm, &endpoint).await?;
        Ok(Self { person, number, agent })
    }

    /// Whoever connects finds the desktop suspended, and then listening.
    fn desktop_is_free(&self) {
        self.agent.says("x_state", [Says::Result("suspended"), Says::Result("listening")]);
    }
}

/// A session that lives all the time.
struct Session {
    number: u64,
    rounds: Rc<Cell<u64>>,
    task: JoinHandle<Result<u64>>,
}

impl Upgrade {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// When a part does not come up; what goes wrong with sessions and clients is in the totals.
    pub fn run(self, say: &dyn Fn(&str)) -> Result<Totals> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of descriptors")?;
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of descriptors")?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start a runtime")?;
        let outcome = LocalSet::new().block_on(&runtime, self.go(say));
        runtime.shutdown_background();
        outcome
    }

    async fn go(self, say: &dyn Fn(&str)) -> Result<Totals> {
        let setup = Setup::default().postgres().set("log.level", "INFO");
        let world = Rc::new(World::start(&setup).await?);
        let outcome = self.with(&world, say).await;
        let is_well =
            outcome.as_ref().is_ok_and(|totals| totals.dropped.is_empty() && totals.refused.is_empty());
        if !is_well {
            world.keep();
            say(&format!("logs are kept in {}", world.dir().display()));
        }
        outcome
    }

    async fn with(self, world: &Rc<World>, say: &dyn Fn(&str)) -> Result<Totals> {
        publish(&world.db, world.host, world.incarnation, 1 << 20, "process").await?;
        let desktops = Desktops::start().await?;
        let mut numbers = 1..;
        let mut seat = async || Seat::take(world, &desktops, numbers.next().unwrap_or_default()).await;
        let (tell, over) = watch::channel(false);

        let mut sessions = Vec::new();
        for _ in 0..self.sessions {
            sessions.push(Session::begin(world, &desktops, seat().await?, over.clone()).await?);
        }
        say(&format!("{} sessions carry bytes", sessions.len()));
        let visits = Rc::new(Visits::default());
        let mut coming = Vec::new();
        for _ in 0..2 {
            coming.push(spawn_local(keep_pinging(world.clone(), visits.clone(), over.clone())));
        }
        for _ in 0..3 {
            let seat = seat().await?;
            let connecting =
                keep_connecting(world.clone(), desktops.clone(), seat, visits.clone(), over.clone());
            coming.push(spawn_local(connecting));
        }
        let undecided = seat().await?;
        all_go_on(&sessions, &visits).await?;

        world.db.deploy_newer(NewerSchema::Additive).await.context("the newer tables are not deployed")?;
        all_go_on(&sessions, &visits).await?;
        say("the tables are one version ahead of the router, which goes on");

        let mut facts = Vec::new();
        let mut routers: Vec<Router> = Vec::new();
        for number in 1..=self.upgrades {
            let serving = routers.last().unwrap_or_else(|| world.router());
            let before = Undecided::come(world, &undecided).await?;
            let begun = Instant::now();
            let next = serving.successor(world.dir(), number).await?;
            let took = begun.elapsed();
            serving.until_logged("router was succeeded").await?;
            before.go_on(&desktops, &visits).await;
            all_go_on(&sessions, &visits).await?;
            let line = format!(
                "upgrade {number}: the next router served {} ms after its start; {} clients were answered so far",
                took.as_millis(),
                visits.answered()
            );
            say(&line);
            facts.push(line);
            routers.push(next);
        }

        tell.send_replace(true);
        for coming in coming {
            coming.await.context("a visitor broke off")?;
        }
        let mut totals = Totals { sessions: sessions.len(), facts, ..Totals::default() };
        let mut bytes = 0;
        for session in sessions {
            match session.task.await.context("a session broke off").flatten() {
                Ok(moved) => bytes += moved,
                Err(error) => totals.dropped.push(format!("session {}: {error:#}", session.number)),
            }
        }
        // All but the last have nothing left to do.
        let last = routers.pop().context("no upgrade")?;
        for router in [world.router()].into_iter().chain(&routers) {
            router.until_logged("router stopped").await?;
            router.ended().await?;
        }
        ensure!(last.is_running(), "the last router ended: {}", last.log());
        let connected = async || {
            let rows = world.db.vms().of_host(world.host).await?;
            Ok(rows.iter().all(|row| row.user_state == UserState::Disconnected).then_some(()))
        };
        eventually("every session's row given back", connected).await?;
        totals.refused = visits.refused.take();
        totals.facts.push(format!(
            "{bytes} bytes of {} sessions checked; {} health checks, {} lists, {} desktops asked for anew",
            totals.sessions,
            visits.pings.get(),
            visits.lists.get(),
            visits.desktops.get()
        ));
        Ok(totals)
    }
}

impl Session {
    async fn begin(
        world: &World,
        desktops: &Desktops,
        seat: Seat,
        over: watch::Receiver<bool>,
    ) -> Result<Self> {
        let number = seat.number;
        let wire = world.connecting(&seat.person).await?;
        let mut talk = Talk::begin(wire, number, desktops).await.context("a first session")?;
        let rounds = Rc::new(Cell::new(0));
        let counter = rounds.clone();
        let task = spawn_local(async move {
            // Its agent lives as long.
            let _seat = seat;
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*over.borrow() {
                pace.tick().await;
                talk.round().await?;
                counter.set(counter.get() + 1);
            }
            talk.finish().await
        });
        Ok(Self { number, rounds, task })
    }
}

/// Waits until every session that lives has gone on for some rounds, and new clients were answered.
async fn all_go_on(sessions: &[Session], visits: &Visits) -> Result<()> {
    let rounds: Vec<u64> = sessions.iter().map(|session| session.rounds.get()).collect();
    let desktops = visits.desktops.get();
    eventually("bytes of every session and new clients", async || {
        // One that was dropped is counted later.
        let goes_on = |(session, before): (&Session, &u64)| {
            session.rounds.get() >= before + 3 || session.task.is_finished()
        };
        let all = sessions.iter().zip(&rounds).all(goes_on) && visits.desktops.get() >= desktops + 3;
        Ok((all || !visits.refused.borrow().is_empty()).then_some(()))
    })
    .await
}

/// Between two rounds of a session. Two hundred of them are a thousand rounds in a second.
const PACE: Duration = Duration::from_millis(200);
