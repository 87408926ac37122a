//! The option rules of the 3.5 tools: options anywhere, in any case, shortened to a unique prefix, with one dash or two.

use std::collections::BTreeMap;
use std::time::Duration;

/// A command line, taken apart but not yet understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// Object, command and arguments, in order.
    pub(super) words: Vec<String>,
    /// Every `-f`, in order.
    pub(super) filters: Vec<String>,
    pub(super) force: bool,
    pub(super) quiet: bool,
    pub(super) help: bool,
    pub(super) strict: bool,
    pub(super) json: bool,
    pub(super) raw: bool,
    pub(super) source: bool,
    pub(super) show_secrets: bool,
    pub(super) password_stdin: bool,
    pub(super) purge: bool,
    /// Wait for the final state; at most this long.
    pub(super) wait: Option<Duration>,
}

/// A command line that breaks the option rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("Unknown option: {0}")]
    Unknown(String),
    #[error("Option {name} is ambiguous ({candidates})")]
    Ambiguous { name: String, candidates: String },
    #[error("Option {0} requires an argument")]
    NeedsArgument(&'static str),
    #[error("Option {0} does not take an argument")]
    TakesNoArgument(&'static str),
    #[error("Value \"{value}\" invalid for option {option} ({expected})")]
    BadValue { option: &'static str, value: String, expected: &'static str },
    #[error("Option {option} means nothing to '{command}'")]
    Idle { option: &'static str, command: String },
}

/// Longest wait of a bare `--wait`.
const DEFAULT_WAIT: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Filter,
    Force,
    Quiet,
    Help,
    Output,
    Wait,
    Strict,
    Raw,
    Source,
    ShowSecrets,
    PasswordStdin,
    Purge,
}

impl CommandLine {
    /// Takes the arguments of the program apart, its name excluded. The words read so far are part of an error, so
    /// that the help of the right command can follow it.
    pub(super) fn parse(arguments: impl IntoIterator<Item = String>) -> (Self, Option<LineError>) {
        let mut line = Self::default();
        let mut arguments = arguments.into_iter();
        let mut first_error = None;
        while let Some(argument) = arguments.next() {
            let Some(option) = argument.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                line.words.push(argument);
                continue;
            };
            if argument == "--" {
                line.words.extend(arguments);
                break;
            }
            let option = option.strip_prefix('-').unwrap_or(option);
            if let Err(error) = line.take(option, &mut arguments) {
                first_error.get_or_insert(error);
            }
        }
        (line, first_error)
    }

    fn take(&mut self, text: &str, following: &mut impl Iterator<Item = String>) -> Result<(), LineError> {
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let (option, canonical) = find(name)?;
        let flag = |field: &mut bool| match &inline {
            None => {
                *field = true;
                Ok(())
            }
            Some(_) => Err(LineError::TakesNoArgument(canonical)),
        };
        match option {
            Choice::Force => flag(&mut self.force),
            Choice::Quiet => flag(&mut self.quiet),
            Choice::Help => flag(&mut self.help),
            Choice::Strict => flag(&mut self.strict),
            Choice::Raw => flag(&mut self.raw),
            Choice::Source => flag(&mut self.source),
            Choice::ShowSecrets => flag(&mut self.show_secrets),
            Choice::PasswordStdin => flag(&mut self.password_stdin),
            Choice::Purge => flag(&mut self.purge),
            Choice::Filter => {
                let value = inline.or_else(|| following.next()).ok_or(LineError::NeedsArgument(canonical))?;
                self.filters.push(value);
                Ok(())
            }
            Choice::Output => {
                let value = inline.or_else(|| following.next()).ok_or(LineError::NeedsArgument(canonical))?;
                self.json = match value.as_str() {
                    "json" => true,
                    "table" => false,
                    _ => {
                        let expected = "table or json expected";
                        return Err(LineError::BadValue { option: canonical, value, expected });
                    }
                };
                Ok(())
            }
            Choice::Wait => {
                self.wait = Some(match inline {
                    None => DEFAULT_WAIT,
                    Some(value) => seconds(&value).ok_or(LineError::BadValue {
                        option: canonical,
                        value,
                        expected: "seconds expected",
                    })?,
                });
                Ok(())
            }
        }
    }

    pub(super) fn object(&self) -> Option<&str> {
        self.words.first().map(String::as_str)
    }

    pub(super) fn verb(&self) -> Option<&str> {
        self.words.get(1).map(String::as_str)
    }

    /// The first option that was given although `usage`, the command's own, does not name it. Options that change only
    /// how a command talks, or that every script of old gives to every command, are not among them.
    pub(super) fn idle_option(&self, usage: &str) -> Option<&'static str> {
        let given = [
            ("password-stdin", self.password_stdin),
            ("purge", self.purge),
            ("raw", self.raw),
            ("show-secrets", self.show_secrets),
            ("source", self.source),
            ("wait", self.wait.is_some()),
        ];
        let idle = |name: &str| !usage.contains(&format!("--{name}"));
        given.into_iter().find(|(name, given)| *given && idle(name)).map(|(name, _)| name)
    }

    /// What follows object and command.
    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(2..).unwrap_or_default()
    }
}

/// Splits `name=value` words at the first `=`; a later duplicate wins. The first word without `=` is an error.
pub(super) fn pairs(words: &[String]) -> Result<BTreeMap<String, String>, String> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("Syntax error: undefined value for key: '{word}'")),
        })
        .collect()
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse::<f64>().ok().and_then(|value| Duration::try_from_secs_f64(value).ok())
}

fn find(name: &str) -> Result<(Choice, &'static str), LineError> {
    let wanted = name.to_lowercase();
    let exact = OPTIONS.iter().find(|(names, _)| names.contains(&wanted.as_str()));
    if let Some((names, option)) = exact {
        return Ok((*option, names[0]));
    }
    // Only long names can be shortened; an empty name would be a prefix of them all.
    let candidates: Vec<_> =
        OPTIONS.iter().filter(|(names, _)| !wanted.is_empty() && names[0].starts_with(&wanted)).collect();
    match candidates.as_slice() {
        [] => Err(LineError::Unknown(name.to_owned())),
        [(names, option)] => Ok((*option, names[0])),
        several => Err(LineError::Ambiguous {
            name: name.to_owned(),
            candidates: several.iter().map(|(names, _)| names[0]).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Long name first, then the other names. No new name may begin with `f`, `q` or `h`: scripts shorten the old ones.
const OPTIONS: &[(&[&str], Choice)] = &[
    (&["filter", "f"], Choice::Filter),
    (&["force", "yes", "y"], Choice::Force),
    (&["quiet", "q"], Choice::Quiet),
    (&["help", "h"], Choice::Help),
    (&["output", "o"], Choice::Output),
    (&["password-stdin"], Choice::PasswordStdin),
    (&["purge"], Choice::Purge),
    (&["raw"], Choice::Raw),
    (&["show-secrets"], Choice::ShowSecrets),
    (&["source"], Choice::Source),
    (&["strict"], Choice::Strict),
    (&["wait"], Choice::Wait),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CommandLine, LineError> {
        match CommandLine::parse(text.split_whitespace().map(str::to_owned)) {
            (line, None) => Ok(line),
            (_, Some(error)) => Err(error),
        }
    }

    #[test]
    fn options_may_stand_anywhere_in_any_case_and_shortened() {
        for text in [
            "-f id=1 vm list --quiet",
            "vm -F id=1 list -Q",
            "vm list --FILTER=id=1 --qui",
            "-filter id=1 vm -quiet list",
            "vm list -f=id=1 -q",
            "vm list --fil id=1 --q",
        ] {
            let line = parse(text).unwrap();
            assert_eq!((line.object(), line.verb()), (Some("vm"), Some("list")), "{text}");
            assert_eq!(line.filters, ["id=1"], "{text}");
            assert!(line.quiet && !line.force && line.arguments().is_empty(), "{text}");
        }
        assert!(parse("--forc").unwrap().force);
        assert!(parse("-fo").unwrap().force);
        assert_eq!(parse("--f x").unwrap().filters, ["x"], "-f alone is always the filter");
    }

    #[test]
    fn a_filter_takes_whatever_follows() {
        assert_eq!(parse("-f --force").unwrap().filters, ["--force"]);
        let (line, error) = CommandLine::parse(["-f".to_owned(), String::new()]);
        assert_eq!((line.filters, error), (vec![String::new()], None));
        assert_eq!(parse("--filter=").unwrap().filters, [""]);
        assert_eq!(parse("vm list -f"), Err(LineError::NeedsArgument("filter")));
    }

    #[test]
    fn what_is_no_option_is_named() {
        for (text, message) in [
            ("-qf", "Unknown option: qf"),
            ("-fx", "Unknown option: fx"),
            ("--Xyz=1", "Unknown option: Xyz"),
            ("--s", "Option s is ambiguous (show-secrets, source, strict)"),
            ("--force=1", "Option force does not take an argument"),
            ("-o csv", "Value \"csv\" invalid for option output (table or json expected)"),
            ("--wait=soon", "Value \"soon\" invalid for option wait (seconds expected)"),
            ("--wait=-1", "Value \"-1\" invalid for option wait (seconds expected)"),
            ("-=", "Unknown option: "),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn two_dashes_end_the_options_and_one_is_a_word() {
        let line = parse("vm ssh -f name=x -- -l qvd -f").unwrap();
        assert_eq!(line.arguments(), ["-l", "qvd", "-f"]);
        assert_eq!(parse("vm ssh -").unwrap().arguments(), ["-"]);
    }

    #[test]
    fn an_error_keeps_the_words_so_that_the_right_help_follows() {
        let (line, error) = CommandLine::parse("vm --nope list".split(' ').map(str::to_owned));
        assert_eq!(error, Some(LineError::Unknown("nope".to_owned())));
        assert_eq!((line.object(), line.verb()), (Some("vm"), Some("list")));
    }

    #[test]
    fn an_option_that_a_command_does_not_have_is_found() {
        assert_eq!(parse("vm del --purge").unwrap().idle_option("[-f filter] [--force]"), Some("purge"));
        assert_eq!(parse("vm start --wait=3").unwrap().idle_option("[--wait[=seconds]]"), None);
        assert_eq!(parse("vm del -q --force --strict").unwrap().idle_option(""), None);
    }

    #[test]
    fn no_new_option_takes_a_prefix_from_an_old_one() {
        for short in ["fi", "fo", "qu", "he"] {
            assert!(find(short).is_ok(), "{short}");
        }
    }

    #[test]
    fn pairs_split_at_the_first_sign_and_the_last_duplicate_wins() {
        let words: Vec<_> = ["a=1=2", "b=", "a=x y"].map(str::to_owned).into();
        let found = pairs(&words).unwrap();
        assert_eq!(found["a"], "x y");
        assert_eq!(found["b"], "");
        let e = pairs(&["name".to_owned()]).unwrap_err();
        assert_eq!(e, "Syntax error: undefined value for key: 'name'");
    }
}
