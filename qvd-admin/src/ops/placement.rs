//! Why virtual machines go to a host, or pass it by.

use std::fmt;
use std::time::SystemTime;

use qvd_core::balance::{Decision, HostSnapshot, LoadBalancer, Weighted};
use qvd_core::state::HostState;
use qvd_core::{HostId, VmId};
use qvd_db::Placement;

use super::Admin;
use super::rows::{Found, HostRow};
use crate::error::Result;
use crate::filter::{Fields, HOST_EXPLANATION_KEYS, Keys, Value};

/// What is known of why a host gets virtual machines, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct HostExplanation {
    /// The host.
    pub host: HostRow,
    /// What keeps every new virtual machine away from it now; nothing when it takes them.
    pub obstacles: Vec<String>,
    /// The latest decisions, latest first.
    pub decisions: Vec<Judged>,
}

/// A decision, as far as it concerns one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// When.
    pub at: SystemTime,
    /// The virtual machine that was placed.
    pub vm: VmId,
    /// What came of it for the host.
    pub verdict: Verdict,
    /// The host as the balancer saw it.
    pub seen: Option<HostSnapshot>,
    /// What the default balancer gave for its capacity, without chance; none where another one decided.
    pub score: Option<f64>,
    /// Whether deciding again gives the same order.
    pub replay: Replay,
}

/// What came of a decision for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It got the virtual machine; it was so far up in the order.
    Chosen(usize),
    /// Another one got it, or none.
    Ranked(usize),
    /// It could be used, and the balancer left it out.
    LeftOut,
    /// It could not be used then.
    NotThere,
}

/// What came of deciding again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay {
    /// The same order.
    Same,
    /// Another one: the balancer decides by what was not written down.
    Different,
    /// The balancer is not here, or the record is another version's.
    Impossible,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen(place) => write!(f, "chosen, number {place}"),
            Self::Ranked(place) => write!(f, "not chosen, number {place}"),
            Self::LeftOut => f.write_str("left out"),
            Self::NotThere => f.write_str("could not be used"),
        }
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "same again",
            Self::Different => "different when decided again",
            Self::Impossible => "cannot be decided again here",
        })
    }
}

impl fmt::Display for Judged {
    /// All but the time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {}: {}", self.vm, self.verdict)?;
        if let Some(seen) = &self.seen {
            let HostSnapshot { usable_ram_mib, usable_cpu, vms, assigned_ram_mib, .. } = seen;
            write!(
                f,
                "; it had {vms} VMs with {assigned_ram_mib} of {usable_ram_mib} MiB, CPU {usable_cpu}"
            )?;
        }
        if let Some(score) = self.score {
            write!(f, ", score {score:.2}")?;
        }
        write!(f, "; {}", self.replay)
    }
}

impl Fields for HostExplanation {
    fn keys() -> &'static Keys {
        &HOST_EXPLANATION_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        let chosen = |judged: &&Judged| matches!(judged.verdict, Verdict::Chosen(_));
        match key {
            "id" | "name" | "state" | "blocked" | "usable_ram" | "usable_cpu" | "vms_assigned" => {
                self.host.field(key)
            }
            "obstacles" => Value::AnyOf(self.obstacles.iter().map(|text| Value::text(Some(text))).collect()),
            "decisions" => {
                Value::AnyOf(self.decisions.iter().map(|j| Value::Text(j.to_string().into())).collect())
            }
            "chosen" => Value::integer(i64::try_from(self.decisions.iter().filter(chosen).count()).ok()),
            _ => Value::Null,
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Admin {
    /// Explains hosts: what keeps virtual machines away, and what became of each in the latest decisions, each decided
    /// again from what was written down.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn explain_hosts(&self, hosts: Vec<Found<HostRow>>) -> Result<Vec<HostExplanation>> {
        let latest = self.db.placements().latest(DECISIONS).await?;
        let usable = self.db.hosts().candidates(None).await?;
        Ok(hosts
            .into_iter()
            .map(|Found { row, .. }| HostExplanation {
                obstacles: obstacles(&row, &usable),
                decisions: latest.iter().map(|placement| self.judge(placement, row.host.id)).collect(),
                host: row,
            })
            .collect())
    }

    fn judge(&self, placement: &Placement, host: HostId) -> Judged {
        let decision = placement.decision.as_ref();
        let seen = decision.and_then(|decision| decision.hosts.iter().find(|seen| seen.id == host));
        let place = decision.and_then(|decision| decision.ranked.iter().position(|id| *id == host));
        let verdict = match place.map(|place| place + 1) {
            Some(place) if placement.host_id == Some(host) => Verdict::Chosen(place),
            Some(place) => Verdict::Ranked(place),
            None if seen.is_some() => Verdict::LeftOut,
            None => Verdict::NotThere,
        };
        let default = decision.and_then(|decision| default_balancer(placement, decision));
        Judged {
            at: placement.at,
            vm: placement.vm_id,
            verdict,
            score: seen.zip(default).map(|(seen, balancer)| balancer.score(seen)),
            seen: seen.cloned(),
            replay: decision.map_or(Replay::Impossible, |decision| self.replay(placement, decision)),
        }
    }

    fn replay(&self, placement: &Placement, decision: &Decision) -> Replay {
        let again = match default_balancer(placement, decision) {
            Some(balancer) => decision.replay(&balancer),
            None if placement.plugin == self.balancer.name() => decision.replay(&*self.balancer),
            None => return Replay::Impossible,
        };
        if again == decision.ranked { Replay::Same } else { Replay::Different }
    }
}

fn default_balancer(placement: &Placement, decision: &Decision) -> Option<Weighted> {
    let balancer = Weighted::from_parameters(&decision.parameters)?;
    (placement.plugin == balancer.name()).then_some(balancer)
}

/// The conditions of a host that may be used, each one that fails.
fn obstacles(row: &HostRow, usable: &[HostSnapshot]) -> Vec<String> {
    let host = &row.host;
    let mut obstacles = Vec::new();
    if !host.backend {
        obstacles.push("it is no backend (it was added with backend=0)".to_owned());
    }
    if host.runtime.state != HostState::Running {
        obstacles.push(format!("its state is {}, not running", host.runtime.state));
    }
    if host.runtime.blocked {
        obstacles.push("it is blocked (host unblock)".to_owned());
    }
    if host.hypervisors.is_empty() {
        obstacles.push("it has told of no hypervisor driver".to_owned());
    }
    // The database's own clock decides about the lease.
    if obstacles.is_empty() && !usable.iter().any(|seen| seen.id == host.id) {
        obstacles.push("it has not renewed its lease in time, or has no default driver".to_owned());
    }
    obstacles
}

/// How many of the latest decisions are looked at.
const DECISIONS: u32 = 10;
