//! The environment of a session. Pure; files come in as text.

use std::collections::BTreeMap;

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// Whose session it is and what it may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFacts<'a> {
    /// Login name.
    pub user: &'a str,
    /// Home directory.
    pub home: &'a str,
    /// Search path.
    pub path: &'a str,
    /// Language when no file names one.
    pub default_lang: &'a str,
    /// Program that the agent runs for its dialogues.
    pub dialog: Option<&'a str>,
    /// Program that serves the slave channel.
    pub slave_command: Option<&'a str>,
    /// Port of the audio channel.
    pub pulse_port: Option<u32>,
}

/// What agent and desktop have in common. `files` are the texts of `/etc/locale.conf`, `/etc/default/locale`,
/// `/etc/environment` and `~/.qvd_environment`, in that order; a later one wins.
pub fn session(facts: &SessionFacts<'_>, files: &[&str]) -> Environment {
    let mut env = Environment::new();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("PATH", facts.path);
    set("HOME", facts.home);
    set("LOGNAME", facts.user);
    set("USER", facts.user);
    set("MAIL", &format!("/var/mail/{}", facts.user));
    if let Some(dialog) = facts.dialog {
        set("NX_CLIENT", dialog);
    }
    if let Some(command) = facts.slave_command {
        set("QVD_SLAVE_CMD", command);
        set("NX_SLAVE_CMD", command);
    }
    if let Some(port) = facts.pulse_port {
        set("PULSE_SERVER", &format!("tcp:localhost:{port}"));
    }
    for file in files {
        env.extend(assignments(file));
    }
    if !env.contains_key("LANG") && !facts.default_lang.is_empty() {
        env.insert("LANG".to_owned(), facts.default_lang.to_owned());
    }
    env
}

/// The `NAME=VALUE` lines of a file; `#` starts a comment line, a matching pair of quotes is removed.
fn assignments(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.lines().filter_map(|line| {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let name = name.trim();
        let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (valid && !value.contains('\0')).then(|| (name.to_owned(), unquoted(value.trim()).to_owned()))
    })
}

fn unquoted(value: &str) -> &str {
    ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> SessionFacts<'static> {
        SessionFacts {
            user: "ana",
            home: "/home/ana",
            path: "/usr/bin",
            default_lang: "en_US.UTF-8",
            ..Default::default()
        }
    }

    #[test]
    fn the_account_is_named_in_every_way_that_programs_look() {
        let env = session(&facts(), &[]);
        assert_eq!(env["HOME"], "/home/ana");
        assert_eq!((env["USER"].as_str(), env["LOGNAME"].as_str()), ("ana", "ana"));
        assert_eq!(env["MAIL"], "/var/mail/ana");
        assert_eq!(env["LANG"], "en_US.UTF-8");
        assert!(!env.contains_key("PULSE_SERVER") && !env.contains_key("QVD_SLAVE_CMD"));
    }

    #[test]
    fn channels_are_announced_under_the_names_of_both_nx_lines() {
        let env = session(
            &SessionFacts {
                slave_command: Some("/s"),
                pulse_port: Some(7100),
                dialog: Some("/d"),
                ..facts()
            },
            &[],
        );
        assert_eq!((env["QVD_SLAVE_CMD"].as_str(), env["NX_SLAVE_CMD"].as_str()), ("/s", "/s"));
        assert_eq!(env["PULSE_SERVER"], "tcp:localhost:7100");
        assert_eq!(env["NX_CLIENT"], "/d");
    }

    #[test]
    fn files_are_read_in_order_and_quotes_come_off() {
        let env = session(
            &facts(),
            &[
                "LANG=C\n",
                "# comment\n LANG = \"es_ES.UTF-8\"\nexport TZ='Europe/Madrid'\nbad line\n=x\n9 9=1\n",
                "ODD=\"half\n",
            ],
        );
        assert_eq!(env["LANG"], "es_ES.UTF-8");
        assert_eq!(env["TZ"], "Europe/Madrid");
        assert_eq!(env["ODD"], "\"half");
        assert!(!env.contains_key("9 9") && !env.contains_key(""));
    }
}
