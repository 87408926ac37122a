//! Help, wrong command lines, and how failures are told.

use qvd_admin::Error;
use qvd_admin::cli::{self, Console};

use crate::transcript::{Site, words};

#[tokio::test]
async fn help_forms() {
    let site = Site::new().await;
    for (line, beginning, code) in [
        ("", "Valid command expected, available subcommands:\n   config del\n   config get\n", 1),
        ("--help", "Valid command expected, available subcommands:\n", 0),
        ("vm", "vm: Valid command expected, available subcommands:\n   vm add\n   vm block\n", 1),
        ("vm --help", "vm: Valid command expected, available subcommands:\n   vm add\n", 0),
        ("vm frobnicate", "vm: 'frobnicate' not implemented, available subcommands:\n   vm add\n", 1),
        ("foo bar", "foo: 'bar' not implemented, available subcommands:\n   config del\n", 1),
        ("vm list --help", "Lists virtual machines.\n\nusage: qa vm list ", 0),
        ("--help vm list", "Lists virtual machines.\n\nusage: qa vm list ", 0),
    ] {
        let answer = site.qa(&words(line), "").await;
        assert!(answer.out.starts_with(beginning), "{line}: {}", answer.out);
        assert_eq!((answer.err.as_str(), answer.code), ("", code), "{line}");
    }
    let all = site.qa(&[], "").await.out;
    assert!(all.contains("\n   di add (*)\n") && all.ends_with("\n\n(*) Needs root privileges\n"), "{all}");
}

#[tokio::test]
async fn wrong_lines_are_told_before_anything_is_opened() {
    for (line, complaint, code) in [
        ("vm list --xyz", "Unknown option: xyz\n", 2),
        ("-qf vm list", "Unknown option: qf\n", 2),
        ("vm list a=b", "Syntax error: too many arguments: 'a'\n1 error encountered\n", 1),
        ("host add name", "Error: Syntax error: undefined value for key: 'name'\n", 1),
        (
            "host add",
            "Syntax error: parameter 'name' is mandatory\nSyntax error: parameter 'address' is mandatory\n\
             2 errors encountered\n",
            1,
        ),
        ("vm list -f x", "Error: Syntax error: undefined value for key: 'x'\n", 1),
        ("vm list -f id=x", "Error: invalid value 'x' for filter key 'id': integer expected\n", 1),
    ] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            input: &mut std::io::empty(),
            echo: None,
            exec: &mut |_| panic!("nothing is to be run"),
            read_file: &|_| panic!("no file is named"),
        };
        let never = async || -> Result<_, Error> { panic!("{line}: the database was opened") };
        assert_eq!(cli::run(words(line), &mut console, never).await, code, "{line}");
        assert_eq!(String::from_utf8(err).unwrap(), complaint, "{line}");
    }
}

#[tokio::test]
async fn wrong_arguments_are_followed_by_help() {
    let answer = Site::new().await.qa(&words("host add"), "").await;
    assert!(answer.out.starts_with("\nAdds a node.\n\nusage: qa host add name="), "{}", answer.out);
}

#[tokio::test]
async fn quiet_silences_errors_but_not_the_exit_code() {
    let answer = Site::new().await.qa(&words("vm list -f id=x -q"), "").await;
    assert_eq!((answer.out.as_str(), answer.err.as_str(), answer.code), ("", "", 1));
}

#[tokio::test]
async fn a_database_that_is_away_is_one_sentence() {
    let site = Site::new().await;
    site.db.close().await;
    let mut err = Vec::new();
    let mut console = Console {
        out: &mut Vec::new(),
        err: &mut err,
        input: &mut std::io::empty(),
        echo: None,
        exec: &mut |_| panic!("nothing is to be run"),
        read_file: &|_| panic!("no file is named"),
    };
    let admin = qvd_admin::Admin::new(
        site.db.clone(),
        qvd_core::config::Config::defaults(),
        std::sync::Arc::new(crate::transcript::Fewest),
    );
    let code = cli::run(words("user list"), &mut console, async || Ok(admin)).await;
    let said = String::from_utf8(err).unwrap();
    assert_eq!(code, 1);
    assert!(said.starts_with("Error: cannot list users: the database is away"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!said.contains("select"), "{said}");
}

#[tokio::test]
async fn lists_of_no_one_and_many_rows_keep_their_two_header_lines() {
    let site = Site::new().await;
    assert_eq!(site.qa(&words("user list"), "").await.out, "Id Login\n--------\n");
    for number in 0..12 {
        site.db.users().add(qvd_core::TenantId::DEFAULT, &format!("user{number}"), None).await.unwrap();
    }
    let text = site.qa(&words("user list"), "").await.out;
    assert_eq!(text.lines().count(), 14);
    assert!(text.contains("\n 1 user0\n") && text.contains("\n12 user11\n"), "{text}");
    assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
}
