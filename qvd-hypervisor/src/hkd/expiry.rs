//! Limits of running virtual machines. Soft: the user is asked to leave, again every period. Hard: it is stopped.
//! Pure; the daemon asks at each change and at the time that [`next_look`] names.

use std::time::{Duration, SystemTime};

use qvd_core::VmId;
use qvd_core::vma::Params;
use qvd_db::Expiring;

/// What is due for one virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Stop it.
    Stop(VmId),
    /// Ask its user to leave.
    Alert(VmId, Params),
}

/// What is due now, by the database's clock. A hard limit wins over a soft one.
pub fn due(rows: &[Expiring], period: Duration) -> Vec<Due> {
    let passed = |limit: Option<SystemTime>, now| limit.is_some_and(|limit| limit <= now);
    let mut due = Vec::new();
    for row in rows {
        if passed(row.hard, row.now) {
            due.push(Due::Stop(row.vm_id));
        } else if passed(row.soft, row.now) && passed(alert_at(row, period), row.now) {
            due.push(Due::Alert(row.vm_id, limits(row)));
        }
    }
    due
}

/// How long to wait before the next look, at most `period`.
pub fn next_look(rows: &[Expiring], period: Duration) -> Duration {
    let waits = rows.iter().flat_map(|row| {
        let ahead = |at: Option<SystemTime>| at.and_then(|at| at.duration_since(row.now).ok());
        [ahead(row.hard), ahead(row.soft), row.soft.and_then(|_| ahead(alert_at(row, period)))]
    });
    let wait = waits.flatten().filter(|wait| !wait.is_zero()).min().unwrap_or(period);
    // Clocks have a grain; looking a moment too early would only mean looking twice.
    wait.min(period) + Duration::from_millis(10)
}

/// When the user is to be asked (again).
fn alert_at(row: &Expiring, period: Duration) -> Option<SystemTime> {
    match row.alerted_at {
        Some(alerted) => alerted.checked_add(period).max(row.soft),
        None => row.soft,
    }
}

/// What the agent's hook is told: seconds since 1970.
fn limits(row: &Expiring) -> Params {
    let seconds = |at: SystemTime| {
        at.duration_since(SystemTime::UNIX_EPOCH)
            .map_or_else(|_| "0".to_owned(), |age| age.as_secs().to_string())
    };
    [("vm.expiration.soft", row.soft), ("vm.expiration.hard", row.hard)]
        .into_iter()
        .filter_map(|(name, at)| Some((name.to_owned(), seconds(at?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::RunId;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn row(soft: Option<u64>, hard: Option<u64>, alerted: Option<u64>, now: u64) -> Expiring {
        Expiring {
            vm_id: VmId::new(1),
            run_id: RunId::new(1),
            soft: soft.map(at),
            hard: hard.map(at),
            alerted_at: alerted.map(at),
            now: at(now),
        }
    }

    #[test]
    fn hard_wins_over_soft_and_nothing_is_due_early() {
        let vm = VmId::new(1);
        assert_eq!(due(&[row(Some(10_000), Some(20_000), None, 9_999)], HOUR), []);
        assert_eq!(due(&[row(Some(10_000), Some(20_000), None, 20_000)], HOUR), [Due::Stop(vm)]);
        let told = [
            ("vm.expiration.soft".to_owned(), "10000".to_owned()),
            ("vm.expiration.hard".to_owned(), "20000".to_owned()),
        ];
        assert_eq!(
            due(&[row(Some(10_000), Some(20_000), None, 10_000)], HOUR),
            [Due::Alert(vm, told.to_vec())]
        );
    }

    #[test]
    fn the_user_is_asked_again_after_a_period() {
        assert_eq!(due(&[row(Some(10_000), None, Some(10_000), 13_599)], HOUR), []);
        assert_eq!(due(&[row(Some(10_000), None, Some(10_000), 13_600)], HOUR).len(), 1);
        // A new, later limit is not announced before its time.
        assert_eq!(due(&[row(Some(20_000), None, Some(10_000), 15_000)], HOUR), []);
    }

    #[test]
    fn the_next_look_is_at_the_next_limit() {
        let look = |rows: &[Expiring]| next_look(rows, HOUR).as_secs();
        assert_eq!(look(&[]), 3600);
        assert_eq!(look(&[row(Some(10_100), Some(10_700), None, 10_000)]), 100);
        assert_eq!(look(&[row(Some(9_000), Some(10_700), Some(9_900), 10_000)]), 700);
        assert_eq!(look(&[row(Some(9_000), None, Some(9_900), 10_000)]), 3500);
        assert_eq!(look(&[row(None, Some(90_000), None, 10_000)]), 3600, "a look at least once a period");
    }
}
