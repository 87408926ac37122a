//! The memory in which passwords are hashed: taken from those before, left empty for those behind.
//!
//! Allocated for each hash, blocks of 19 MiB stay with the allocator of whichever thread computed it: after a storm of
//! logins a process holds a good deal of what all its threads ever needed. So they are kept here instead, as many as were
//! needed at once, and at most one for each processor. What a password left in them is overwritten before they are laid
//! aside.

use std::sync::{LazyLock, Mutex, PoisonError};

use argon2::{Argon2, Block, Params};

/// Hashes a password with today's memory or with what a stored text asks for.
pub(super) fn hash_into(
    argon2: &Argon2<'_>,
    params: &Params,
    password: &[u8],
    salt: &[u8],
    output: &mut [u8],
) -> argon2::Result<()> {
    KEPT.with(params.block_count(), |blocks| {
        argon2.hash_password_into_with_memory(password, salt, output, blocks)
    })
}

/// Memory that nobody uses at the moment.
#[derive(Debug)]
struct Kept {
    free: Mutex<Vec<Vec<Block>>>,
    most: usize,
    #[cfg(test)]
    made: std::sync::atomic::AtomicUsize,
}

impl Kept {
    fn new(most: usize) -> Self {
        Self {
            free: Mutex::default(),
            most,
            #[cfg(test)]
            made: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// Lends so many blocks; what is in them when they come is zero.
    fn with<T>(&self, count: usize, work: impl FnOnce(&mut [Block]) -> T) -> T {
        let mut blocks = self.take(count);
        let used = &mut blocks[..count];
        let done = work(used);
        used.fill(Block::new());
        self.lay_aside(blocks);
        done
    }

    fn take(&self, count: usize) -> Vec<Block> {
        let today = Params::default().block_count();
        let kept = if count <= today { self.lock().pop() } else { None };
        kept.unwrap_or_else(|| {
            #[cfg(test)]
            self.made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            vec![Block::new(); count.max(today)]
        })
    }

    fn lay_aside(&self, blocks: Vec<Block>) {
        let mut free = self.lock();
        // What a text of another cost asked for is not worth keeping.
        if free.len() < self.most && blocks.len() == Params::default().block_count() {
            free.push(blocks);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Block>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static KEPT: LazyLock<Kept> = LazyLock::new(|| {
    Kept::new(std::thread::available_parallelism().map_or(1, |processors| processors.get()))
});

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::Ordering;

    use super::*;

    const TODAY: usize = Params::DEFAULT_M_COST as usize;

    fn is_empty(blocks: &[Block]) -> bool {
        blocks.iter().all(|block| block.as_ref().iter().all(|word| *word == 0))
    }

    #[test]
    fn one_behind_the_other_hash_in_the_same_memory_and_find_it_empty() {
        let kept = Kept::new(2);
        let argon2 = Argon2::default();
        let mut first = [0; 32];
        for turn in 0..3 {
            let mut output = [0; 32];
            kept.with(TODAY, |blocks| {
                assert!(is_empty(blocks), "turn {turn}");
                argon2
                    .hash_password_into_with_memory(b"s3cret", b"some salt", &mut output, &mut *blocks)
                    .unwrap();
                assert!(!is_empty(blocks));
            });
            if turn == 0 {
                first = output;
            }
            assert_eq!(output, first, "what was there before does not count");
        }
        assert_eq!(kept.made.load(Ordering::SeqCst), 1);
        // Less than that is taken from the same.
        kept.with(64, |blocks| assert_eq!(blocks.len(), 64));
        assert_eq!(kept.made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn no_more_is_kept_than_was_asked_for_and_nothing_of_another_size() {
        let kept = Kept::new(2);
        let together = Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| kept.with(TODAY, |_| together.wait()));
            }
        });
        assert_eq!((kept.made.load(Ordering::SeqCst), kept.lock().len()), (3, 2));
        kept.with(TODAY + 1, |blocks| assert_eq!(blocks.len(), TODAY + 1));
        assert_eq!((kept.made.load(Ordering::SeqCst), kept.lock().len()), (4, 2));
    }

    #[test]
    fn every_hash_of_this_process_is_computed_there() {
        let stored = super::super::hash(b"s3cret").unwrap();
        for guess in [b"s3cret", b"secret"] {
            let _ = super::super::verify(stored.expose(), guess, b"");
        }
        // Other tests of this process may hash at the same time.
        let made = KEPT.made.load(Ordering::SeqCst);
        assert!((1..=64).contains(&made), "{made}");
        assert!(KEPT.lock().len() <= KEPT.most);
    }
}
