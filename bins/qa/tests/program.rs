//! The built program over a database file: what only a real process shows.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A directory with a configuration, a database and images.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let text = format!(
            "nodename = n1\ndatabase.driver = sqlite\ndatabase.path = {at}/qvd.db\npath.storage.root = {at}/storage\n\
             vm.hypervisor = process\n"
        );
        fs::write(dir.path().join("node.conf"), text).unwrap();
        fs::create_dir(dir.path().join("storage")).unwrap();
        fs::write(dir.path().join("guest.tgz"), b"\x1f\x8b\x08 not much of an archive").unwrap();
        Self { dir }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_qa")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .env("QVD_CONFIG", self.dir.path().join("node.conf"))
            .env("PATH", format!("{}:{path}", programs.display()))
            .env_remove("QVD_SET")
            .stdin(Stdio::null());
        command
    }

    fn qa(&self, words: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_qa")).args(words).output().unwrap()
    }

    fn out(&self, words: &[&str]) -> String {
        let output = self.qa(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn pipeline(&self, mytag: &str, targettag: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pipeline.sh");
        let mut shell = self.command("sh");
        shell
            .arg(script)
            .env("image", self.dir.path().join("guest.tgz"))
            .env("mytag", mytag)
            .env("targettag", targettag);
        shell.output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_publishing_pipeline_works_unchanged() {
    let site = Site::new();
    assert_eq!(site.out(&["osf", "add", "name=one"]), "OSF added with id 1\n");
    assert_eq!(site.out(&["osf", "add", "name=two"]), "OSF added with id 2\n");
    assert_eq!(site.out(&["di", "add", "osf=two", "format=none"]), "DI added with id 1\n");
    assert_eq!(site.out(&["user", "add", "login=ana", "password=x"]), "User added with id 1\n");
    assert_eq!(
        site.out(&["vm", "add", "name=a", "user=ana", "osf=one", "di_tag=head"]),
        "VM added with id 1\n"
    );

    // The first image: there is nothing to stop, and no node to start on; neither fails the job.
    let first = site.pipeline("head", "default");
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout), "DI added with id 2\nStopped 0 VMs.\nStarted 0 VMs.\nDI tagged\n");

    // Twelve: ids of two digits, so that the one-digit ones are indented.
    for id in 3..=12 {
        let next = site.pipeline("head", "default");
        assert!(next.status.success(), "{}", text(&next.stderr));
        assert!(
            text(&next.stdout).starts_with(&format!("DI added with id {id}\n")),
            "{}",
            text(&next.stdout)
        );
        let defaults = site.out(&["di", "list", "-q", "-f", "osf_id=1,tag=default"]);
        assert_eq!(defaults.split_whitespace().next(), Some(id.to_string().as_str()), "{defaults}");
        assert_eq!(defaults.lines().count(), 1, "a tag is one image's");
    }
    assert_eq!(site.out(&["di", "list", "-f", "osf_id=1"]).lines().count(), 2 + 11);

    // A tag that is not there, and one that is not set: nothing is selected, nothing is tagged.
    for mytag in ["nothing-has-this", ""] {
        let none = site.pipeline(mytag, "default");
        assert_eq!(none.status.code(), Some(1));
        assert!(
            text(&none.stdout).ends_with(&format!("di with tag {mytag} not found\n")),
            "{}",
            text(&none.stdout)
        );
    }
    let images = fs::read_dir(site.dir.path().join("storage/images")).unwrap();
    assert!(images.flatten().all(|image| !image.file_name().to_string_lossy().contains(".tmp-")));
}

#[test]
fn an_empty_list_gives_a_pipe_nothing() {
    let site = Site::new();
    let mut shell = site.command("sh");
    let output = shell.args(["-c", "qa di list -f osf_id=1 | tail -n +3 | wc -c"]).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "0");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_reader_that_goes_away_is_no_failure_to_shout_about() {
    let site = Site::new();
    let mut shell = site.command("bash");
    let output = shell.args(["-c", "for i in 1 2 3; do qa config get; done | head -1"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_database_that_cannot_be_opened_is_one_sentence() {
    let site = Site::new();
    let without = |words: &[&str]| {
        let mut command = site.command(env!("CARGO_BIN_EXE_qa"));
        command.env("QVD_CONFIG", "/nonexistent.conf").args(words).output().unwrap()
    };
    let output = without(&["vm", "list"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.starts_with("Error: ") && said.contains("/nonexistent.conf"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    // Help needs no database.
    assert!(without(&["--help"]).status.success());
}

#[test]
fn a_closed_standard_input_is_a_no() {
    let site = Site::new();
    site.out(&["user", "add", "login=ana", "password=x"]);
    let mut shell = site.command("sh");
    let output = shell.args(["-c", "exec <&-; qa user del"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(site.out(&["user", "list", "-q"]), "1  ana\n");
}
