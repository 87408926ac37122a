//! `qa config …`

use std::path::Path;

use qvd_core::Secret;
use qvd_db::SslMaterial;

use super::session::{Ending, Failure, Session};
use crate::error::{Error, reason};

pub(super) fn get(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    warn_of_filter(session);
    let (entries, missing) = session.admin.config_entries(&session.invocation.words);
    let invocation = &session.invocation;
    let mut text = String::new();
    for entry in entries {
        if entry.secret && !invocation.show_secrets && !invocation.words.contains(&entry.key) {
            continue;
        }
        let value = if invocation.raw { &entry.raw } else { &entry.value };
        let source = if invocation.source { format!("\t{}", entry.source) } else { String::new() };
        text.push_str(&format!("{}={value}{source}\n", entry.key));
    }
    session.print(&text)?;
    match missing.as_slice() {
        [] => Ok(Ending::Complete),
        [first, rest @ ..] => {
            for key in rest {
                let error = Error::NotFound(format!("configuration key '{key}' is not set"));
                super::session::report(
                    session.console,
                    &error,
                    session.invocation.quiet,
                    session.invocation.json,
                );
            }
            Err(Error::NotFound(format!("configuration key '{first}' is not set")).into())
        }
    }
}

pub(super) async fn set(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    warn_of_filter(session);
    let changes: Vec<_> = session.invocation.named.clone().into_iter().collect();
    let set = session.admin.set_config(&changes, session.invocation.strict).await?;
    for warning in set.warnings {
        session.warn(warning);
    }
    if set.refused.is_empty() {
        return Ok(Ending::Complete);
    }
    session.console.complain("to set SSL keys and certificates use the 'config ssl' command");
    Err(Failure::Told)
}

pub(super) async fn del(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    warn_of_filter(session);
    if session.invocation.words.is_empty() && !session.confirmed("delete all configuration variables")? {
        return Ok(Ending::Partial);
    }
    let count = session.admin.delete_config(&session.invocation.words).await?;
    session.say(&format!("{count} config entries deleted.\n"))?;
    Ok(if count == 0 { Ending::Partial } else { Ending::Complete })
}

pub(super) async fn ssl(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    warn_of_filter(session);
    let cert = file(session, "cert", "cert file")?;
    let key = file(session, "key", "key file")?;
    let crl = file(session, "crl", "crl file")?;
    let ca = file(session, "ca", "ca file")?;
    let material = SslMaterial { cert, key: key.map(Secret::new), ca, crl };
    for warning in session.admin.set_ssl(material).await? {
        session.warn(warning);
    }
    session.say("SSL certificate, private key, ca and crl set.\n")?;
    Ok(Ending::Complete)
}

/// The text of a file that was named; none when it was not.
fn file(session: &Session<'_, '_>, argument: &'static str, what: &str) -> Result<Option<String>, Failure> {
    let Some(path) = session.argument(argument).filter(|path| !path.is_empty()) else { return Ok(None) };
    let unreadable =
        |reason: &str| Error::invalid(argument, format!("{path}: Unable to read {what}: {reason}"));
    match (session.console.read_file)(Path::new(path)) {
        Ok(text) if text.trim().is_empty() => Err(unreadable("the file is empty").into()),
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(unreadable(&reason(&error)).into()),
    }
}

fn warn_of_filter(session: &mut Session<'_, '_>) {
    if session.invocation.idle_filter {
        session.warn("configuration keys are given as arguments; the filter is ignored");
    }
}
