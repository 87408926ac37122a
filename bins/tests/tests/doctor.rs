//! `qvd doctor` as a program: exit status and words with everything there and with a part missing, for people and for
//! programs, and nothing left behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use qvd_system_tests::can_show_a_desktop;
use qvd_system_tests::machine::processes_naming;
use qvd_system_tests::process::program;
use qvd_system_tests::scratch::Scratch;
use serde_json::Value;

/// Runs it on a port that is free; answers exit code and output.
fn doctor(dir: &Path, path: &str, args: &[&str]) -> (i32, String) {
    let temporary = dir.join("tmp");
    fs::create_dir_all(&temporary).expect("a directory");
    let config = dir.join("node.conf");
    fs::write(&config, "l7r.port = 29443\n").expect("a configuration");
    let mut command = Command::new(program("qvd").expect("qvd is built"));
    command.arg("doctor").args(args);
    let output = command.env("PATH", path).env("TMPDIR", &temporary).env("QVD_CONFIG", &config).output();
    let output = output.expect("it starts");
    let alive = processes_naming(&temporary.to_string_lossy());
    assert!(alive.is_empty(), "left running: {alive:?}");
    let left: Vec<_> = fs::read_dir(&temporary).expect("it is there").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A directory with everything that `path` leads to but one program.
fn without(dir: &Path, path: &str, hidden: &str) -> String {
    let programs = dir.join("programs");
    fs::create_dir(&programs).expect("a directory");
    let entries = path.split(':').filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name() != hidden) {
        // The first place of a name counts; the others are refused here.
        let _ = symlink(entry.path(), programs.join(entry.file_name()));
    }
    programs.display().to_string()
}

fn finding<'f>(findings: &'f [Value], what: &str) -> &'f Value {
    findings.iter().find(|own| own["what"] == what).unwrap_or_else(|| panic!("no {what} in {findings:?}"))
}

#[test]
fn with_everything_there_it_is_content() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let path = std::env::var("PATH").expect("there is a path");
    let (code, text) = doctor(dir.path(), &path, &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.lines().last(), Some("everything that is needed is there"), "{text}");
    assert!(!text.contains("FAIL"), "{text}");

    let (code, text) = doctor(dir.path(), &path, &["--json"]);
    assert_eq!(code, 0, "{text}");
    let findings: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let display = finding(&findings, "X socket")["found"].as_str().expect("what was found");
    let number: String = display.chars().filter(char::is_ascii_digit).collect();
    for file in [format!("/tmp/.X{number}-lock"), format!("/tmp/.X11-unix/X{number}")] {
        assert!(!Path::new(&file).exists(), "{file} is left for the next user to stumble over");
    }
    for what in ["nxagent", "nxproxy", "X socket", "NX session", "router's port", "database"] {
        assert_eq!(finding(&findings, what)["ok"], true, "{what}");
    }
}

#[test]
fn a_hidden_nxagent_is_named_with_its_remedy() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let path = without(dir.path(), &std::env::var("PATH").expect("there is a path"), "nxagent");
    let (code, text) = doctor(dir.path(), &path, &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("apt-get install nxagent"), "{text}");

    let (code, text) = doctor(dir.path(), &path, &["--json"]);
    assert_eq!(code, 1, "{text}");
    let findings: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let nxagent = finding(&findings, "nxagent");
    assert_eq!((&nxagent["ok"], &nxagent["required"]), (&false.into(), &true.into()), "{nxagent}");
    let remedy = nxagent["remedy"].as_str().expect("a remedy");
    assert!(remedy.contains("apt-get install nxagent"), "{remedy}");
    assert_eq!(finding(&findings, "nxproxy")["ok"], true, "only what is hidden is missing");
}
