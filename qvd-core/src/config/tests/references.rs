//! `${…}` in values.

use super::*;

#[test]
fn references_stand_for_effective_values_of_any_layer() {
    let config = Config::builder()
        .file("node.conf", "path.storage.root = /srv\nvm.vnc.opts = ${mine}/${path.storage.homes}\nmine = a")
        .database(rows(&[("path.storage.root", "/shared"), ("l7r.port", "${internal.vm.port.ssh}")]))
        .build()
        .expect("good");
    assert_eq!(config.text("path.storage.images"), "/shared/images");
    assert_eq!(config.text("vm.vnc.opts"), "a//shared/homes");
    assert_eq!(config.port("l7r.port"), 22, "types are checked after expansion");
}

#[test]
fn a_dollar_brace_can_be_written() {
    let config = from_file("vm.vnc.opts = ${{}path.log} $x {y}\nvm.network.domain = ${vm.vnc.opts}");
    assert_eq!(config.text("vm.vnc.opts"), "${path.log} $x {y}");
    assert_eq!(config.text("vm.network.domain"), "${path.log} $x {y}", "nothing is expanded twice");
}

#[test]
fn references_that_lead_nowhere_are_errors() {
    assert_eq!(
        errors("path.log = ${no.such.key}/x"),
        ["node.conf:1: path.log: Configuration entry for no.such.key missing"]
    );
    assert_eq!(
        errors("path.log = ${path.log"),
        ["node.conf:1: path.log: has a '${' that is not closed (write ${{} for a literal ${)"]
    );
}

#[test]
fn circles_are_found_and_shown() {
    assert_eq!(
        errors("path.log = ${path.tmp}\npath.tmp = ${path.log}"),
        [
            "node.conf:1: path.log: refers to itself (path.log -> path.tmp -> path.log)",
            "node.conf:2: path.tmp: refers to itself (path.log -> path.tmp -> path.log)",
        ]
    );
    assert_eq!(
        errors("path.log = ${path.log}"),
        ["node.conf:1: path.log: refers to itself (path.log -> path.log)"]
    );
    // A circle closed by a default is reported where somebody wrote something.
    assert_eq!(
        errors("path.log = ${log.filename}"),
        ["node.conf:1: path.log: refers to itself (path.log -> log.filename -> path.log)"]
    );
}

#[test]
fn sixteen_references_one_behind_the_other_are_the_limit() {
    let chain = |length: usize| {
        let links: String = (0..length).map(|i| format!("k{i:02} = ${{k{:02}}}\n", i + 1)).collect();
        format!("{links}k{length:02} = end\n")
    };
    assert_eq!(from_file(&chain(16)).text("k00"), "end");
    let lines = errors(&chain(17));
    assert_eq!(lines, ["node.conf:1: k00: has more than 16 references one behind the other"]);
    assert_eq!(errors(&chain(40)).len(), 24, "the last sixteen of the chain are fine");
    // The order in which keys are looked at makes no difference.
    let links: String = (0..17).map(|i| format!("k{:02} = ${{k{:02}}}\n", i + 1, i)).collect();
    assert_eq!(
        errors(&format!("k00 = end\n{links}")),
        ["node.conf:18: k17: has more than 16 references one behind the other"]
    );
}

#[test]
fn values_that_grow_by_references_have_an_end() {
    let doubled: String =
        (1..=15).map(|i| format!("k{i} = {}\n", format!("${{k{}}}", i - 1).repeat(8))).collect();
    let lines = errors(&format!("k0 = xxxxxxxx\n{doubled}"));
    assert!(lines[0].contains("is longer than 1048576 bytes"), "{lines:?}");
}

#[test]
fn a_value_containing_a_secret_is_a_secret() {
    let config = from_file("database.password = hunter2\nvm.vnc.opts = pass=${database.password}");
    let shown =
        |key: &str| config.iter_effective().find(|entry| entry.key == key).map(|entry| format!("{entry:?}"));
    assert_eq!(shown("vm.vnc.opts").as_deref(), Some("vm.vnc.opts=***** (node.conf:2)"));
    let lines = errors("database.password = hunter2\nl7r.port = ${database.password}");
    assert_eq!(lines, ["node.conf:2: l7r.port: '*****' is not a port number (1-65535)"]);
}
