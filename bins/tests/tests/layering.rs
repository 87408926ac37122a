//! Who may import whom: the table of ARCHITECTURE.md, checked against what cargo resolves.

use std::collections::BTreeMap;
use std::process::Command;

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

/// Foreign crates that a crate never links outside its tests.
const NEVER: &[(&str, &[&str])] = &[
    ("qvd-core", &["sqlx", "rustls", "hyper", "http"]),
    ("qvd-vma", &["sqlx", "rustls"]),
    ("qvd-client", &["sqlx"]),
    ("qvd-hypervisor", &["rustls"]),
];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let normal = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null() && dependency["optional"] != true)
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), normal)
        })
        .collect()
}

#[test]
fn no_crate_imports_a_layer_that_is_not_below_it() {
    let all = dependencies();
    for (name, allowed) in ALLOWED {
        for dependency in all.get(*name).into_iter().flatten().filter(|d| d.starts_with("qvd-")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn the_lower_crates_stay_free_of_databases_and_tls() {
    let all = dependencies();
    for (name, never) in NEVER {
        for dependency in all.get(*name).into_iter().flatten() {
            assert!(!never.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn every_library_crate_is_in_the_table() {
    for name in dependencies().keys().filter(|n| n.starts_with("qvd-") && !n.ends_with("-bin")) {
        let wiring = ["qvd-bin-common", "qvd-system-tests", "qvd-examples", "qvd-benches"];
        assert!(
            wiring.contains(&name.as_str()) || ALLOWED.iter().any(|(listed, _)| listed == name),
            "{name} is missing in the layering table"
        );
    }
}
