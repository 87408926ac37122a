//! The manual page of `qa`, from the help of its commands.

use qvd_admin::cli;
use roff::{Roff, bold, italic, roman};

/// The page as roff.
pub(crate) fn page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["qa", "8", "", concat!("qa ", env!("CARGO_PKG_VERSION")), "QVD"]);
    page.control("SH", ["NAME"]).text([roman("qa - administers a QVD site")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([
        bold("qa"),
        roman(" "),
        italic("OBJECT VERB"),
        roman(" ["),
        italic("OPTION"),
        roman("]... ["),
        italic("NAME=VALUE"),
        roman("]..."),
    ]);
    page.control("SH", ["DESCRIPTION"]).text([roman(DESCRIPTION)]);
    page.control("SH", ["COMMANDS"]);
    for (words, help) in cli::help_pages() {
        page.control("SS", [format!("qa {words}").as_str()]).control("nf", []);
        for line in help.lines() {
            page.text([roman(line)]);
        }
        page.control("fi", []);
    }
    page.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_STATUS {
        page.control("TP", []).text([bold(*code)]).text([roman(*meaning)]);
    }
    page.control("SH", ["FILES"]);
    page.control("TP", []).text([italic("/etc/qvd/node.conf")]);
    page.text([roman(
        "Names the database. The environment variable QVD_CONFIG names another file in its place.",
    )]);
    page.control("SH", ["SEE ALSO"]).text([roman("qvd(8), qvd-l7r(8), qvd-hkd(8)")]);
    page.render()
}

const DESCRIPTION: &str = "Creates, lists, changes and deletes what a site is made of: users, virtual machines, \
    flavours (osf), disk images (di), hosts and configuration. A list is a table, or JSON with -o json. What a \
    command works on is chosen by a filter, -f; without one it works on all, after asking.";

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done; also when nothing matched, or the answer to a question was no."),
    ("1", "An error, told on standard error."),
    ("2", "An option that does not exist, or that the command does not have."),
    ("3", "With --strict: nothing matched, or something was skipped."),
];

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_has_every_command() {
        let page = super::page();
        for (words, _) in qvd_admin::cli::help_pages() {
            assert!(page.contains(&format!(".SS \"qa {words}\"")), "{words}");
        }
    }
}
