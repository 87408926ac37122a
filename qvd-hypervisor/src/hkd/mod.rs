//! The house-keeping daemon of one node: rows in, virtual machines up and down.
//!
//! | module | knows |
//! |---|---|
//! | [`host_machine`] | how the node comes up and goes down; pure |
//! | [`vm_machine`] | the life of one virtual machine; pure |
//! | `vm_task` | performs what that machine says, one task each |
//! | `reconcile` | rows → tasks, the same scan for a notification and a poll |
//! | `adopt` | what outlived the daemon before |
//! | `sight` | what drivers find, one look at a time, within bounds |
//! | [`monitor`] | is an agent alive |
//! | [`slots`] | how many are set up or taken down at once |
//! | [`failure`] | whose fault a failure is |
//! | [`expiry`] | limits of running machines |
//! | `ticker` | tells the database that the node lives; notices when it is not the node's owner any more |
//! | `routers` | rows of dead routers of this node |
//!
//! Everything can be killed at any instant: the next daemon reads the rows, asks the drivers what they find, and goes
//! on from there. Nothing polls fast; notifications wake, polls are the backstop.

mod adopt;
mod capacity;
mod effects;
mod error;
pub mod expiry;
pub mod failure;
pub mod host_machine;
mod lock;
pub mod monitor;
mod node;
mod reconcile;
mod routers;
mod rows;
mod settings;
mod sight;
pub mod slots;
mod start_up;
mod supervisor;
mod ticker;
mod usable;
pub mod vm_machine;
mod vm_task;

pub use error::{Error, Result};
pub use host_machine::Shutdown;
pub use settings::{Control, HkdSettings, Probe, RpcConnector, VmaConnector, host_limits, vm_limits};

/// Runs the daemon until `shutdown` tells how to end, and ends in that way. A change of mind after that comes as
/// [`Control::Shutdown`] over [`HkdSettings::controls`].
///
/// # Errors
///
/// [`Error::Locked`] when another daemon works on this node, [`Error::UnknownHost`] and [`Error::Database`] when it
/// cannot begin, [`Error::Lost`] when the host was taken away, [`Error::Failed`] otherwise.
///
/// # Cancellation
///
/// Dropping the future is like killing the process: virtual machines of drivers that survive a restart go on, and the
/// next daemon adopts them.
pub async fn run(settings: HkdSettings, shutdown: impl Future<Output = Shutdown>) -> Result<()> {
    supervisor::Supervisor::new(settings).run(shutdown).await
}
