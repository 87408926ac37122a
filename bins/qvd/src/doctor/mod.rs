//! `qvd doctor`: every prerequisite tried for real, in one go, with a remedy for each that fails.

mod desktop;
mod finding;
mod programs;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;

use finding::{Finding, failed, fine};
use qvd_bin_common::backend;
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::hypervisor::Hypervisor as _;
use qvd_db::{Backend, Db};
use qvd_hypervisor::drivers::process::{ProcessDriver, ProcessSettings};

/// Looks at everything. Takes a second or two, since nxagent is really started.
pub(crate) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = programs::examine(config).await;
    findings.extend(driver(config).await);
    findings.push(desktop::x_socket(config));
    findings.push(desktop::nx_session(config).await);
    findings.push(router_port(config));
    findings.push(database(config).await);
    findings
}

/// Prints the findings; fails when something required is missing.
pub(crate) fn print(findings: &[Finding], json: bool) -> ExitCode {
    let bad = findings.iter().filter(|check| check.required && check.remedy.is_some()).count();
    if json {
        let list: Vec<_> = findings
            .iter()
            .map(|check| {
                serde_json::json!({
                    "what": check.what,
                    "found": check.found,
                    "version": check.version,
                    "ok": check.remedy.is_none(),
                    "required": check.required,
                    "remedy": check.remedy,
                })
            })
            .collect();
        println!("{}", serde_json::Value::Array(list));
    } else {
        let width = findings.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
        for check in findings {
            let mark = match (&check.remedy, check.required) {
                (None, _) => "ok  ",
                (Some(_), true) => "FAIL",
                (Some(_), false) => "note",
            };
            let version = check.version.iter().map(|version| format!(", {version}")).collect::<String>();
            println!("{mark}  {:<width$}  {}{version}", check.what, check.found);
            for line in check.remedy.iter().flat_map(|remedy| remedy.lines()) {
                println!("      {:<width$}  → {line}", "");
            }
        }
        match bad {
            0 => println!("everything that is needed is there"),
            1 => println!("1 thing is missing"),
            n => println!("{n} things are missing"),
        }
    }
    ExitCode::from(u8::from(bad > 0))
}

async fn driver(config: &Config) -> Vec<Finding> {
    let own = std::env::current_exe().unwrap_or_default();
    // Directories of a site that does not exist yet are no prerequisite: the driver looks at a temporary one.
    let Ok(scratch) = tempfile::tempdir() else {
        return vec![failed("temporary directory", "cannot be made", "make space below /tmp")];
    };
    let mut settings = ProcessSettings::from_config(config, &own);
    settings.run_dir = scratch.path().join("run");
    settings.homefs_dir = scratch.path().join("homefs");
    let findings = ProcessDriver::new(settings).check().await.into_iter().map(Finding::from);
    // That one is looked at with its version.
    findings.filter(|finding| finding.what != "nxagent").collect()
}

fn router_port(config: &Config) -> Finding {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port("l7r.port")));
    match TcpListener::bind(address) {
        Ok(_) => fine("router's port", format!("{} is free", address.port())),
        Err(e) => failed(
            "router's port",
            &format!("{}: {e}", address.port()),
            "standalone takes a free port then; a node needs another l7r.port",
        )
        .optional(),
    }
}

async fn database(config: &Config) -> Finding {
    if config.get("database.password").is_none_or(|text| text.is_empty())
        && config.text("database.driver") != "sqlite"
    {
        return match Db::open(&Backend::SqliteMemory).await {
            Ok(_) => fine("database", "embedded SQLite works; no other is configured".to_owned()),
            Err(e) => {
                failed("database", &chain(&e).to_string(), "this is a defect of the program; report it")
            }
        };
    }
    let backend = match backend(config) {
        Ok(backend) => backend,
        Err(e) => return failed("database", &chain(&e).to_string(), "complete database.* in node.conf"),
    };
    match Db::open(&backend).await {
        Ok(_) => fine("database", format!("{} answers", config.text("database.driver"))),
        Err(e) => failed(
            "database",
            &chain(&e).to_string(),
            "check database.* in node.conf; `qvd db deploy` makes the tables of a new database",
        ),
    }
}
