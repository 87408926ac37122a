//! Manual pages, made by the programs from what they know of their own options.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;
use qvd_core::ErrorKind;

use crate::exit::{Failure, report};

/// The word that asks a program for its manual pages, followed by the directory for them. It stands in no help: it is
/// for whoever makes a package (`make man`).
pub const GENERATE_MANUAL: &str = "--generate-manual";

/// Writes the manual pages of a program and of its subcommands when `words`, its arguments, ask for it; none when
/// they do not. `section` is 1 for what users call and 8 for what administrators do.
pub fn write_manual(
    command: impl FnOnce() -> Command,
    section: u8,
    words: impl IntoIterator<Item = OsString>,
) -> Option<ExitCode> {
    let mut words = words.into_iter();
    if words.next()? != GENERATE_MANUAL {
        return None;
    }
    let dir = words.next().map(PathBuf::from).unwrap_or_default();
    let mut command = command();
    let name = command.get_name().to_owned();
    command.build();
    match pages(&command, &name, section, &dir) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(failure) => Some(report(&name, &failure)),
    }
}

fn pages(command: &Command, name: &str, section: u8, dir: &Path) -> Result<(), Failure> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        pages(inner, &format!("{name}-{}", inner.get_name()), section, dir)?;
    }
    let file = dir.join(format!("{name}.{section}"));
    let failed =
        |e| Failure::new(ErrorKind::Invalid, format!("cannot write '{}'", file.display())).because(e);
    let mut page = Vec::new();
    let man = Man::new(command.clone().name(name.to_owned())).section(section.to_string());
    man.manual("QVD").render(&mut page).map_err(failed)?;
    fs::write(&file, page).map_err(failed)
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let start = Command::new("start").about("Starts it").arg(Arg::new("speed").long("speed"));
        Command::new("engine").about("An engine").subcommand(start)
    }

    fn asked(words: &[&str]) -> Option<ExitCode> {
        write_manual(command, 8, words.iter().map(OsString::from))
    }

    #[test]
    fn a_page_for_the_program_and_each_subcommand() {
        let dir = tempfile::tempdir().unwrap();
        let dir_word = dir.path().to_str().unwrap();
        assert_eq!(asked(&[GENERATE_MANUAL, dir_word]), Some(ExitCode::SUCCESS));
        let page = fs::read_to_string(dir.path().join("engine-start.8")).unwrap();
        assert!(page.contains(".TH engine-start 8") && page.contains("speed"), "{page}");
        assert!(fs::read_to_string(dir.path().join("engine.8")).unwrap().contains("engine\\-start(8)"));
    }

    #[test]
    fn other_words_are_left_to_the_program_and_a_bad_directory_is_a_failure() {
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&["start", GENERATE_MANUAL]), None);
        assert_ne!(asked(&[GENERATE_MANUAL, "/nonexistent"]), Some(ExitCode::SUCCESS));
    }
}
