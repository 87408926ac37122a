//! The rows, by what they are about.

mod agent;
mod balance;
mod connect;
mod dialect;
mod directory;
mod ends;
mod list;
mod login;
mod node;
mod parameters;
mod stop;
mod stream;
mod takeover;
mod tls;
mod waits;

use super::Group;

/// All of them. The longest groups come first.
pub(super) fn groups() -> Vec<Group> {
    [
        agent::groups(),
        waits::groups(),
        login::groups(),
        takeover::groups(),
        ends::groups(),
        stream::groups(),
        list::groups(),
        connect::groups(),
        parameters::groups(),
        dialect::groups(),
        node::groups(),
        stop::groups(),
        tls::groups(),
        balance::groups(),
        directory::groups(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
