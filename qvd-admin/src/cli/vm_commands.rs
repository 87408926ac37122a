//! `qa vm …`

use std::net::Ipv4Addr;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use qvd_core::state::VmState;
use qvd_core::{OsfId, UserId, VmId};

use super::host_commands::dash;
use super::session::{Ending, Failure, Session};
use super::table::Table;
use crate::error::{Error, reason};
use crate::ops::{Access, Found, NewVms, OsfRef, Outcome, UserRef, VmEdit, VmRow};

pub(super) async fn add(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let user = match session.id("user_id")? {
        Some(id) => UserRef::Id(UserId::new(id)),
        None => UserRef::Login(session.mandatory("user")),
    };
    let new = NewVms {
        name: session.mandatory("name"),
        user,
        osf: flavour(session)?,
        di_tag: session.argument("di_tag").map(str::to_owned),
        ip: address(session)?,
        // Out of range either way is refused as too few or too many.
        count: session.id("bulk")?.map(|count| u32::try_from(count).unwrap_or(0)),
    };
    let (ids, warnings) = session.admin.add_vms(new).await?;
    for warning in warnings {
        session.warn(warning);
    }
    for id in ids {
        session.say(&format!("VM added with id {id}"))?;
    }
    Ok(Ending::Complete)
}

/// The flavour that `osf_id` or `osf` names.
pub(super) fn flavour(session: &Session<'_, '_>) -> Result<OsfRef, Failure> {
    Ok(match session.id("osf_id")? {
        Some(id) => OsfRef::Id(OsfId::new(id)),
        None => OsfRef::Name(session.mandatory("osf")),
    })
}

fn address(session: &Session<'_, '_>) -> Result<Option<Ipv4Addr>, Failure> {
    match session.argument("ip").map(str::trim).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(Error::invalid("ip", format!("'{text}' is not an IPv4 address")).into()),
        },
    }
}

pub(super) async fn list(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let vms = session.admin.vms(&session.invocation.filter).await?;
    let zone = session.admin.now().time_zone().clone();
    session.list(&vms, || table(&vms, &zone))
}

fn table(vms: &[Found<VmRow>], zone: &TimeZone) -> Table {
    let mut table = Table::new(&[
        "Id",
        "Name",
        "User",
        "RealUser",
        "Ip",
        "OSF",
        "DI_Tag",
        "DI",
        "Running DI",
        "Host",
        "State",
        "L7R",
        "UserState",
        "Blocked",
        "Expire soft",
        "Expire hard",
    ]);
    let or_dash = |text: Option<&String>| text.cloned().unwrap_or_else(dash);
    let local = |time: Option<SystemTime>| {
        let time = time.and_then(|time| Timestamp::try_from(time).ok());
        time.map_or_else(dash, |time| local_time(time, zone))
    };
    for row in vms.iter().map(|found| &found.row) {
        let overview = &row.overview;
        table.row([
            row.id().to_string(),
            row.name().to_owned(),
            overview.user_login.clone(),
            or_dash(overview.real_user_login.as_ref()),
            or_dash(overview.vm.ip.as_ref()),
            overview.osf_name.clone(),
            overview.vm.di_tag.clone(),
            or_dash(overview.di_version.as_ref()),
            or_dash(overview.running_di_version.as_ref()),
            or_dash(overview.host_name.as_ref()),
            row.runtime().vm_state.to_string(),
            or_dash(overview.l7r_host_name.as_ref()),
            row.runtime().user_state.to_string(),
            u8::from(row.runtime().blocked).to_string(),
            local(overview.expires_soft),
            local(overview.expires_hard),
        ]);
    }
    table
}

pub(super) fn local_time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

pub(super) async fn counters(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let vms = session.admin.vms(&session.invocation.filter).await?;
    let counters = session.admin.vm_counters(&vms).await?;
    if !session.invocation.json {
        let count = |meets: fn(&VmRow) -> bool| vms.iter().filter(|found| meets(&found.row)).count();
        let running = count(|vm| vm.runtime().vm_state == VmState::Running);
        let blocked = count(|vm| vm.runtime().blocked);
        let mut summary = Table::new(&["Virtual machines", "Running", "Blocked"]);
        summary.row([vms.len(), running, blocked].map(|number| number.to_string()));
        let text = summary.render(session.invocation.quiet);
        session.print(&format!("{text}\n"))?;
    }
    session.list(&counters, || {
        let mut table = Table::new(&["Id", "Name", "Run attempts", "Run OK"]);
        for vm in &counters {
            let counts = &vm.counts;
            table.row([
                counts.vm_id.to_string(),
                vm.name.clone(),
                counts.run_attempts.to_string(),
                counts.run_ok.to_string(),
            ]);
        }
        table
    })
}

pub(super) async fn start(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("start all machines")? {
        return Ok(Ending::Partial);
    }
    let vms = session.admin.vms(&session.invocation.filter).await?;
    let outcome = session.admin.start_vms(&vms).await?;
    session.explain("vm", &outcome);
    session.say(&format!("Started {} VMs.", outcome.done.len()))?;
    wait(session, &outcome, &vms, VmState::Running).await
}

pub(super) async fn stop(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("stop all machines")? {
        return Ok(Ending::Partial);
    }
    let vms = session.admin.vms(&session.invocation.filter).await?;
    let outcome = session.admin.stop_vms(&vms).await?;
    session.explain("vm", &outcome);
    session.say(&format!("Stopped {} VMs.", outcome.done.len()))?;
    wait(session, &outcome, &vms, VmState::Stopped).await
}

/// With `--wait`: until every machine that was ordered got there.
async fn wait(
    session: &mut Session<'_, '_>,
    outcome: &Outcome<VmId>,
    vms: &[Found<VmRow>],
    wanted: VmState,
) -> Result<Ending, Failure> {
    let Some(limit) = session.invocation.wait else { return Ok(Ending::of(outcome)) };
    let waited = session.admin.wait_for_vms(&outcome.done, wanted, limit).await?;
    let name = |id| vms.iter().find(|vm| vm.row.id() == id).map_or("", |vm| vm.row.name());
    for (id, reason) in &waited.failed {
        let error = Error::Incomplete(format!("vm {id} ({}) {reason}", name(*id)));
        super::session::report(session.console, &error, session.invocation.quiet, session.invocation.json);
    }
    if waited.failed.is_empty() { Ok(Ending::of(outcome)) } else { Err(Failure::Told) }
}

pub(super) async fn disconnect_user(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("disconnect all users")? {
        return Ok(Ending::Partial);
    }
    let vms = session.admin.vms(&session.invocation.filter).await?;
    let outcome = session.admin.disconnect_users(&vms).await?;
    session.explain("vm", &outcome);
    session.say(&format!("Disconnected {} users.", outcome.done.len()))?;
    Ok(Ending::of(&outcome))
}

pub(super) async fn block(session: &mut Session<'_, '_>, blocked: bool) -> Result<Ending, Failure> {
    let verb = if blocked { "block" } else { "unblock" };
    if !session.confirmed(&format!("{verb} all machines"))? {
        return Ok(Ending::Partial);
    }
    let vms = session.admin.vms(&session.invocation.filter).await?;
    session.admin.block_vms(&vms, blocked).await?;
    Ok(Ending::of_selection(&vms))
}

pub(super) async fn del(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("delete all vms")? {
        return Ok(Ending::Partial);
    }
    let vms = session.admin.vms(&session.invocation.filter).await?;
    session.say(&format!("Deleting {} vm(s)", vms.len()))?;
    let outcome = session.admin.delete_vms(&vms).await?;
    session.explain("vm", &outcome);
    Ok(Ending::of(&outcome))
}

pub(super) async fn edit(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let change = VmEdit::read(&session.invocation.named, &session.admin.now())?;
    if !session.confirmed("edit all machines")? {
        return Ok(Ending::Partial);
    }
    let vms = session.admin.vms(&session.invocation.filter).await?;
    let count = session.admin.edit_vms(&vms, change).await?;
    session.say(&format!("Edited {count} VMs."))?;
    Ok(Ending::of_selection(&vms))
}

/// Becomes the program that opens the machine.
pub(super) async fn access(session: &mut Session<'_, '_>, access: Access) -> Result<Ending, Failure> {
    let vms = session.admin.vms(&session.invocation.filter).await?;
    let argv = session.admin.vm_access(&vms, access, &session.invocation.words).await?;
    let error = (session.console.exec)(&argv);
    let program = argv.first().map_or("", String::as_str);
    let what = format!("Unable to exec {program}: {}", reason(&error));
    Err(Error::File { what, reason: error.kind() }.into())
}
