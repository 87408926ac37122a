//! What has to be done before an agent runs or wakes: account, hooks, files, launch.

use std::fmt;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use qvd_core::error::chain;
use qvd_core::hook::{HookError, HookKind};
use qvd_core::vma::Params;

use super::authority::Cookie;
use super::desktop::{self, NoDesktop};
use super::environment::{self, Environment, SessionFacts};
use super::guard::{self, GuardMode};
use super::nxagent::{self, LaunchError, RunningAgent};
use super::options::{self, InvalidParameter, Listen, property};
use super::task::PID_FILE;
use super::user_command::UserCommand;
use super::{display, session_files};
use crate::account::{Account, UnusableAccount, WantedAccount};
use crate::hooks::{Hooks, SLAVE_KEY};
use crate::provision::{self, ProvisionError};
use crate::session_exec::SessionExec;
use crate::settings::Settings;

/// What every session of this machine shares.
#[derive(Debug)]
pub struct Context {
    /// Settings.
    pub settings: Settings,
    /// Hook runner.
    pub hooks: Hooks,
    /// The library for nxagent, when it gets one.
    pub guard: Option<PathBuf>,
}

/// Session properties that were found fit to be used, with the account that they name.
#[derive(Clone)]
pub struct Request {
    /// All properties, the account's filled in; the last value of a name only.
    pub(super) properties: Params,
    wanted: WantedAccount,
}

/// The names alone: one of the values opens the client's files, and clients may send more of that kind.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.properties.iter().map(|(name, _)| name).collect();
        f.debug_struct("Request").field("properties", &names).field("wanted", &self.wanted).finish()
    }
}

/// An agent that waits for its first client.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) agent: RunningAgent,
    pub(super) seat: Seat,
    /// What is to run on the display; nothing when a launcher does that.
    pub(super) desktop: Vec<UserCommand>,
}

/// The display of a session, and how to start something on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its number.
    pub display: u16,
    /// Whose it is.
    pub account: Account,
    /// File with the cookie, when one is needed.
    pub authority: Option<PathBuf>,
    /// Environment of programs on it.
    pub environment: Environment,
}

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A value would change the meaning of the options file.
    #[error(transparent)]
    Parameter(#[from] InvalidParameter),
    /// The account cannot be used.
    #[error(transparent)]
    Account(#[from] UnusableAccount),
}

/// Why a session was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A property cannot go into the options file.
    #[error(transparent)]
    Parameter(#[from] InvalidParameter),
    /// No account.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// A hook refused.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// No program to run on the display.
    #[error(transparent)]
    NoDesktop(#[from] NoDesktop),
    /// No agent.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Every display number that was tried is in use.
    #[error("no free X display from {first} on")]
    NoDisplay {
        /// The first that was tried.
        first: u16,
    },
    /// The agent does not have the guard that the configuration demands.
    #[error("the X agent runs without its guard '{}', which vma.nxagent.guard = 1 demands", library.display())]
    Unguarded {
        /// The library.
        library: PathBuf,
    },
    /// Whether the agent has the guard that the configuration demands cannot be seen.
    #[error(
        "cannot see whether the X agent runs with its guard '{}', which vma.nxagent.guard = 1 demands",
        library.display()
    )]
    GuardUnseen {
        /// The library.
        library: PathBuf,
    },
    /// A file for the session cannot be written.
    #[error("cannot write '{}'", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A step that callers can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Provisioning,
    Launching,
}

impl Request {
    /// Checks session properties before anything is done with them.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub fn new(properties: &[(String, String)], settings: &Settings) -> Result<Self, RequestError> {
        let broken = properties
            .iter()
            .find(|(name, value)| [name, value].iter().any(|text| text.contains(['\0', '\r', '\n'])));
        if let Some((name, _)) = broken {
            let name = name.chars().filter(|c| !c.is_control()).collect();
            return Err(InvalidParameter { name }.into());
        }
        let wanted = WantedAccount::from_properties(properties, &settings.account)?;
        let request = Self { properties: wanted.filled_in(&last_values(properties)), wanted };
        options::line(&request.properties, &settings.options, settings.display, settings.display)?;
        Ok(request)
    }
}

impl Context {
    /// The pre-connect hook; for a resume also the files that the agent reads again.
    pub(super) async fn consult(&self, request: &Request, resume: Option<&Seat>) -> Result<(), StartError> {
        let state = if resume.is_some() { "suspended" } else { "stopped" };
        let pairs = action_pairs(&request.properties, state, "pre_connect");
        self.hooks.run(HookKind::PreConnect, &pairs).await?;
        if let Some(seat) = resume {
            self.write_files(request, &seat.account, seat.display)?;
        }
        Ok(())
    }

    /// The connect hook of a resume.
    pub(super) async fn connect_hook(&self, request: &Request) -> Result<(), HookError> {
        let pairs = action_pairs(&request.properties, "suspended", "connect");
        self.hooks.run(HookKind::Connect, &pairs).await
    }

    /// All of a first start; `step` hears where it is.
    ///
    /// # Cancellation
    ///
    /// A dropped call leaves no agent and no hook behind.
    pub(super) async fn start(&self, request: &Request, step: impl Fn(Step)) -> Result<Prepared, StartError> {
        let began = || step(Step::Provisioning);
        let account = provision::ensure(
            &request.wanted,
            &request.properties,
            &self.settings.provision,
            &self.hooks,
            began,
        )
        .await?;
        let pairs = action_pairs(&request.properties, "stopped", "connect");
        self.hooks.run(HookKind::Connect, &pairs).await?;
        step(Step::Launching);
        self.launch(request, account).await
    }

    /// Launches the agent on the first display that is free.
    async fn launch(&self, request: &Request, account: Account) -> Result<Prepared, StartError> {
        let common = self.environment(&account);
        let find = |program: &str| desktop::find_in(&common["PATH"], program);
        let desktop = desktop::choose(&self.settings.x_session, find)?;
        let none_free = || StartError::NoDisplay { first: self.settings.display };
        let mut from = self.settings.display;
        // An agent that was killed left it, and the next one would not take its place.
        self.remove_socket();
        loop {
            let number = display::first_free(from).ok_or_else(none_free)?;
            self.write_files(request, &account, number)?;
            let seat = Seat {
                display: number,
                account: account.clone(),
                authority: self.write_authority(&account, number)?,
                environment: common.clone(),
            };
            let command = self.agent_command(&seat, &desktop);
            let log = self.settings.log_dir.join("qvd-nxagent.log");
            match nxagent::launch(&command, account.uid, &log, &self.pid_file()).await {
                Ok(agent) => {
                    self.check_guard(&agent)?;
                    let seat = Seat { environment: on_display(&seat), ..seat };
                    let desktop = self.desktop_commands(&seat, desktop);
                    return Ok(Prepared { agent, seat, desktop });
                }
                // Somebody was faster.
                Err(LaunchError::DisplayTaken) => {
                    tracing::info!(number, "display number is in use, trying the next");
                    from = number.checked_add(1).ok_or_else(none_free)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The loader passes over a library that it cannot take.
    fn check_guard(&self, agent: &RunningAgent) -> Result<(), StartError> {
        let Some(library) = &self.guard else { return Ok(()) };
        guarded(guard::is_loaded(agent.pid(), library), self.settings.guard, library)
    }

    fn agent_command(&self, seat: &Seat, desktop: &[Vec<String>]) -> UserCommand {
        let settings = &self.settings;
        let display = format!(":{}", seat.display);
        let mut server = settings.nxagent.clone();
        server.push(display.clone());
        match &seat.authority {
            Some(file) => server.extend(["-auth".to_owned(), file.display().to_string()]),
            None => server.push("-ac".to_owned()),
        }
        server.extend(["-nolisten", "tcp", "-name", "QVD", "-display"].map(str::to_owned));
        server.push(format!("nx/nx,options={}{display}", settings.options_file.display()));
        let mut environment = seat.environment.clone();
        // Towards the user's screen the cookie of our own display would be a wrong one.
        environment.insert("XAUTHORITY".to_owned(), "/dev/null".to_owned());
        let program = &settings.own_program;
        if settings.xinit.is_empty() {
            // The first client may well be one that leaves at once, which would reset an ordinary X server.
            server.push("-noreset".to_owned());
            return UserCommand::new(&seat.account, server, &environment, self.guard.as_deref(), program);
        }
        let mut words = settings.xinit.clone();
        words.extend(desktop.first().into_iter().flatten().cloned());
        words.push("--".to_owned());
        match &self.guard {
            None => words.extend(server),
            Some(library) => {
                let exec =
                    SessionExec { preload: Some(library.clone()), command: server, ..Default::default() };
                let line = exec.server_line(program, &display);
                words.extend(line.iter().map(|word| word.to_string_lossy().into_owned()));
            }
        }
        if let Some(file) = &seat.authority {
            environment.insert("XAUTHORITY".to_owned(), file.display().to_string());
        }
        UserCommand::kept(&seat.account, words, &environment, program)
    }

    /// What runs on the display; nothing when a launcher has started it.
    fn desktop_commands(&self, seat: &Seat, desktop: Vec<Vec<String>>) -> Vec<UserCommand> {
        if !self.settings.xinit.is_empty() {
            return Vec::new();
        }
        let own_program = &self.settings.own_program;
        let kept = |words| UserCommand::kept(&seat.account, words, &seat.environment, own_program);
        desktop.into_iter().map(kept).collect()
    }

    fn environment(&self, account: &Account) -> Environment {
        let settings = &self.settings;
        let files: Vec<String> = ["/etc/locale.conf", "/etc/default/locale", "/etc/environment"]
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .chain(own_environment(account))
            .collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let facts = SessionFacts {
            user: &account.name,
            home: &account.home.to_string_lossy(),
            path: &settings.search_path,
            default_lang: &settings.default_lang,
            dialog: settings.dialog.as_deref(),
            slave_command: settings.slave_command.as_deref(),
            pulse_port: settings.pulse_port(),
        };
        environment::session(&facts, &files)
    }

    /// Options, slave key and printing settings, for a start and for every resume.
    fn write_files(&self, request: &Request, account: &Account, display: u16) -> Result<(), StartError> {
        let settings = &self.settings;
        let properties = &request.properties;
        let options = options::line(properties, &settings.options, display, settings.display)?;
        let printing = session_files::properties_text(&session_files::printing_pairs(
            properties,
            settings.options.printing,
            settings.display,
        ));
        let key = property(properties, SLAVE_KEY).unwrap_or_default();
        let files = [
            (&settings.options_file, options.as_bytes(), 0o600),
            (&settings.printing_file, printing.as_bytes(), 0o644),
            (&settings.slave_file, key.as_bytes(), 0o400),
        ];
        for (path, content, mode) in files {
            session_files::write(path, content, mode, Some(account))
                .map_err(|source| StartError::File { path: path.clone(), source })?;
        }
        Ok(())
    }

    fn write_authority(&self, account: &Account, display: u16) -> Result<Option<PathBuf>, StartError> {
        if !self.settings.authority {
            return Ok(None);
        }
        let path = self.authority_file();
        let error = |source| StartError::File { path: path.clone(), source };
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|source| error(io::Error::other(source)))?;
        let record = Cookie::new(random).authority(display);
        session_files::write(&path, &record, 0o600, Some(account)).map_err(error)?;
        Ok(Some(path))
    }

    /// Lets the group of the directory connect to the agent's socket, which the agent makes anew for every client
    /// and which only its owner can write to then: the router need not be the session's user.
    pub(super) fn open_to_group(&self) {
        if let Listen::Unix(path) = &self.settings.options.listen
            && let Err(error) = std::fs::set_permissions(path, PermissionsExt::from_mode(0o660))
        {
            tracing::warn!(path = %path.display(), %error, "cannot open the agent's socket to its group");
        }
    }

    /// Removes what belongs to one session.
    pub(super) fn remove_files(&self) {
        let settings = &self.settings;
        for path in [&settings.options_file, &settings.slave_file, &self.authority_file(), &self.pid_file()] {
            session_files::remove(path);
        }
        self.remove_socket();
    }

    fn remove_socket(&self) {
        if let Listen::Unix(path) = &self.settings.options.listen {
            session_files::remove(path);
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.settings.run_dir.join(PID_FILE)
    }

    fn authority_file(&self) -> PathBuf {
        self.settings.run_dir.join("nxagent.xauth")
    }
}

/// Whether an agent may go on that has loaded the guard, has not, or does not let it be seen.
fn guarded(loaded: Option<bool>, mode: GuardMode, library: &Path) -> Result<(), StartError> {
    match (loaded, mode) {
        (Some(true), _) => {}
        (Some(false), GuardMode::On) => return Err(StartError::Unguarded { library: library.to_owned() }),
        (None, GuardMode::On) => return Err(StartError::GuardUnseen { library: library.to_owned() }),
        (Some(false), GuardMode::Auto | GuardMode::Off) => tracing::error!(
            library = %library.display(),
            "the agent did not load its guard, its log tells why: a link that breaks during a resume can cost the desktop"
        ),
        (None, GuardMode::Auto | GuardMode::Off) => {
            tracing::warn!(library = %library.display(), "cannot see whether the agent has its guard");
        }
    }
    Ok(())
}

/// Pairs of an action's hook.
pub(crate) fn action_pairs(properties: &[(String, String)], state: &str, action: &str) -> Params {
    let mut pairs = properties.to_vec();
    pairs.push(("qvd.vm.session.state".to_owned(), state.to_owned()));
    pairs.push(("qvd.hook.on_action".to_owned(), action.to_owned()));
    pairs
}

/// An error with all that caused it, on one line, for the caller of a start.
pub(super) fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).to_string().replace(['\n', '\r'], " ")
}

fn last_values(properties: &[(String, String)]) -> Params {
    let is_last = |at: usize| !properties[at + 1..].iter().any(|(name, _)| *name == properties[at].0);
    (0..properties.len()).filter(|at| is_last(*at)).map(|at| properties[at].clone()).collect()
}

/// The environment of programs on the display itself.
fn on_display(seat: &Seat) -> Environment {
    let mut environment = seat.environment.clone();
    environment.insert("DISPLAY".to_owned(), format!(":{}", seat.display));
    if let Some(file) = &seat.authority {
        environment.insert("XAUTHORITY".to_owned(), file.display().to_string());
    }
    environment
}

/// The user's own variables. Read only from a plain file that is the user's: the agent may be root, and must not
/// be led to another file.
fn own_environment(account: &Account) -> Option<String> {
    use std::io::Read;
    let path: &Path = &account.home.join(".qvd_environment");
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.uid() != account.uid.as_raw() {
        return None;
    }
    let mut text = String::new();
    file.take(64 << 10).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::config::Config;

    #[test]
    fn where_the_guard_is_demanded_only_one_that_is_seen_will_do() {
        let library = Path::new("/run/nxagent-guard.so");
        let refusal = |loaded| guarded(loaded, GuardMode::On, library).unwrap_err().to_string();
        assert!(refusal(Some(false)).starts_with("the X agent runs without its guard '/run/"));
        assert!(refusal(None).starts_with("cannot see whether the X agent runs with its guard '/run/"));
        guarded(Some(true), GuardMode::On, library).unwrap();
        for loaded in [Some(true), Some(false), None] {
            guarded(loaded, GuardMode::Auto, library).unwrap();
        }
    }

    #[test]
    fn a_request_does_not_show_what_it_was_given() {
        let config = Config::builder().build().unwrap();
        let settings = Settings::from_config(&config, "/usr/bin/qvd-vma".into(), "/usr/bin".into()).unwrap();
        let properties = [(SLAVE_KEY.to_owned(), "k3y-of-a-client".to_owned())];
        let request = Request::new(&properties, &settings).unwrap();
        let shown = format!("{request:?}");
        assert!(shown.contains(SLAVE_KEY) && !shown.contains("k3y-of-a-client"), "{shown}");
    }
}
