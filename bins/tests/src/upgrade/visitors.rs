//! Clients that come anew all the time, and those who are in the middle of something when a router is succeeded.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use qvd_core::state::UserState;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Seat;
use super::traffic::{Desktops, Talk};
use crate::conformance::wire::{Wire, dial};
use crate::conformance::world::World;

/// What became of all that was asked.
#[derive(Debug, Default)]
pub(super) struct Visits {
    /// Health checks that were answered.
    pub(super) pings: Cell<u64>,
    /// Lists that were given.
    pub(super) lists: Cell<u64>,
    /// Desktops that were reached.
    pub(super) desktops: Cell<u64>,
    /// What was refused, and how.
    pub(super) refused: RefCell<Vec<String>>,
}

impl Visits {
    /// All that was answered.
    pub(super) fn answered(&self) -> u64 {
        self.pings.get() + self.lists.get() + self.desktops.get()
    }

    pub(super) fn note(&self, kind: &Cell<u64>, what: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => kind.set(kind.get() + 1),
            Err(error) => self.refused.borrow_mut().push(format!("{what}: {error:#}")),
        }
    }
}

/// Comes for a health check again and again, each time by a new connection.
pub(super) async fn keep_pinging(world: Rc<World>, visits: Rc<Visits>, over: watch::Receiver<bool>) {
    let mut pace = interval(Duration::from_millis(10));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*over.borrow() {
        pace.tick().await;
        let asked = async {
            let mut wire = Wire::connect(Ipv4Addr::LOCALHOST, world.router().address).await?;
            ping(&mut wire).await
        };
        visits.note(&visits.pings, "ping", asked.await);
    }
}

/// Asks for the list on one connection and for the desktop on another, talks a little, and leaves; again and again.
pub(super) async fn keep_connecting(
    world: Rc<World>,
    desktops: Desktops,
    seat: Seat,
    visits: Rc<Visits>,
    over: watch::Receiver<bool>,
) {
    while !*over.borrow() {
        let listed = async { list(&mut world.wire(&seat.person).await?, &seat).await };
        visits.note(&visits.lists, "list", listed.await);
        let connected = async {
            seat.desktop_is_free();
            let wire = world.connecting(&seat.person).await?;
            let mut talk = Talk::begin(wire, seat.number, &desktops).await?;
            talk.round().await?;
            talk.finish().await?;
            world.until_user_state(seat.person.vm, UserState::Disconnected).await.map(drop)
        };
        visits.note(&visits.desktops, "connect", connected.await);
    }
}

/// Three who came before a router was succeeded and go on behind it.
pub(super) struct Undecided<'a> {
    world: &'a World,
    seat: &'a Seat,
    accepted: TcpStream,
    greeted: Wire,
    choosing: Wire,
}

impl<'a> Undecided<'a> {
    /// One has said nothing at all, one is greeted, one has the list before them.
    pub(super) async fn come(world: &'a World, seat: &'a Seat) -> Result<Self> {
        let address = world.router().address;
        let accepted = dial(Ipv4Addr::LOCALHOST, address).await?;
        let greeted = Wire::connect(Ipv4Addr::LOCALHOST, address).await?;
        let mut choosing = world.wire(&seat.person).await?;
        list(&mut choosing, seat).await?;
        Ok(Self { world, seat, accepted, greeted, choosing })
    }

    /// Each of them goes on.
    pub(super) async fn go_on(self, desktops: &Desktops, visits: &Visits) {
        let Self { world, seat, accepted, mut greeted, mut choosing } = self;
        visits.note(&visits.pings, "ping behind a greeting", ping(&mut greeted).await);
        let late = async { ping(&mut Wire::greet(accepted).await?).await };
        visits.note(&visits.pings, "greeting behind an accept", late.await);
        let chosen = async {
            list(&mut choosing, seat).await?;
            seat.desktop_is_free();
            choosing.send(seat.person.connect_request("")).await?;
            let mut talk = Talk::begin(choosing, seat.number, desktops).await?;
            talk.round().await?;
            talk.finish().await?;
            world.until_user_state(seat.person.vm, UserState::Disconnected).await.map(drop)
        };
        visits.note(&visits.desktops, "connect behind a list", chosen.await);
    }
}

async fn ping(wire: &mut Wire) -> Result<()> {
    wire.ask("/qvd/ping", &[]).await?.expect(200, "I am alive!")
}

async fn list(wire: &mut Wire, seat: &Seat) -> Result<()> {
    let answer = wire.ask("/qvd/list_of_vm", &[&seat.person.auth()]).await?;
    ensure!(answer.status() == 200, "no list: {answer:?}");
    Ok(())
}
