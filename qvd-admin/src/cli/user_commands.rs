//! `qa user …`

use qvd_core::{Secret, UserId};

use super::session::{Ending, Failure, Session};
use super::table::Table;
use crate::error::Error;
use crate::filter::Filter;
use crate::ops::NewUser;

pub(super) async fn add(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let login = session.mandatory("login");
    let password = match session.argument("password") {
        Some(password) => password.to_owned(),
        None => new_password(session, &login)?,
    };
    let id = session.admin.add_user(NewUser { login, password: Secret::new(password) }).await?;
    session.say(&format!("User added with id {id}"))?;
    Ok(Ending::Complete)
}

pub(super) async fn list(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let users = session.admin.users(&session.invocation.filter).await?;
    session.list(&users, || {
        let mut table = Table::new(&["Id", "Login"]);
        for user in users.iter().map(|found| &found.row.user) {
            table.row([user.id.to_string(), user.login.clone()]);
        }
        table
    })
}

pub(super) async fn passwd(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let named = session.argument("user").or(session.argument("login")).map(str::to_owned);
    let (id, login) = match (named, session.id("user_id")?) {
        (Some(login), _) => (session.admin.user_by_login(&login).await?, login),
        (None, id) => {
            let found = session.admin.users(&Filter::id(id.unwrap_or_default())).await?;
            let no_such_user = || Error::NotFound(format!("No such user: {}", id.unwrap_or_default()));
            let user = &found.first().ok_or_else(no_such_user)?.row.user;
            (user.id, user.login.clone())
        }
    };
    change(session, id, &login).await
}

async fn change(session: &mut Session<'_, '_>, id: UserId, login: &str) -> Result<Ending, Failure> {
    let password = new_password(session, login)?;
    session.admin.set_password(id, Secret::new(password)).await?;
    Ok(Ending::Complete)
}

pub(super) async fn del(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("delete all users")? {
        return Ok(Ending::Partial);
    }
    let users = session.admin.users(&session.invocation.filter).await?;
    session.say(&format!("Deleting {} user(s)", users.len()))?;
    let outcome = session.admin.delete_users(&users).await?;
    session.explain("user", &outcome);
    Ok(Ending::of(&outcome))
}

/// One line of standard input, or the same text twice from the person at the terminal.
fn new_password(session: &mut Session<'_, '_>, login: &str) -> Result<String, Failure> {
    let console = &mut *session.console;
    if session.invocation.password_stdin {
        return console.line().map_err(Failure::Stream)?.ok_or_else(none_given);
    }
    let first = console.ask_hidden(&format!("New password for {login}: ")).map_err(Failure::Stream)?;
    let again = console.ask_hidden("Again: ").map_err(Failure::Stream)?;
    match (first, again) {
        (Some(first), Some(again)) if first == again => Ok(first),
        (None, _) => Err(none_given()),
        _ => {
            console.complain("Entered passwords don't match");
            Err(Failure::Told)
        }
    }
}

fn none_given() -> Failure {
    Error::invalid("password", "no password given").into()
}
