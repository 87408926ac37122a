//! What is typed overtakes what flows: sockets beside sides that always have more, on one thread.

use std::cell::Cell;
use std::io::Write as _;
use std::os::unix::net::UnixStream as Wire;
use std::rc::Rc;

use tokio::net::UnixStream;
use tokio::task::LocalSet;

use super::*;

/// Gives and takes without end.
struct Endless<F>(F);

impl<F: FnMut(usize)> Side for Endless<F> {
    fn closes_both_ways(&self) -> bool {
        false
    }

    fn poll_pull(&mut self, _: &mut Context<'_>, most: usize, _: &mut Buffers) -> Poll<io::Result<usize>> {
        self.0(most);
        Poll::Ready(Ok(most))
    }

    fn push(&mut self, _: &mut Context<'_>, _: usize, _: &mut Buffers) -> io::Result<()> {
        Ok(())
    }

    fn poll_sent(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn held(&self) -> usize {
        0
    }

    fn footprint(&self) -> usize {
        0
    }

    fn forget(&mut self) {}
}

#[test]
fn what_is_typed_waits_for_a_buffer_or_two_however_many_are_in_full_flow() {
    const FLOWS: usize = 20;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let moved = Rc::new(Cell::new(0));
    let each: Vec<_> = (0..FLOWS).map(|_| Rc::new(Cell::new(0))).collect();
    let worst = LocalSet::new().block_on(&runtime, async {
        let mut typist = Wire::pair().unwrap();
        typist.1.set_nonblocking(true).unwrap();
        let mut keyboard = PlainStream::new(UnixStream::from_std(typist.1).unwrap());
        let (mut screen, desktop) = duplex(64);
        let mut desktop = PlainStream::new(desktop);
        tokio::task::spawn_local(async move {
            Pump::new(&mut keyboard, &mut desktop, Prefix::default()).await;
        });
        for own in &each {
            let (moved, own) = (Rc::clone(&moved), Rc::clone(own));
            let count = move |bytes| {
                moved.set(moved.get() + bytes);
                own.set(own.get() + bytes);
            };
            tokio::task::spawn_local(async move {
                let (mut from, mut to) = (Endless(count), Endless(|_| ()));
                let mut pump = Pump::new(&mut from, &mut to, Prefix::default());
                // The other way is silent.
                pump.down.end();
                pump.await;
            });
        }
        // All are in full flow before the first key.
        while each.iter().any(|own| own.get() <= BUFFER_SIZE) {
            tokio::task::yield_now().await;
        }
        let mut worst = 0;
        for _ in 0..500 {
            let before = moved.get();
            typist.0.write_all(b"k").unwrap();
            screen.read_exact(&mut [0]).await.unwrap();
            worst = worst.max(moved.get() - before);
        }
        worst
    });
    assert!(worst <= 3 * BUFFER_SIZE, "{} buffers passed before a key", worst / BUFFER_SIZE);
    let (least, most) = (each.iter().map(|own| own.get()).min(), each.iter().map(|own| own.get()).max());
    assert!(least.unwrap() * 2 >= most.unwrap(), "one was served {least:?} bytes, another {most:?}");
}
