//! Help: the list of commands, and the page of one.

use std::fmt::Write as _;

use super::catalogue::{Arguments, COMMANDS, Command, Parameter};

/// The commands of one kind of object, or all of them, one per line below `heading`.
pub(super) fn commands(heading: &str, object: Option<&str>) -> String {
    let listed = || COMMANDS.iter().filter(|c| object.is_none_or(|object| c.object == object));
    let mut text = format!("{heading}, available subcommands:\n");
    for command in listed() {
        let mark = if command.needs_root() { " (*)" } else { "" };
        let _ = writeln!(text, "   {} {}{mark}", command.object, command.verb);
    }
    if listed().any(Command::needs_root) {
        text.push_str("\n(*) Needs root privileges\n");
    }
    text
}

/// Purpose, usage, options and filter keys of a command.
pub(super) fn page(command: &Command) -> String {
    let mut text = format!(
        "{}\n\nusage: qa {} {} {}\n\nValid options:\n",
        command.purpose, command.object, command.verb, command.usage
    );
    let mut options: Vec<(&str, &str)> = Vec::new();
    if command.keys.is_some() {
        options.push(("-f, --filter FILTER", "only the objects that match (key=value, joined by commas)"));
        options.push(("    --force", "do not ask for confirmation"));
    }
    options.push(("-q, --quiet", "no headers, no success messages, no 'Error:' line"));
    options.push(("-h, --help", "this text"));
    for (option, meaning) in extra_options(command) {
        options.push((option, meaning));
    }
    for (option, meaning) in options {
        let _ = writeln!(text, "  {option:<21} {meaning}");
    }
    if names_a_time(command) {
        text.push_str(
            "\nA time is written as for at(1): now, tomorrow, 5 pm friday, now + 2 hours, 2030-01-31.\n",
        );
    }
    if let Some(keys) = command.keys {
        text.push_str("\nFields that can be used with -f:\n");
        for name in keys.names() {
            let _ = writeln!(text, "  {name}");
        }
    }
    text
}

fn extra_options(command: &Command) -> Vec<(&'static str, &'static str)> {
    const KNOWN: &[(&str, &str, &str)] = &[
        ("-o ", "-o, --output FORMAT", "table or json"),
        ("--wait", "    --wait[=SECONDS]", "wait until the machines have done it (600 s)"),
        ("--password-stdin", "    --password-stdin", "read the password from standard input"),
        ("--purge", "    --purge", "remove the image file, too"),
        ("--raw", "    --raw", "values as stored, ${...} not expanded"),
        ("--source", "    --source", "say where each value comes from"),
        ("--show-secrets", "    --show-secrets", "show passwords, too"),
        ("--strict", "    --strict", "refuse unknown keys"),
    ];
    let used = KNOWN.iter().filter(|(word, _, _)| command.usage.contains(word));
    used.map(|(_, option, meaning)| (*option, *meaning)).collect()
}

fn names_a_time(command: &Command) -> bool {
    match command.arguments {
        Arguments::Named(parameters) => {
            parameters.iter().any(|p| matches!(p, Parameter::Optional("expire-soft")))
        }
        Arguments::Pairs | Arguments::Words => command.usage.contains("expire-soft"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::find;
    use super::*;

    #[test]
    fn the_list_of_one_object_is_sorted_and_marks_what_needs_root() {
        assert_eq!(
            commands("di: Valid command expected", Some("di")),
            "di: Valid command expected, available subcommands:\n   di add (*)\n   di del (*)\n   di list\n   \
             di propdel\n   di propget\n   di propset\n   di tag\n   di untag\n\n(*) Needs root privileges\n"
        );
        let users = commands("user: Valid command expected", Some("user"));
        assert!(!users.contains("(*)"));
    }

    #[test]
    fn a_page_has_purpose_usage_options_and_fields() {
        let page = page(find("host", "list").unwrap());
        assert!(page.starts_with("Lists nodes.\n\nusage: qa host list "), "{page}");
        assert!(page.contains("\nValid options:\n"));
        assert!(page.contains("\nFields that can be used with -f:\n  id\n  name\n  address\n"));
        assert!(page.contains("--output"));
    }
}
