//! Who may import whom: the table of ARCHITECTURE.md, checked against what the crates declare (optional dependencies
//! included) and against what cargo links.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Workspace crates that a crate may depend on. What is not listed may depend on all of them (wiring).
const ALLOWED: &[(&str, &[&str])] = &[
    ("qvd-core", &[]),
    ("qvd-db", &["qvd-core"]),
    ("qvd-vma", &["qvd-core"]),
    ("qvd-client", &["qvd-core"]),
    ("qvd-image", &["qvd-core"]),
    ("qvd-hypervisor", &["qvd-core", "qvd-db", "qvd-vma"]),
    ("qvd-l7r", &["qvd-core", "qvd-db", "qvd-vma"]),
    ("qvd-admin", &["qvd-core", "qvd-db"]),
];

/// All that the vocabulary may use of others' crates.
const CORE_USES: &[&str] = &["async-trait", "base64", "serde", "serde_json", "thiserror"];

/// The one feature of the vocabulary that brings a runtime, and that runtime.
const CORE_TESTKIT: (&str, &str) = ("testkit", "tokio");

/// Foreign crates that a crate never imports outside its tests.
const NEVER_IMPORTED: &[(&str, &[&str])] =
    &[("qvd-vma", &["sqlx", "rustls"]), ("qvd-client", &["sqlx"]), ("qvd-hypervisor", &["sqlx", "rustls"])];

/// Foreign crates that a crate never links outside its tests, not even through others.
const NEVER_LINKED: &[(&str, &[&str])] = &[
    ("qvd-core", &["tokio", "mio", "sqlx", "rustls", "hyper", "http"]),
    ("qvd-vma", &["sqlx", "rustls", "hyper"]),
    ("qvd-client", &["sqlx", "hyper"]),
];

/// Who calls agents and must not carry one.
const CALL_AGENTS: &[&str] = &["qvd-hypervisor", "qvd-l7r"];

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--offline")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Each crate of the workspace as its manifest declares it.
fn packages() -> BTreeMap<String, Value> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let mut metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array_mut().expect("packages");
    packages.iter_mut().map(|package| (text(&package["name"]), package.take())).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Declared dependencies outside tests and build scripts.
fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    let all = package["dependencies"].as_array().expect("dependencies");
    all.iter().filter(|dependency| dependency["kind"].is_null())
}

/// What cargo links into a crate when somebody depends on it alone with its default features.
fn linked(name: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "-p", name, "-e", "normal", "--prefix", "none", "-f", "{p}"]);
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn no_crate_imports_a_layer_that_is_not_below_it() {
    let packages = packages();
    for (name, allowed) in ALLOWED {
        let Some(package) = packages.get(*name) else { continue };
        for dependency in dependencies(package).map(|d| text(&d["name"])).filter(|d| d.starts_with("qvd-")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn the_vocabulary_uses_little_and_brings_a_runtime_to_tests_alone() {
    let core = &packages()["qvd-core"];
    let (feature, runtime) = CORE_TESTKIT;
    for dependency in dependencies(core) {
        let name = text(&dependency["name"]);
        if name == runtime {
            assert_eq!(dependency["optional"], true, "qvd-core may use {name} in its {feature} only");
        } else {
            assert!(CORE_USES.contains(&name.as_str()), "qvd-core must not import {name}");
        }
    }
    for (name, brings) in core["features"].as_object().expect("features") {
        let brings = |what: &str| brings.as_array().expect("a list").iter().any(|b| text(b).contains(what));
        assert!(name == feature || !brings(runtime), "feature {name} of qvd-core brings {runtime}");
        assert!(name != "default" || !brings(feature), "{feature} must be asked for");
    }
}

#[test]
fn the_lower_crates_stay_free_of_databases_and_tls() {
    let packages = packages();
    for (name, never) in NEVER_IMPORTED {
        for dependency in dependencies(&packages[*name]).map(|d| text(&d["name"])) {
            assert!(!never.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
    for (name, never) in NEVER_LINKED {
        let linked = linked(name);
        assert!(linked.contains(*name), "cargo tree knows no {name}: {linked:?}");
        for foreign in *never {
            assert!(!linked.contains(*foreign), "{name} links {foreign}");
        }
    }
}

#[test]
fn who_calls_agents_carries_none() {
    let packages = packages();
    for name in CALL_AGENTS {
        let agent = dependencies(&packages[*name]).find(|d| d["name"] == "qvd-vma").expect("it calls agents");
        assert_eq!(
            agent["uses_default_features"], false,
            "{name}: default features of qvd-vma hold the agent"
        );
        assert_eq!(agent["features"], serde_json::json!(["client"]), "{name}");
    }
}

#[test]
fn unsafe_code_has_one_home() {
    for (name, package) in packages().iter().filter(|(name, _)| *name != "qvd-hypervisor") {
        for target in package["targets"].as_array().expect("targets") {
            if target["kind"] == serde_json::json!(["lib"]) || target["kind"] == serde_json::json!(["bin"]) {
                let root = text(&target["src_path"]);
                let source = std::fs::read_to_string(&root).expect("the root of a crate");
                assert!(
                    source.contains("#![forbid(unsafe_code)]"),
                    "{name}: {root} does not forbid unsafe code"
                );
            }
        }
    }
}

#[test]
fn every_library_crate_is_in_the_table() {
    for name in packages().keys().filter(|n| n.starts_with("qvd-") && !n.ends_with("-bin")) {
        let wiring = ["qvd-bin-common", "qvd-system-tests", "qvd-examples", "qvd-benches"];
        assert!(
            wiring.contains(&name.as_str()) || ALLOWED.iter().any(|(listed, _)| listed == name),
            "{name} is missing in the layering table"
        );
    }
}
