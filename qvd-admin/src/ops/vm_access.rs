//! How an administrator gets into a virtual machine: the program to run, as an argument vector.

use std::path::Path;

use qvd_core::HostId;

use super::Admin;
use super::rows::{Found, VmRow};
use crate::error::{Error, Result};

/// Ways into a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its secure shell.
    Ssh,
    /// Its screen.
    Vnc,
    /// Its serial line, or the console of its container.
    Console,
}

/// Where options for `ssh` are configured.
const SSH_OPTIONS: &str = "admin.ssh.opt.";
/// The console of a container that is opened unless another is asked for.
const FIRST_TTY: [&str; 2] = ["-t", "1"];

impl Admin {
    /// The program that opens the only machine of a selection, with its arguments and `extra` behind them.
    ///
    /// # Errors
    ///
    /// Not exactly one machine; this way in is not there; the machine runs on another host.
    pub async fn vm_access(
        &self,
        vms: &[Found<VmRow>],
        access: Access,
        extra: &[String],
    ) -> Result<Vec<String>> {
        let row = match vms {
            [only] => &only.row,
            [] => return Err(Error::NotFound("No matching VMs".to_owned())),
            _ => {
                let message = "Filter matches more than one VM".to_owned();
                return Err(Error::Invalid { field: None, message });
            }
        };
        let mut argv = match access {
            Access::Ssh => self.ssh(row)?,
            Access::Vnc => self.vnc(row).await?,
            Access::Console if self.driver_of(row) == "lxc" => self.container_console(row, extra)?,
            Access::Console => self.serial(row).await?,
        };
        argv.extend_from_slice(extra);
        Ok(argv)
    }

    fn ssh(&self, row: &VmRow) -> Result<Vec<String>> {
        let address = row.runtime().vm_address.as_ref().filter(|address| !address.starts_with("unix:"));
        let (Some(address), Some(port)) = (address, open_port(row.overview.ssh_port)) else {
            return Err(disabled("SSH"));
        };
        let mut argv = vec!["ssh".to_owned(), address.clone(), "-p".to_owned(), port.to_string()];
        for option in self.config.iter_effective() {
            if let Some(name) = option.key.strip_prefix(SSH_OPTIONS).filter(|_| !option.value.is_empty()) {
                argv.extend(["-o".to_owned(), format!("{name}={}", option.value)]);
            }
        }
        Ok(argv)
    }

    async fn vnc(&self, row: &VmRow) -> Result<Vec<String>> {
        let Some(port) = open_port(row.overview.vnc_port) else { return Err(disabled("VNC")) };
        let host = self.host_address(row).await?.ok_or_else(|| disabled("VNC"))?;
        let mut argv = self.config.command("command.vncviewer");
        argv.push(format!("{host}::{port}"));
        Ok(argv)
    }

    async fn serial(&self, row: &VmRow) -> Result<Vec<String>> {
        let Some(port) = open_port(row.overview.serial_port) else { return Err(disabled("Console")) };
        let host = self.host_address(row).await?.ok_or_else(|| disabled("Console"))?;
        Ok(vec!["telnet".to_owned(), host, port.to_string()])
    }

    fn container_console(&self, row: &VmRow, extra: &[String]) -> Result<Vec<String>> {
        let Some(host) = &row.overview.host_name else { return Err(disabled("Console")) };
        if *host != self.config.text("nodename") {
            let text = format!("VM {} runs on {host}; run this command there", row.id());
            return Err(Error::InvalidState(text));
        }
        let mut argv = self.config.command("command.lxc-console");
        let containers = self.config.path("path.run.lxc");
        argv.extend(["-n".to_owned(), format!("qvd-{}", row.id()), "-P".to_owned(), text(&containers)]);
        if !extra.iter().any(|word| word.starts_with("-t") || word.starts_with("--tty")) {
            argv.extend(FIRST_TTY.map(str::to_owned));
        }
        Ok(argv)
    }

    fn driver_of(&self, row: &VmRow) -> String {
        row.hypervisor().map_or_else(|| self.config.text("vm.hypervisor"), str::to_owned)
    }

    async fn host_address(&self, row: &VmRow) -> Result<Option<String>> {
        let Some(id): Option<HostId> = row.runtime().host_id else { return Ok(None) };
        Ok(self.db.hosts().load(id).await?.map(|host| host.address))
    }
}

/// 0 was written for "not there".
fn open_port(port: Option<u16>) -> Option<u16> {
    port.filter(|port| *port != 0)
}

fn disabled(what: &str) -> Error {
    Error::InvalidState(format!("{what} access is disabled"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
