//! What runs virtual machines on a host: the drivers and the house-keeping daemon.
//!
//! | module | knows | never |
//! |---|---|---|
//! | [`drivers`] | how one kind of machine is prepared, launched, found again and ended | the database |
//! | `holder` | the small process that owns a machine's lock and outlives its launcher | the network |
//! | `disk` | names and locks of homes | what is inside a home |
//! | `net` | interfaces and addresses of machines | who may talk to whom |
//! | `hostops` | privileged calls; the only home of `unsafe` | policy |
//! | `hkd` | rows, commands, states | how a driver does it |
//!
//! Features: `process` (machines that are processes in namespaces of their own) and `hkd` (the daemon; brings
//! the database). A driver can be embedded without the daemon.

#[cfg(feature = "process")]
pub mod disk;
pub mod drivers;
#[cfg(feature = "hkd")]
pub mod hkd;
#[cfg(feature = "process")]
pub mod holder;
#[cfg(feature = "process")]
pub mod hostops;
#[cfg(feature = "process")]
pub mod net;
