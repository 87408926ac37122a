//! `qa host …`

use jiff::Timestamp;
use jiff::tz::TimeZone;
use qvd_core::model::Host;

use super::session::{Ending, Failure, Session};
use super::table::Table;
use super::vm_commands::local_time;
use crate::ops::{Found, HostExplanation, HostRow, NewHost};

pub(super) async fn add(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let host = NewHost {
        name: session.mandatory("name"),
        address: session.mandatory("address"),
        frontend: session.flag("frontend")?.unwrap_or(true),
        backend: session.flag("backend")?.unwrap_or(true),
    };
    let id = session.admin.add_host(host).await?;
    session.say(&format!("Host added with id {id}"))?;
    Ok(Ending::Complete)
}

pub(super) async fn list(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let hosts = session.admin.hosts(&session.invocation.filter).await?;
    session.list(&hosts, || table(&hosts))
}

fn table(hosts: &[Found<HostRow>]) -> Table {
    let mut table = Table::new(&[
        "Id",
        "Name",
        "Address ",
        "HKD",
        "Usable RAM",
        "Usable CPU",
        "VMs assigned",
        "Blocked",
        "State",
    ]);
    for found in hosts {
        let Host { id, name, address, runtime, .. } = &found.row.host;
        table.row([
            id.to_string(),
            name.clone(),
            address.clone(),
            found.row.silence().map_or_else(dash, |silence| clock(silence.as_secs())),
            runtime.usable_ram.map_or_else(dash, |ram| ram.0.to_string()),
            runtime.usable_cpu.map_or_else(dash, capacity),
            runtime.vms_assigned.to_string(),
            u8::from(runtime.blocked).to_string(),
            runtime.state.to_string(),
        ]);
    }
    table
}

pub(super) async fn counters(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let hosts = session.admin.hosts(&session.invocation.filter).await?;
    let counters = session.admin.host_counters(&hosts).await?;
    session.list(&counters, || {
        let mut table = Table::new(&[
            "Id",
            "Name",
            "HTTP Requests ",
            "Auth attempts",
            "Auth OK",
            "NX attempts",
            "NX OK",
            "Short sessions",
        ]);
        for host in &counters {
            let counts = &host.counts;
            let numbers = [
                counts.http_requests,
                counts.auth_attempts,
                counts.auth_ok,
                counts.nx_attempts,
                counts.nx_ok,
                counts.short_sessions,
            ];
            let names = [counts.host_id.to_string(), host.name.clone()];
            table.row(names.into_iter().chain(numbers.map(|number| number.to_string())));
        }
        table
    })
}

pub(super) async fn block(session: &mut Session<'_, '_>, blocked: bool) -> Result<Ending, Failure> {
    let verb = if blocked { "block" } else { "unblock" };
    if !session.confirmed(&format!("{verb} all hosts"))? {
        return Ok(Ending::Partial);
    }
    let hosts = session.admin.hosts(&session.invocation.filter).await?;
    session.admin.block_hosts(&hosts, blocked).await?;
    Ok(Ending::of_selection(&hosts))
}

pub(super) async fn del(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("delete all hosts")? {
        return Ok(Ending::Partial);
    }
    let hosts = session.admin.hosts(&session.invocation.filter).await?;
    session.say(&format!("Deleting {} host(s)", hosts.len()))?;
    let outcome = session.admin.delete_hosts(&hosts).await?;
    session.explain("host", &outcome);
    Ok(Ending::of(&outcome))
}

pub(super) async fn explain(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let hosts = session.admin.hosts(&session.invocation.filter).await?;
    let explained = session.admin.explain_hosts(hosts).await?;
    if session.invocation.json {
        return session.list(&explained, Table::default);
    }
    let zone = session.admin.now().time_zone().clone();
    let blocks: Vec<String> = explained.iter().map(|host| explanation(host, &zone)).collect();
    session.print(&blocks.join("\n"))?;
    Ok(Ending::of_selection(&explained))
}

fn explanation(explained: &HostExplanation, zone: &TimeZone) -> String {
    let Host { id, name, runtime, .. } = &explained.host.host;
    let mut text = format!("host {id} ({name})\n");
    let mut line = |label: &str, what: &str| text.push_str(&format!("  {label}: {what}\n"));
    line("state", runtime.state.as_str());
    line("usable RAM", &runtime.usable_ram.map_or_else(dash, |ram| format!("{} MiB", ram.0)));
    line("usable CPU", &runtime.usable_cpu.map_or_else(dash, capacity));
    line("VMs assigned", &runtime.vms_assigned.to_string());
    if explained.obstacles.is_empty() {
        line("new VMs", "may be placed on it");
    }
    for obstacle in &explained.obstacles {
        line("gets no new VMs", obstacle);
    }
    if explained.decisions.is_empty() {
        line("decisions", "none yet");
    }
    for judged in &explained.decisions {
        let at = Timestamp::try_from(judged.at).map_or_else(|_| dash(), |at| local_time(at, zone));
        line(&at, &judged.to_string());
    }
    text
}

pub(super) fn dash() -> String {
    "-".to_owned()
}

/// `HH:MM:SS`, hours without bound.
pub(super) fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// At most two decimals, and none that says nothing.
fn capacity(bogomips: f64) -> String {
    let text = format!("{bogomips:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_have_no_bound_and_decimals_no_empty_places() {
        assert_eq!(clock(371_671), "103:14:31");
        assert_eq!(clock(9), "00:00:09");
        assert_eq!(capacity(16172.48), "16172.48");
        assert_eq!(capacity(4000.0), "4000");
        assert_eq!(capacity(0.5), "0.5");
    }
}
