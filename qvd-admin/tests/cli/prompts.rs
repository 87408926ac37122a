//! Who is asked, in which words, and what counts as a yes.

use crate::transcript::{Site, words};

const PROMPTS: [(&str, &str); 18] = [
    ("host del", "delete all hosts"),
    ("osf del", "delete all osfs"),
    ("di del", "delete all dis"),
    ("user del", "delete all users"),
    ("user tokens revoke", "revoke the tokens of all users"),
    ("vm del", "delete all vms"),
    ("host block", "block all hosts"),
    ("host unblock", "unblock all hosts"),
    ("vm block", "block all machines"),
    ("vm unblock", "unblock all machines"),
    ("vm start", "start all machines"),
    ("vm stop", "stop all machines"),
    ("vm disconnect_user", "disconnect all users"),
    ("vm edit di_tag=x", "edit all machines"),
    ("host propdel", "delete the prop in all hosts"),
    ("vm propdel a b", "delete the prop in all virtual machines"),
    ("config del", "delete all configuration variables"),
    ("user propdel a", "delete the prop in all users"),
];

#[tokio::test]
async fn every_dangerous_command_asks_and_only_a_yes_goes_on() {
    let site = Site::with_one_vm().await;
    for (command, what) in PROMPTS {
        let prompt = format!("Are you sure you want to {what}? [y/N] ");
        for no in ["n\n", "\n", "maybe y\n"] {
            let answer = site.qa(&words(command), no).await;
            assert_eq!(
                (answer.out.as_str(), answer.err.as_str(), answer.code),
                (prompt.as_str(), "", 0),
                "{command}"
            );
        }
        let end = site.qa(&words(command), "").await;
        assert_eq!(end.out, prompt);
        assert_eq!(end.err, "Warning: not confirmed, nothing done (use --force)\n", "{command}");
        assert_eq!(end.code, 0);
        let strict = site.qa(&words(&format!("{command} --strict")), "").await;
        assert_eq!(strict.code, 3, "{command}");
        let empty_filter = site.qa(&words(&format!("{command} -f ''")), "n\n").await;
        assert!(empty_filter.out.starts_with(&prompt), "an empty filter is none: {command}");
    }
    // Nothing was done by all that.
    for list in ["host list", "osf list", "di list", "user list", "vm list"] {
        assert_eq!(site.qa(&words(&format!("{list} -q")), "").await.out.lines().count(), 1, "{list}");
    }
}

#[tokio::test]
async fn yes_force_and_a_filter_go_on() {
    for (typed, options) in
        [("y\n", ""), ("Yes\n", ""), ("", "--force"), ("", "-y"), ("", "-f id=*"), ("", "-F id=1")]
    {
        let site = Site::with_one_vm().await;
        let answer = site.qa(&words(&format!("vm del {options}")), typed).await;
        assert!(answer.out.ends_with("Deleting 1 vm(s)\n"), "{options}: {answer:?}");
        assert_eq!(answer.out.starts_with("Are you sure"), options.is_empty(), "{options}");
        assert_eq!(site.qa(&words("vm list -q"), "").await.out, "", "{options}");
    }
}
