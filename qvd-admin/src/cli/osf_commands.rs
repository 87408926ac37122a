//! `qa osf …`

use super::host_commands::dash;
use super::session::{Ending, Failure, Session};
use super::table::Table;
use crate::ops::NewOsf;

pub(super) async fn add(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let text = |name| session.argument(name).map(str::to_owned);
    let osf = NewOsf {
        name: session.mandatory("name"),
        memory: text("memory"),
        use_overlay: session.flag("use_overlay")?,
        user_storage_size: text("user_storage_size"),
        hypervisor: text("hypervisor"),
    };
    let (id, warnings) = session.admin.add_osf(osf).await?;
    for warning in warnings {
        session.warn(warning);
    }
    session.say(&format!("OSF added with id {id}"))?;
    Ok(Ending::Complete)
}

pub(super) async fn list(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let osfs = session.admin.osfs(&session.invocation.filter).await?;
    session.list(&osfs, || {
        let mut table = Table::new(&["Id", "Name", "RAM", "Overlay", "UserHD"]);
        for osf in osfs.iter().map(|found| &found.row.osf) {
            table.row([
                osf.id.to_string(),
                osf.name.clone(),
                osf.memory.0.to_string(),
                if osf.use_overlay { "yes" } else { "no" }.to_owned(),
                osf.home.map_or_else(dash, |home| home.bytes().to_string()),
            ]);
        }
        table
    })
}

pub(super) async fn del(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("delete all osfs")? {
        return Ok(Ending::Partial);
    }
    let osfs = session.admin.osfs(&session.invocation.filter).await?;
    session.say(&format!("Deleting {} osf(s)", osfs.len()))?;
    let outcome = session.admin.delete_osfs(&osfs).await?;
    session.explain("osf", &outcome);
    session.say(&format!("{} OSFs deleted.", outcome.done.len()))?;
    Ok(Ending::of(&outcome))
}
