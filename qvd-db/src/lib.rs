//! The shared truth of a QVD installation: rows, guarded writes and notifications, over PostgreSQL or SQLite.
//!
//! * [`Db`] is a cheap handle to either database; in-memory SQLite is the fake that tests use.
//! * A run-time row changes only if it still is what its writer believed: see [`Guard`].
//! * A [`Hint`] only says "look again". Whoever waits also polls; see [`Subscription`].
//!
//! | table family | by |
//! |---|---|
//! | hosts, take-over, ticks, release of dead ones | [`Db::hosts`] |
//! | users | [`Db::users`] |
//! | users' tokens | [`Db::user_tokens`] |
//! | operating system flavours | [`Db::osfs`] |
//! | disk images and their tags | [`Db::images`] |
//! | virtual machines, their run-time rows | [`Db::vms`] |
//! | user sessions | [`Db::sessions`] |
//! | properties | [`Db::properties`] |
//! | configuration, certificates | [`Db::config`] |
//! | counters | [`Db::counters`] |
//! | life-cycle journal | [`Db::events`] |
//! | placement decisions | [`Db::placements`] |
//!
//! ```
//! use std::time::Duration;
//! use qvd_core::{TenantId, state::{HostState, VmState}, units::Mebibytes};
//! use qvd_db::{Backend, Claimant, Db, Guard, NewHost, NewOsf, NewVm, TakeOver};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> qvd_db::Result<()> {
//! let db = Db::open(&Backend::SqliteMemory).await?;
//!
//! // What an administrator makes.
//! let host = NewHost { name: "n1".into(), address: "10.0.0.1".into(), frontend: true, backend: true };
//! let host = db.hosts().add(host).await?;
//! let user = db.users().add(TenantId::DEFAULT, "ana", None).await?;
//! let osf = db.osfs().add(NewOsf {
//!     tenant: TenantId::DEFAULT, name: "desk".into(), memory: Mebibytes(512), use_overlay: true,
//!     home: None, hypervisor: Some("process".into()),
//! }).await?;
//! let vm = NewVm { name: "ana-1".into(), user_id: user, osf_id: osf, di_tag: "default".into(), ip: None };
//! let vm = db.vms().add(vm).await?;
//!
//! // The daemon of the host comes up.
//! let me = db.hosts().take_over(host, TakeOver {
//!     run_token: uuid::Uuid::new_v4(), machine_id: "m1".into(), boot_id: "b1".into(), pid: std::process::id(),
//!     lease: Duration::from_secs(450), fence_grace: Duration::from_secs(150), watch: Duration::from_secs(30),
//! }).await?;
//! assert!(db.hosts().set_state(host, me.incarnation, HostState::Running).await?.is_updated());
//!
//! // A router orders a start; a second one learns that it is on its way already.
//! assert!(db.vms().claim(vm, host, Claimant::Router).await?.is_updated());
//! assert!(matches!(db.vms().claim(vm, host, Claimant::Router).await?, Guard::Unchanged(_)));
//!
//! // The daemon accepts it.
//! let accepted = db.vms().accept_start(vm, host, me.incarnation).await?;
//! assert_eq!(accepted.updated().map(|row| row.vm_state), Some(VmState::Starting));
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod backend;
mod config;
mod counters;
mod db;
mod error;
mod events;
mod guard;
mod hosts;
mod images;
mod migrate;
mod moment;
mod notify;
mod osfs;
pub mod password;
mod placements;
mod properties;
mod retry;
mod row;
mod server;
mod sessions;
mod sql;
#[cfg(feature = "testkit")]
pub mod testkit;
mod tokens;
mod users;
mod value;
mod vms;

pub use config::{ConfigRows, SslMaterial};
pub use counters::{Counters, HostCounter, HostCounts, VmCounter, VmCounts};
pub use db::{Backend, Db, Keepalive, Tls};
pub use error::{Error, Result};
pub use events::{Event, Events, NewEvent};
pub use guard::Guard;
pub use hosts::{HostLoad, Hosts, NewHost, Released, Seen, StateSaved, TakeOver, TakenOver};
pub use images::{Expirations, Images, NewImage, Published};
pub use notify::{Channel, Hint, Subscription};
pub use osfs::{NewOsf, Osfs};
pub use placements::{Placement, Placements};
pub use properties::{Owner, PropertyTables};
pub use sessions::{NewSession, Sessions};
pub use tokens::{NewToken, Redeemed, UserToken, UserTokens};
pub use users::Users;
pub use vms::{
    AddressRange, BlockedBy, Charged, Claimant, Expiring, LaunchRow, LimitChange, NewVm, Pending, Provision,
    Provisioned, VmChanges, VmOverview, Vms,
};
