//! Numbered bytes both ways between a client and a desktop, each of them checked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::conformance::wire::{Wire, soon};

/// How many bytes a desktop has seen and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    up: u64,
    down: u64,
}

type Ends = mpsc::UnboundedSender<Result<Counts>>;

/// All desktops, behind one port: a client says first which of them it wants.
#[derive(Clone, Debug)]
pub(super) struct Desktops {
    port: u16,
    waiting: Rc<RefCell<HashMap<u64, Ends>>>,
}

impl Desktops {
    pub(super) async fn start() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for the desktops")?;
        let port = listener.local_addr().context("no port for the desktops")?.port();
        let waiting = Rc::<RefCell<HashMap<u64, Ends>>>::default();
        let desktops = Self { port, waiting: waiting.clone() };
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let waiting = waiting.clone();
                spawn_local(async move { drop(Self::serve(stream, &waiting).await) });
            }
        });
        Ok(desktops)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    async fn serve(mut stream: TcpStream, waiting: &RefCell<HashMap<u64, Ends>>) -> Result<()> {
        stream.set_nodelay(true)?;
        let number = stream.read_u64().await?;
        let ends = waiting.borrow_mut().remove(&number).context("nobody talks to it")?;
        let outcome = answer(&mut stream, number).await;
        // Nobody listens when the client has ended badly.
        let _ = ends.send(outcome);
        Ok(())
    }
}

/// Checks what comes, and sends as many bytes of its own.
async fn answer(stream: &mut TcpStream, number: u64) -> Result<Counts> {
    let mut counts = Counts { up: 0, down: 0 };
    let mut buffer = vec![0; 8192];
    loop {
        let count = stream.read(&mut buffer).await.context("the desktop's connection broke")?;
        if count == 0 {
            return Ok(counts);
        }
        check(number, Way::Up, &mut counts.up, &buffer[..count])?;
        let back = bytes(number, Way::Down, &mut counts.down, count);
        stream.write_all(&back).await.context("the desktop's connection broke")?;
    }
}

/// A client's end of a session.
pub(super) struct Talk {
    wire: Wire,
    number: u64,
    rounds: u64,
    counts: Counts,
    ended: mpsc::UnboundedReceiver<Result<Counts>>,
}

impl Talk {
    /// Waits for the 101 on a connection that asked for a desktop, and begins.
    pub(super) async fn begin(mut wire: Wire, number: u64, desktops: &Desktops) -> Result<Self> {
        let (ends, ended) = mpsc::unbounded_channel();
        desktops.waiting.borrow_mut().insert(number, ends);
        wire.switched().await?;
        wire.send(number.to_be_bytes()).await?;
        let mut talk = Self { wire, number, rounds: 0, counts: Counts { up: 0, down: 0 }, ended };
        talk.round().await?;
        Ok(talk)
    }

    /// Some bytes up, as many down.
    pub(super) async fn round(&mut self) -> Result<()> {
        let count = 1 + usize::try_from(mix(self.number ^ self.rounds << 32) % 2000)?;
        self.rounds += 1;
        let up = bytes(self.number, Way::Up, &mut self.counts.up, count);
        self.wire.send(&up).await?;
        let wanted = self.counts.down + count as u64;
        while self.counts.down < wanted {
            let record = self.wire.record().await?;
            let record = record
                .with_context(|| format!("session {} was dropped in round {}", self.number, self.rounds))?;
            check(self.number, Way::Down, &mut self.counts.down, &record)?;
        }
        ensure!(self.counts.down == wanted, "bytes that nobody sent");
        Ok(())
    }

    /// Ends the session and compares both ends; answers how many bytes it moved.
    pub(super) async fn finish(mut self) -> Result<u64> {
        self.wire.close().await;
        let theirs = soon("the desktop's end", self.ended.recv()).await?.context("the desktop is gone")??;
        ensure!(theirs == self.counts, "the desktop has {theirs:?}, the client {:?}", self.counts);
        Ok(theirs.up + theirs.down)
    }
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// The next bytes of a stream.
fn bytes(number: u64, way: Way, at: &mut u64, count: usize) -> Vec<u8> {
    let bytes = (*at..).take(count).map(|at| byte(number, way, at)).collect();
    *at += count as u64;
    bytes
}

fn check(number: u64, way: Way, at: &mut u64, seen: &[u8]) -> Result<()> {
    for seen in seen {
        let due = byte(number, way, *at);
        ensure!(*seen == due, "byte {at} of session {number} is {seen} instead of {due}");
        *at += 1;
    }
    Ok(())
}

/// Each stream has bytes of its own, so that none can take another's, nor its own twice.
fn byte(number: u64, way: Way, at: u64) -> u8 {
    let stream = number << 1 | way as u64;
    mix(mix(stream) ^ (at / 8)).to_be_bytes()[(at % 8) as usize]
}

/// SplitMix64's last steps: neighbours have nothing in common.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_lost_doubled_or_of_another_stream_shows() {
        let mut at = 0;
        let stream = bytes(7, Way::Up, &mut at, 300);
        assert_eq!(at, 300);
        let checked = |number, way, bytes: &[u8]| check(number, way, &mut 0, bytes).is_ok();
        assert!(checked(7, Way::Up, &stream));
        assert!(!checked(7, Way::Down, &stream) && !checked(8, Way::Up, &stream));
        let lost: Vec<u8> = stream[..100].iter().chain(&stream[108..]).copied().collect();
        let doubled: Vec<u8> = stream[..100].iter().chain(&stream[92..]).copied().collect();
        assert!(!checked(7, Way::Up, &lost) && !checked(7, Way::Up, &doubled));
        let mut at = 0;
        check(7, Way::Up, &mut at, &stream[..9]).unwrap();
        check(7, Way::Up, &mut at, &stream[9..]).unwrap();
        assert_eq!(at, 300);
    }
}
