//! `qa user tokens …`

use std::time::SystemTime;

use super::host_commands::{clock, dash};
use super::session::{Ending, Failure, Session};
use super::table::Table;
use crate::error::Error;
use crate::ops::TokenRow;

pub(super) async fn tokens(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let words: Vec<&str> = session.invocation.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => list(session).await,
        ["revoke"] => revoke(session).await,
        _ => {
            let message =
                "either 'list' or 'revoke' must follow (qa user tokens list, qa user tokens revoke)";
            Err(Error::Invalid { field: None, message: message.to_owned() }.into())
        }
    }
}

async fn list(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let tokens = session.admin.user_tokens(&session.invocation.filter).await?;
    let now = SystemTime::from(session.admin.now().timestamp());
    session.list(&tokens, || table(&tokens, now))
}

fn table(tokens: &[TokenRow], now: SystemTime) -> Table {
    let mut table = Table::new(&["User", "Login", "VM", "Uses", "Used", "Ends in"]);
    for TokenRow { token } in tokens {
        let left = token.expires_at.duration_since(now).unwrap_or_default();
        table.row([
            token.user_id.to_string(),
            token.login.clone(),
            token.vm_id.map_or_else(dash, |vm| vm.to_string()),
            if token.multi_use { "many" } else { "one" }.to_owned(),
            if token.used_at.is_some() { "yes" } else { "no" }.to_owned(),
            clock(left.as_secs()),
        ]);
    }
    table
}

async fn revoke(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("revoke the tokens of all users")? {
        return Ok(Ending::Partial);
    }
    let users = session.admin.users(&session.invocation.filter).await?;
    let revoked = session.admin.revoke_tokens(&users).await?;
    session.say(&format!("Revoked {revoked} token(s) of {} user(s)", users.len()))?;
    Ok(if revoked == 0 { Ending::Partial } else { Ending::Complete })
}
