//! What the daemon looks at again and again, each a future beside its loop.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use qvd_core::{RunId, VmId};

use super::adopt::{self, Foundling};
use super::error::{Error, Result};
use super::node::Node;
use super::reconcile::{self, Findings};
use super::routers;

/// What a scan of the rows brought.
pub(crate) struct Scanned {
    pub(crate) findings: Findings,
    /// What was found of rows without a task.
    pub(crate) foundlings: Vec<Foundling>,
}

/// Everything that runs here or that a row tells of, at start-up.
pub(crate) async fn everything(node: &Node) -> Result<Vec<Foundling>> {
    let rows = node.db.vms().of_host(node.host).await;
    let rows = rows.map_err(|source| Error::Database { operation: "list the VMs of this host", source })?;
    adopt::inspect(node, &rows, &HashMap::new()).await.map_err(|text| Error::Failed { text })
}

/// One scan of the rows; those without a task are looked into at once.
pub(crate) async fn scan(
    node: Arc<Node>,
    runs: HashMap<VmId, RunId>,
) -> std::result::Result<Scanned, qvd_db::Error> {
    let mut findings = reconcile::scan(&node.db, node.host, node.incarnation, &runs).await?;
    if findings.orphans.is_empty() {
        return Ok(Scanned { findings, foundlings: Vec::new() });
    }
    let orphans = std::mem::take(&mut findings.orphans);
    let mut busy = runs;
    busy.extend(findings.starts.iter().copied());
    let foundlings = adopt::inspect(&node, &orphans, &busy).await.unwrap_or_else(|error| {
        // What was accepted must not be lost; these rows stay and are found again.
        tracing::warn!(%error, "cannot look into VMs without a task");
        Vec::new()
    });
    Ok(Scanned { findings, foundlings })
}

/// Ends the sessions of dead routers; with `forgotten`, also of those whose lock files are gone. Tells how many.
pub(crate) async fn bury(
    node: Arc<Node>,
    dir: PathBuf,
    forgotten: bool,
) -> std::result::Result<usize, qvd_db::Error> {
    let mut freed = routers::bury_dead(&node.db, node.host, &dir).await?.len();
    if forgotten {
        freed += routers::bury_forgotten(&node.db, node.host, &dir).await?.len();
    }
    Ok(freed)
}
