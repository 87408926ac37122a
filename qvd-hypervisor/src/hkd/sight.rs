//! What drivers find and lack, within bounds.
//!
//! A look at a storage that hangs does not end, not even when nobody waits for it any more. So each driver is asked
//! by one look at a time: a hung one costs one thread, and whoever asks meanwhile learns so when its patience is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qvd_core::VmId;
use qvd_core::hypervisor::{Check, Found, Hypervisor, HypervisorError};

type Turns = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

/// One look and one check at a time for each driver, by name.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    looks: Turns,
    checks: Turns,
}

impl Sight {
    /// What the driver finds. The look goes on when `patience` is over; the next one waits for its end.
    ///
    /// # Errors
    ///
    /// The driver's own, or that it did not answer in time: then nothing is known.
    pub(crate) async fn find(
        &self,
        driver: &Arc<dyn Hypervisor>,
        patience: Duration,
    ) -> Result<Vec<Found>, HypervisorError> {
        let looking = Arc::clone(driver);
        let look = in_turn(turn(&self.looks, driver.name()), async move { looking.find().await });
        match tokio::time::timeout(patience, look).await {
            Ok(found) => found.unwrap_or_else(|error| Err(failed(error))),
            Err(_) => {
                Err(failed(format!("no answer within {} s; does a storage hang?", patience.as_secs_f64())))
            }
        }
    }

    /// What the driver lacks; nothing when it does not answer in time.
    pub(crate) async fn check(&self, driver: &Arc<dyn Hypervisor>, patience: Duration) -> Option<Vec<Check>> {
        let checking = Arc::clone(driver);
        let check = in_turn(turn(&self.checks, driver.name()), async move { checking.check().await });
        tokio::time::timeout(patience, check).await.ok()?.ok()
    }
}

fn turn(turns: &Turns, driver: &str) -> Arc<tokio::sync::Mutex<()>> {
    let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(turns.entry(driver.to_owned()).or_default())
}

/// Asks once the question before has been answered, and to the end even when nobody waits any more.
async fn in_turn<T: Send + 'static>(
    turn: Arc<tokio::sync::Mutex<()>>,
    question: impl Future<Output = T> + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    let turn = turn.lock_owned().await;
    let asked = tokio::spawn(async move {
        let answer = question.await;
        drop(turn);
        answer
    });
    asked.await
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HypervisorError {
    HypervisorError::host(VmId::new(0), "tell what runs on this host", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::RunId;
    use qvd_core::testkit::fakes::{DriverStep, FakeHypervisor};

    #[tokio::test(start_paused = true)]
    async fn a_hung_look_is_waited_for_by_the_next_and_not_doubled() {
        let fake = FakeHypervisor::new();
        fake.plant_running(VmId::new(1), RunId::new(1));
        let (driver, sight): (Arc<dyn Hypervisor>, _) = (Arc::new(fake.clone()), Sight::default());
        fake.hold(DriverStep::Find);
        for _ in 0..3 {
            let blind = sight.find(&driver, Duration::from_secs(30)).await.unwrap_err();
            assert!(qvd_core::error::chain(&blind).to_string().contains("within 30 s"), "{blind:?}");
        }
        assert_eq!(fake.times(DriverStep::Find), 1, "one look hangs, not three");
        fake.release(DriverStep::Find);
        assert_eq!(sight.find(&driver, Duration::from_secs(30)).await.unwrap().len(), 1);
        assert_eq!(fake.times(DriverStep::Find), 2);
    }
}
