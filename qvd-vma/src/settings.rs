//! What the agent takes from its configuration, in the types that it works with.

use std::collections::HashMap;
use std::path::PathBuf;

use qvd_core::config::Config;
use qvd_core::hook::HookKind;

use crate::account::AccountDefaults;
use crate::home_drive::HomeDrive;
use crate::hooks::HookSettings;
use crate::provision::ProvisionSettings;
use crate::xsession::guard::GuardMode;
use crate::xsession::machine::Limits;
use crate::xsession::options::{Listen, OptionSettings, media_port};

/// The agent's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of generated files.
    pub run_dir: PathBuf,
    /// Directory of logs.
    pub log_dir: PathBuf,
    /// Unix socket that serves the calls; without it TCP does.
    pub rpc_socket: Option<PathBuf>,
    /// TCP port of the calls.
    pub rpc_port: u16,
    /// X display that is tried first.
    pub display: u16,
    /// Limits of the X session.
    pub limits: Limits,
    /// The agent's options.
    pub options: OptionSettings,
    /// Options file.
    pub options_file: PathBuf,
    /// Slave key file.
    pub slave_file: PathBuf,
    /// Printing settings file.
    pub printing_file: PathBuf,
    /// nxagent with fixed arguments.
    pub nxagent: Vec<String>,
    /// xinit with fixed arguments; empty when agent and desktop are supervised directly.
    pub xinit: Vec<String>,
    /// The desktop's program with fixed arguments.
    pub x_session: Vec<String>,
    /// VNC server with fixed arguments.
    pub x11vnc: Vec<String>,
    /// When nxagent gets the guard.
    pub guard: GuardMode,
    /// Where the guard is put when the directory of generated files is no place for it.
    pub guard_dir: PathBuf,
    /// Whether the display is closed to other users by a cookie.
    pub authority: bool,
    /// Language of sessions without one.
    pub default_lang: String,
    /// Program that nxagent runs for its dialogues.
    pub dialog: Option<String>,
    /// Program that serves the slave channel.
    pub slave_command: Option<String>,
    /// Accounts of sessions that name none.
    pub account: AccountDefaults,
    /// How accounts are made.
    pub provision: ProvisionSettings,
    /// Hooks.
    pub hooks: HookSettings,
    /// What powers the machine off; empty when the agent's end does.
    pub poweroff: Vec<String>,
    /// The agent's own program, which is started again to become the session's user.
    pub own_program: PathBuf,
    /// Search path of sessions.
    pub search_path: String,
}

/// A configuration that the agent cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = '{value}': {reason}")]
pub struct InvalidSetting {
    key: &'static str,
    value: String,
    reason: String,
}

impl Settings {
    /// Reads the settings. `own_program` is the agent's own program, `search_path` that of sessions.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] for what the configuration allows and the agent cannot do.
    pub fn from_config(
        config: &Config,
        own_program: PathBuf,
        search_path: String,
    ) -> Result<Self, InvalidSetting> {
        let optional = |key| Some(config.path(key)).filter(|path| !path.as_os_str().is_empty());
        let log_dir = config.path("path.log");
        let display = u16::try_from(config.integer("internal.nxagent.display"))
            .ok()
            .filter(|display| *display <= HIGHEST_DISPLAY)
            .ok_or_else(|| {
                invalid(config, "internal.nxagent.display", format!("not within 0..={HIGHEST_DISPLAY}"))
            })?;
        let listen = match optional("vma.nxagent.listen") {
            None => Listen::Tcp,
            Some(path) => {
                let text = path.to_string_lossy();
                if !path.is_absolute() || text.len() > 100 || text.contains([',', ':', '\n']) {
                    let reason = "must be an absolute path of at most 100 characters without comma and colon";
                    return Err(invalid(config, "vma.nxagent.listen", reason.to_owned()));
                }
                Listen::Unix(path)
            }
        };
        let guard = config
            .text("vma.nxagent.guard")
            .parse()
            .map_err(|reason| invalid(config, "vma.nxagent.guard", reason))?;
        let slave_command = Some(config.text("vma.slave.command")).filter(|command| !command.is_empty());
        let slave = config.flag("vma.slave.enable") && slave_command.is_some();
        Ok(Self {
            run_dir: config.path("path.run"),
            rpc_socket: optional("vma.rpc.socket"),
            rpc_port: config.port("internal.vm.port.vma"),
            display,
            limits: limits(config),
            options: OptionSettings {
                default_keyboard: client_default(config, "keyboard"),
                default_link: client_default(config, "link"),
                media: config.flag("vma.audio.enable"),
                slave,
                printing: config.flag("vma.printing.enable"),
                listen,
            },
            options_file: config.path("internal.vma.nxagent.config"),
            slave_file: config.path("internal.vma.slave.config"),
            printing_file: config.path("internal.vma.printing.config"),
            nxagent: config.command("command.nxagent"),
            xinit: config.command("command.xinit"),
            x_session: config.command("command.x-session"),
            x11vnc: x11vnc(config),
            guard,
            guard_dir: config.path("vma.nxagent.guard.path"),
            authority: config.flag("vma.nxagent.authority"),
            default_lang: config.text("vma.default.lang"),
            dialog: config.command("command.nxdiag").into_iter().next(),
            slave_command: slave_command.filter(|_| slave),
            account: AccountDefaults {
                name: config.text("vma.user.default.name"),
                groups: config.text("vma.user.default.groups"),
                homes: config.path("vma.user.home.path"),
            },
            provision: ProvisionSettings {
                groupadd: config.command("command.groupadd"),
                groupdel: config.command("command.groupdel"),
                useradd: config.command("command.useradd"),
                userdel: config.command("command.userdel"),
                shell: config.text("vma.user.shell"),
                home_drive: HomeDrive {
                    drive: optional("vma.user.home.drive"),
                    homes: config.path("vma.user.home.path"),
                    mkfs: vec![format!("mkfs.{}", config.text("vma.user.home.fs"))],
                    mount: config.command("command.mount"),
                    blkid: vec!["blkid".to_owned()],
                    sfdisk: vec!["sfdisk".to_owned()],
                },
            },
            hooks: hooks(config, log_dir.join("qvd-hooks.log")),
            poweroff: config.command("vma.poweroff.command"),
            log_dir,
            own_program,
            search_path,
        })
    }

    /// Port on which the audio channel listens, when there is one.
    pub fn pulse_port(&self) -> Option<u32> {
        self.options.media.then(|| media_port(self.display))
    }
}

/// So that every port that is counted from the display exists.
const HIGHEST_DISPLAY: u16 = 50_000;

fn invalid(config: &Config, key: &'static str, reason: String) -> InvalidSetting {
    InvalidSetting { key, value: config.text(key), reason }
}

fn limits(config: &Config) -> Limits {
    let initiating = config.seconds("internal.nxagent.timeout.initiating");
    Limits {
        preparing: initiating + config.seconds("vma.hook.timeout"),
        initiating,
        listening: config.seconds("internal.nxagent.timeout.listening"),
        connecting: config.seconds("internal.nxagent.timeout.connecting"),
        suspending: config.seconds("internal.nxagent.timeout.suspending"),
        stopping: config.seconds("internal.nxagent.timeout.stopping"),
        ..Limits::default()
    }
}

/// The documented key, else the one that agents of the 3.5 line read.
fn client_default(config: &Config, name: &str) -> String {
    let documented = format!("vma.default.client.{name}");
    let read = format!("vma.default.qvd.client.{name}");
    let is_set = |key: &str| config.source(key).is_some_and(|s| *s != qvd_core::config::Source::Default);
    if !is_set(&documented) && is_set(&read) { config.text(&read) } else { config.text(&documented) }
}

fn x11vnc(config: &Config) -> Vec<String> {
    let mut words = config.command("command.x11vnc");
    words.extend(config.words("vma.x11vnc.extra_args"));
    words
}

fn hooks(config: &Config, log: PathBuf) -> HookSettings {
    let kinds = [
        (HookKind::PreConnect, "vma.on_action.pre-connect"),
        (HookKind::Connect, "vma.on_action.connect"),
        (HookKind::Suspend, "vma.on_action.suspend"),
        (HookKind::Stop, "vma.on_action.stop"),
        (HookKind::PowerOff, "vma.on_action.poweroff"),
        (HookKind::Expire, "vma.on_action.expire"),
        (HookKind::Connected, "vma.on_state.connected"),
        (HookKind::Suspended, "vma.on_state.suspended"),
        (HookKind::Disconnected, "vma.on_state.disconnected"),
        (HookKind::MountHome, "vma.on_provisioning.mount_home"),
        (HookKind::AddUser, "vma.on_provisioning.add_user"),
        (HookKind::AfterAddUser, "vma.on_provisioning.after_add_user"),
    ];
    let printing = [
        (HookKind::Connected, "internal.vma.on_printing.connected"),
        (HookKind::Suspended, "internal.vma.on_printing.suspended"),
        (HookKind::Disconnected, "internal.vma.on_printing.stopped"),
    ];
    let read = |keys: &[(HookKind, &str)]| -> HashMap<_, _> {
        keys.iter().map(|(kind, key)| (*kind, config.command(key))).collect()
    };
    HookSettings {
        commands: read(&kinds),
        printing: if config.flag("vma.printing.enable") { read(&printing) } else { HashMap::new() },
        timeout: config.seconds("vma.hook.timeout"),
        log,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, InvalidSetting> {
        let config = pairs.iter().fold(Config::builder(), |b, (k, v)| b.set(*k, *v)).build().unwrap();
        Settings::from_config(&config, "/usr/bin/qvd-vma".into(), "/usr/bin".into())
    }

    #[test]
    fn the_defaults_are_those_of_the_reference() {
        let settings = read(&[]).unwrap();
        assert_eq!((settings.display, settings.rpc_port), (100, 3030));
        assert_eq!(settings.options.default_link, "adsl");
        assert_eq!(settings.limits, Limits::default());
        assert!(settings.xinit.is_empty() && settings.rpc_socket.is_none() && !settings.authority);
        assert!(!settings.options.slave && settings.slave_command.is_none());
        assert_eq!(settings.options_file, PathBuf::from("/var/run/qvd/nxagent.conf"));
    }

    #[test]
    fn an_empty_slave_command_turns_the_channel_off() {
        assert!(read(&[("vma.slave.enable", "1")]).unwrap().options.slave);
        let off = read(&[("vma.slave.enable", "1"), ("vma.slave.command", "")]).unwrap();
        assert!(!off.options.slave);
    }

    #[test]
    fn a_socket_that_would_break_the_options_line_is_refused() {
        for path in ["relative", "/a,b", "/a:b", &format!("/{}", "x".repeat(120))] {
            let error = read(&[("vma.nxagent.listen", path)]).unwrap_err();
            assert!(error.to_string().starts_with("vma.nxagent.listen = "), "{error}");
        }
        assert!(read(&[("vma.nxagent.listen", "/run/qvd/nx.sock")]).is_ok());
    }
}
