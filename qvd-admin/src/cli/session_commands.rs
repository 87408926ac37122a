//! `qa session …`

use std::time::SystemTime;

use super::host_commands::{clock, dash};
use super::session::{Ending, Failure, Session};
use super::table::Table;
use crate::ops::{Found, VmRow};

pub(super) async fn list(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let sessions = session.admin.sessions(&session.invocation.filter).await?;
    let now = SystemTime::from(session.admin.now().timestamp());
    session.list(&sessions, || table(&sessions, now))
}

fn table(sessions: &[Found<VmRow>], now: SystemTime) -> Table {
    let mut table = Table::new(&["VM", "Name", "User", "From", "State", "Since", "Command", "L7R", "Host"]);
    let or_dash = |text: Option<&String>| text.cloned().unwrap_or_else(dash);
    for row in sessions.iter().map(|found| &found.row) {
        let (overview, runtime) = (&row.overview, row.runtime());
        let lasts = |since: SystemTime| clock(now.duration_since(since).unwrap_or_default().as_secs());
        table.row([
            row.id().to_string(),
            row.name().to_owned(),
            or_dash(overview.real_user_login.as_ref().or(Some(&overview.user_login))),
            or_dash(overview.user_ip.as_ref()),
            runtime.user_state.to_string(),
            overview.user_state_since.map_or_else(dash, lasts),
            runtime.user_cmd.map_or_else(dash, |command| command.to_string()),
            or_dash(overview.l7r_host_name.as_ref()),
            or_dash(overview.host_name.as_ref()),
        ]);
    }
    table
}
