//! What only the user can answer: the password, the certificate, which machine.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use async_trait::async_trait;
use qvd_client::Error;
use qvd_client::list::{Chooser, Entry, printable};
use qvd_client::trust::{Decision, Judge, Question};

use crate::terminal::ask_secret;

/// Whether somebody sits there who can be asked.
pub(crate) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for the password without showing it.
pub(crate) async fn password(login: &str, host: &str) -> io::Result<String> {
    ask_secret(&format!("Password of {} at {}: ", printable(login), printable(host))).await
}

/// The first line of standard input.
pub(crate) async fn password_from_stdin() -> io::Result<String> {
    let line = line_of_stdin().await?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "standard input is empty"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Shows a certificate on the terminal and asks.
#[derive(Debug)]
pub(crate) struct AtTheTerminal;

#[async_trait]
impl Judge for AtTheTerminal {
    async fn decide(&self, question: &Question) -> Decision {
        let text = describe(question);
        let changed = question.changed_from.is_some();
        let prompt = if changed {
            "Type 'replace' to accept the new certificate: "
        } else {
            "Accept it? [n]o, [o]nce, [a]lways: "
        };
        let mut shown = format!("{text}{prompt}");
        for _ in 0..ATTEMPTS {
            let Ok(answer) = answer(&shown).await else { break };
            if let Some(decision) = understood(changed, &answer) {
                return decision;
            }
            shown = format!("'{}' is none of them. {prompt}", printable(answer.trim()));
        }
        Decision::Reject
    }
}

/// How often a question about a certificate is asked before nothing counts as no.
const ATTEMPTS: u32 = 3;

/// What an answer means. A certificate that replaces another is accepted by the whole word alone.
fn understood(changed: bool, answer: &str) -> Option<Decision> {
    match (changed, answer.trim().to_ascii_lowercase().as_str()) {
        (true, "replace") | (false, "a" | "always") => Some(Decision::Always),
        (false, "o" | "once") => Some(Decision::Once),
        (true, _) | (false, "" | "n" | "no") => Some(Decision::Reject),
        (false, _) => None,
    }
}

/// Shows the list on the terminal and asks.
#[derive(Debug)]
pub(crate) struct FromTheList;

#[async_trait]
impl Chooser for FromTheList {
    async fn choose(&self, vms: &[Entry]) -> Result<i64, Error> {
        if let [only] = vms {
            return Ok(only.id);
        }
        let answer = answer(&format!("{}Which one? ", table(vms))).await.unwrap_or_default();
        chosen(vms, answer.trim())
            .ok_or_else(|| Error::NoChoice(format!("'{}' is not on the list", printable(answer.trim()))))
    }
}

/// The machine that an answer names, by id or by name.
fn chosen(vms: &[Entry], answer: &str) -> Option<i64> {
    let by_id = answer.parse().ok().filter(|id| vms.iter().any(|vm| vm.id == *id));
    by_id.or_else(|| vms.iter().find(|vm| vm.name == answer).map(|vm| vm.id))
}

/// The list for people.
pub(crate) fn table(vms: &[Entry]) -> String {
    let mut text = format!("{:>8}  {:<12} {:<8} Name\n", "Id", "State", "Blocked");
    for vm in vms {
        let blocked = if vm.blocked { "yes" } else { "no" };
        let (state, name) = (printable(&vm.state), printable(&vm.name));
        text.push_str(&format!("{:>8}  {state:<12} {blocked:<8} {name}\n", vm.id));
    }
    text
}

fn describe(question: &Question) -> String {
    let report = &question.report;
    let mut text = String::new();
    if let Some(remembered) = question.changed_from {
        text.push_str(&format!(
            "\n@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n\
             @  WARNING: THE CERTIFICATE OF THIS SERVER HAS CHANGED            @\n\
             @  Somebody may be pretending to be it, to learn your password.   @\n\
             @  Ask the administrator before you go on.                        @\n\
             @@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n\
             remembered:  {remembered}\n"
        ));
    }
    let leaf = &report.chain[0];
    text.push_str(&format!(
        "\nCertificate of {}\n  subject:     {}\n  issuer:      {}\n  names:       {}\n  fingerprint: {}\n",
        report.server,
        leaf.subject,
        leaf.issuer,
        leaf.names.join(", "),
        leaf.fingerprint
    ));
    for problem in &report.problems {
        let place =
            if problem.depth == 0 { String::new() } else { format!(" (authority {})", problem.depth) };
        text.push_str(&format!("  problem:     {}{place}\n", problem.flaw));
    }
    text
}

/// Asks on the terminal.
async fn answer(prompt: &str) -> io::Result<String> {
    io::stderr().write_all(prompt.as_bytes())?;
    line_of_stdin().await
}

/// The next line, read aside from the runtime's own thread; empty at the end.
async fn line_of_stdin() -> io::Result<String> {
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    reading.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use qvd_core::state::VmState;

    use super::*;

    #[test]
    fn a_word_that_is_no_answer_is_asked_about_and_never_a_yes() {
        for (answer, meant) in [
            ("a", Some(Decision::Always)),
            (" Once\n", Some(Decision::Once)),
            ("n", Some(Decision::Reject)),
            ("", Some(Decision::Reject)),
            ("y", None),
            ("replace", None),
        ] {
            assert_eq!(understood(false, answer), meant, "{answer:?}");
        }
        assert_eq!(understood(true, "replace"), Some(Decision::Always));
        for answer in ["a", "y", "once", ""] {
            assert_eq!(understood(true, answer), Some(Decision::Reject), "{answer:?}");
        }
    }

    #[test]
    fn an_answer_is_an_id_or_a_name() {
        let vms = [
            Entry::new(7, "desk", VmState::Running, false),
            Entry::new(9, "lab\u{7}", VmState::Stopped, true),
        ];
        assert_eq!(chosen(&vms, "9"), Some(9));
        assert_eq!(chosen(&vms, "desk"), Some(7));
        assert_eq!(chosen(&vms, "8"), None);
        assert_eq!(chosen(&vms, ""), None);
        let table = table(&vms);
        assert!(table.contains("       9  stopped      yes      lab?\n"), "{table}");
    }
}
