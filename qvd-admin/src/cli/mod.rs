//! The `qa` command line: parse, check, ask, call [`Admin`], print.
//!
//! Nothing here touches the process: arguments, streams and the database come from the caller, the exit code goes
//! back to it. So a whole session can be a test.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | done; also when nothing matched, or the answer to a prompt was no |
//! | 1 | any error |
//! | 2 | an option that does not exist, or that the command does not have |
//! | 3 | with `--strict`: nothing matched, or something was skipped |

mod catalogue;
mod check;
mod config_commands;
mod console;
mod di_commands;
mod help;
mod host_commands;
mod invocation;
mod json;
mod options;
mod osf_commands;
mod property_commands;
mod session;
mod session_commands;
mod table;
mod token_commands;
mod user_commands;
mod vm_commands;

use std::future::Future;
use std::io;

use catalogue::{Action, COMMANDS};
use invocation::Invocation;
use options::{CommandLine, LineError};
use session::{Ending, Failure, Session};

pub use console::Console;

use crate::error::Error;
use crate::ops::Admin;

/// Runs one command and answers the exit code. `arguments` are those of the program, its name excluded; the database
/// is opened by `connect`, and only for a command that is well-formed.
///
/// # Cancellation
///
/// Dropping the future leaves done what was done; every single change is whole.
pub async fn run<C, F>(
    arguments: impl IntoIterator<Item = String>,
    console: &mut Console<'_>,
    connect: C,
) -> u8
where
    C: FnOnce() -> F,
    F: Future<Output = Result<Admin, Error>>,
{
    let (line, error) = CommandLine::parse(arguments);
    let quiet = line.quiet;
    match perform(line, error, console, connect).await {
        Ok(code) => code,
        // Whoever reads our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ERROR,
        Err(error) => {
            if !quiet {
                console.complain(&format!("Error: cannot write: {}", crate::error::reason(&error)));
            }
            ERROR
        }
    }
}

/// Every command's two words with its help, in the order of the list of commands; for a manual page.
pub fn help_pages() -> impl Iterator<Item = (String, String)> {
    COMMANDS.iter().map(|command| (format!("{} {}", command.object, command.verb), help::page(command)))
}

const DONE: u8 = 0;
const ERROR: u8 = 1;
const MALFORMED: u8 = 2;
const NOT_ALL: u8 = 3;

async fn perform<C, F>(
    line: CommandLine,
    error: Option<LineError>,
    console: &mut Console<'_>,
    connect: C,
) -> io::Result<u8>
where
    C: FnOnce() -> F,
    F: Future<Output = Result<Admin, Error>>,
{
    let named = line.object().zip(line.verb()).and_then(|(object, verb)| catalogue::find(object, verb));
    let error = error.or_else(|| {
        let command = named?;
        let option = line.idle_option(command.usage)?;
        Some(LineError::Idle { option, command: format!("{} {}", command.object, command.verb) })
    });
    if let Some(error) = error {
        console.complain(&error.to_string());
        let help = named.map_or_else(|| listing(&line), help::page);
        console.print(&help)?;
        return Ok(MALFORMED);
    }
    let Some(command) = named else {
        console.print(&listing(&line))?;
        let asked = line.help && line.verb().is_none();
        return Ok(if asked { DONE } else { ERROR });
    };
    if line.help {
        console.print(&help::page(command))?;
        return Ok(DONE);
    }
    let terminal = console.echo.is_some();
    let invocation = match Invocation::read(command, line, terminal) {
        Ok(invocation) => invocation,
        Err(invocation::Wrong::One { error, quiet, json }) => {
            session::report(console, &error, quiet, json);
            return Ok(ERROR);
        }
        Err(invocation::Wrong::Several(problems)) => {
            for problem in &problems {
                console.complain(problem);
            }
            let errors = if problems.len() == 1 { "error" } else { "errors" };
            console.complain(&format!("{} {errors} encountered", problems.len()));
            console.print(&format!("\n{}", help::page(command)))?;
            return Ok(ERROR);
        }
    };
    let (quiet, json, strict) = (invocation.quiet, invocation.json, invocation.strict);
    let outcome = match connect().await {
        Ok(admin) => {
            let mut session = Session { console, admin, invocation };
            dispatch(command.action, &mut session).await
        }
        Err(error) => Err(Failure::Operation(error)),
    };
    match outcome {
        Ok(Ending::Complete) => Ok(DONE),
        Ok(Ending::Partial) => Ok(if strict { NOT_ALL } else { DONE }),
        Err(Failure::Told) => Ok(ERROR),
        Err(Failure::Operation(error)) => {
            session::report(console, &error, quiet, json);
            Ok(ERROR)
        }
        Err(Failure::Stream(error)) => Err(error),
    }
}

/// What there is to choose from, when the words name no command.
fn listing(line: &CommandLine) -> String {
    let known = |object: &str| COMMANDS.iter().any(|command| command.object == object);
    match (line.object(), line.verb()) {
        (None, _) => help::commands("Valid command expected", None),
        (Some(object), None) => {
            help::commands(&format!("{object}: Valid command expected"), known(object).then_some(object))
        }
        (Some(object), Some(verb)) => {
            let heading = format!("{object}: '{verb}' not implemented");
            help::commands(&heading, known(object).then_some(object))
        }
    }
}

async fn dispatch(action: Action, session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    match action {
        Action::ConfigDel => config_commands::del(session).await,
        Action::ConfigGet => config_commands::get(session),
        Action::ConfigSet => config_commands::set(session).await,
        Action::ConfigSsl => config_commands::ssl(session).await,
        Action::DiAdd => di_commands::add(session).await,
        Action::DiDel => di_commands::del(session).await,
        Action::DiList => di_commands::list(session).await,
        Action::DiTag => di_commands::tag(session).await,
        Action::DiUntag => di_commands::untag(session).await,
        Action::HostAdd => host_commands::add(session).await,
        Action::HostBlock(blocked) => host_commands::block(session, blocked).await,
        Action::HostCounters => host_commands::counters(session).await,
        Action::HostDel => host_commands::del(session).await,
        Action::HostExplain => host_commands::explain(session).await,
        Action::HostList => host_commands::list(session).await,
        Action::OsfAdd => osf_commands::add(session).await,
        Action::OsfDel => osf_commands::del(session).await,
        Action::OsfList => osf_commands::list(session).await,
        Action::SessionList => session_commands::list(session).await,
        Action::UserAdd => user_commands::add(session).await,
        Action::UserDel => user_commands::del(session).await,
        Action::UserList => user_commands::list(session).await,
        Action::UserPasswd => user_commands::passwd(session).await,
        Action::UserTokens => token_commands::tokens(session).await,
        Action::VmAccess(access) => vm_commands::access(session, access).await,
        Action::VmAdd => vm_commands::add(session).await,
        Action::VmBlock(blocked) => vm_commands::block(session, blocked).await,
        Action::VmCounters => vm_commands::counters(session).await,
        Action::VmDel => vm_commands::del(session).await,
        Action::VmDisconnectUser => vm_commands::disconnect_user(session).await,
        Action::VmEdit => vm_commands::edit(session).await,
        Action::VmList => vm_commands::list(session).await,
        Action::VmStart => vm_commands::start(session).await,
        Action::VmStop => vm_commands::stop(session).await,
        Action::PropDel => property_commands::del(session).await,
        Action::PropGet => property_commands::get(session).await,
        Action::PropSet => property_commands::set(session).await,
    }
}
