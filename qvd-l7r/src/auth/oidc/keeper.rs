//! Keeps the issuer's keys: the shell around [`Cache`], which says when the issuer is asked.

use std::sync::{Arc, Mutex, PoisonError};

use qvd_core::error::chain;
use tokio::time::Instant;

use super::cache::{Cache, Step};
use super::issuer::Source;
use super::keys::{Keys, Wanted};

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keeper {
    source: Box<dyn Source>,
    cache: Mutex<Cache>,
    /// One question at a time; who waited looks again.
    turn: tokio::sync::Mutex<()>,
}

/// Nobody knows whether the issuer has the key.
#[derive(Debug, thiserror::Error)]
#[error("the issuer does not answer, and the keys that it gave before do not tell")]
pub(super) struct Away;

impl Keeper {
    pub(super) fn new(source: impl Source) -> Arc<Self> {
        Arc::new(Self {
            source: Box::new(source),
            cache: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// The keys among which is the one that a token means; none when the issuer has no such key.
    pub(super) async fn find(self: &Arc<Self>, wanted: &Wanted) -> Result<Option<Arc<Keys>>, Away> {
        match self.step(wanted) {
            Step::Use { keys, renew } => {
                if renew {
                    self.ask(wanted);
                }
                return Ok(Some(keys));
            }
            // A client that leaves meanwhile does not end the question: its answer is everybody's.
            Step::Ask | Step::Search => self.ask(wanted).await.map_err(|_| Away)?,
            Step::Unknown => return Ok(None),
            Step::Away => return Err(Away),
        }
        match self.step(wanted) {
            Step::Use { keys, .. } => Ok(Some(keys)),
            Step::Unknown | Step::Search => Ok(None),
            Step::Away | Step::Ask => Err(Away),
        }
    }

    fn ask(self: &Arc<Self>, wanted: &Wanted) -> tokio::task::JoinHandle<()> {
        let (keeper, wanted) = (self.clone(), wanted.clone());
        tokio::spawn(async move {
            let _turn = keeper.turn.lock().await;
            match keeper.step(&wanted) {
                Step::Search => keeper.cache().searching(Instant::now()),
                Step::Ask | Step::Use { renew: true, .. } => {}
                Step::Use { renew: false, .. } | Step::Unknown | Step::Away => return,
            }
            let answer = keeper.source.keys().await;
            if let Err(error) = &answer {
                tracing::warn!("no keys from the identity provider: {}", chain(error));
            }
            keeper.cache().answered(answer.ok(), Instant::now());
        })
    }

    fn step(&self, wanted: &Wanted) -> Step {
        self.cache().step(wanted, Instant::now())
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
