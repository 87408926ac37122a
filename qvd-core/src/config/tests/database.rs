//! Values of the database: at start, while running, and before they are stored.

use super::*;
use proptest::prelude::*;

#[test]
fn a_bad_value_in_the_database_falls_back_at_start() {
    let config = Config::builder()
        .file("node.conf", "l7r.port = 99")
        .database(rows(&[("l7r.port", "84x3"), ("internal.vm.port.ssh", "x"), ("l7r.address", "10.0.0.1")]))
        .build()
        .expect("a daemon does not die of that");
    assert_eq!((config.port("l7r.port"), config.port("internal.vm.port.ssh")), (99, 22));
    assert_eq!(config.text("l7r.address"), "10.0.0.1");
    assert_eq!(
        texts(config.rejected()),
        [
            "database: internal.vm.port.ssh: 'x' is not a port number (1-65535)",
            "database: l7r.port: '84x3' is not a port number (1-65535)",
        ]
    );
}

#[test]
fn a_bad_value_without_fallback_is_an_error() {
    let error = Config::builder()
        .database(rows(&[("vm.network.ip.start", "10.0.0")]))
        .build()
        .expect_err("nothing is left");
    assert_eq!(error.to_string(), "database: vm.network.ip.start: '10.0.0' is not an IPv4 address");
    let usable =
        Config::builder().database(rows(&[("client.none", "${x}"), ("hkd.vm.failures.max", "many")]));
    assert_eq!(usable.build().expect("nobody needs these").rejected().len(), 2);
}

#[test]
fn a_database_change_moves_everything_that_refers_to_it_and_deletion_restores_the_file() {
    let config = from_file("path.storage.root = /file\n");
    assert_eq!(config.text("path.storage.homes"), "/file/homes");
    let (changed, problems) = config.with_database(rows(&[("path.storage.root", "/db")]));
    assert_eq!((changed.text("path.storage.homes").as_str(), problems.len()), ("/db/homes", 0));
    assert_eq!(config.text("path.storage.homes"), "/file/homes", "the old one has not changed");
    let (restored, problems) = changed.with_database([]);
    assert_eq!((restored.text("path.storage.homes").as_str(), problems.len()), ("/file/homes", 0));
    assert_eq!(restored.source("path.storage.root").map(ToString::to_string).as_deref(), Some("node.conf:1"));
}

#[test]
fn a_weight_changes_without_restart() {
    const CPU: &str = "l7r.loadbalancer.plugin.default.weight.cpu";
    let (config, _) = Config::defaults().with_database(rows(&[(CPU, "2.5")]));
    assert_eq!(config.number(CPU), 2.5);
    assert_eq!(Config::defaults().changed_keys(&config), [CPU]);
    assert_eq!(registry().get(CPU).map(KeySpec::needs_restart), Some(false));
}

#[test]
fn a_bad_reload_keeps_the_value_in_force() {
    let (config, _) = from_file("l7r.port = 1")
        .with_database(rows(&[("l7r.port", "2"), ("internal.l7r.poll_time.x", "9")]));
    let (config, problems) = config.with_database(rows(&[
        ("l7r.port", "x"),
        ("internal.l7r.poll_time.x", "5"),
        ("internal.vm.port.x", "no"),
    ]));
    assert_eq!((config.port("l7r.port"), config.port("internal.vm.port.x")), (2, 4100));
    assert_eq!(config.seconds("internal.l7r.poll_time.x"), Duration::from_secs(5), "the good ones are taken");
    assert_eq!(
        texts(&problems),
        [
            "database: internal.vm.port.x: 'no' is not a port number (1-65535)",
            "database: l7r.port: 'x' is not a port number (1-65535)",
        ]
    );
    assert_eq!(config.rejected(), problems);
    let (config, problems) = config.with_database([]);
    assert_eq!((config.port("l7r.port"), problems.len()), (1, 0), "deleting is always possible here");
}

#[test]
fn a_reload_that_breaks_another_key_is_taken_back() {
    let (config, _) =
        from_file("").with_database(rows(&[("my.root", "/a"), ("path.storage.root", "${my.root}/s")]));
    assert_eq!(config.text("path.storage.homes"), "/a/s/homes");
    let (config, problems) = config.with_database(rows(&[("path.storage.root", "${my.root}/s")]));
    assert_eq!(config.text("path.storage.homes"), "/a/s/homes", "the deleted value stays");
    assert_eq!(
        texts(&problems),
        ["database: my.root: would break path.storage.root: Configuration entry for my.root missing"]
    );
    let (config, problems) = config
        .with_database(rows(&[("my.root", "${path.storage.root}"), ("path.storage.root", "${my.root}/s")]));
    assert_eq!(config.text("path.storage.homes"), "/a/s/homes");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key(), Some("my.root"));
}

#[test]
fn a_set_of_times_that_fails_is_refused_whole() {
    let base = from_file("");
    let (config, problems) = base.with_database(rows(&[
        ("internal.hkd.agent.ticker.timeout", "900"),
        ("internal.hkd.cluster.node.timeout", "700"),
        ("internal.hkd.lease.margin", "31"),
        ("internal.l7r.poll_time.vm", "3"),
    ]));
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(base.changed_keys(&config), ["internal.l7r.poll_time.vm"]);
}

#[test]
fn reloading_reports_only_todays_database_warnings() {
    let config = from_file("l7r.prot = 1");
    let (config, _) = config.with_database(rows(&[("log.level", "DEBUG")]));
    assert_eq!(config.warnings().len(), 2);
    let (config, _) = config.with_database(rows(&[("log.level", "DEBUG")]));
    assert_eq!(config.warnings().len(), 2);
    let (config, _) = config.with_database([]);
    assert_eq!(config.warnings().len(), 1);
}

#[test]
fn values_are_checked_before_they_are_stored() {
    let config = from_file("");
    let check =
        |pairs: &[(&str, &str)]| config.check_database(&rows(pairs)).map_err(|problems| texts(&problems));
    assert_eq!(check(&[("l7r.port", "8443")]), Ok(vec![]));
    assert_eq!(
        check(&[("l7r.port", "84x3"), ("l7r.use_ssl", "x"), ("l7r.address", "*")]),
        Err(vec![
            "l7r.port: '84x3' is not a port number (1-65535)".to_owned(),
            "l7r.use_ssl: 'x' is not a boolean (1 yes y true t on, or 0 no n false f off)".to_owned(),
        ])
    );
    assert_eq!(
        check(&[("log.level", "DEBUG")]),
        Ok(vec!["log.level is only read from node.conf; the database value has no effect".to_owned()])
    );
    assert!(check(&[("log.level", "loud")]).is_err());
    assert_eq!(
        check(&[("l7r.prot", "x"), ("myproperty", "y")]),
        Ok(vec![
            "unknown configuration key 'l7r.prot' (did you mean 'l7r.port'?)".to_owned(),
            "unknown configuration key 'myproperty'".to_owned(),
        ])
    );
    assert!(check(&[("a b", "x")]).is_err());
    assert!(check(&[(&"k".repeat(256), "x")]).is_err());
    assert!(check(&[(&"k".repeat(255), &"ü".repeat(32_768))]).is_ok());
    assert!(check(&[("k", &"x".repeat(32_769))]).is_err());
    assert!(check(&[("path.log2", "${nowhere}")]).is_err());
    assert!(check(&[("l7r.auth.mode", "ld-ap")]).is_err(), "old names are checked like the new");
    assert!(
        check(&[("internal.hkd.agent.ticker.timeout", "900"), ("internal.hkd.cluster.node.timeout", "1000")])
            .is_ok(),
        "values that only go together are checked together"
    );
}

proptest! {
    // Every case evaluates the whole table several times.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in the database, every value in force is one of its type.
    #[test]
    fn no_sequence_of_reloads_leaves_a_bad_value(
        reloads in proptest::collection::vec(
            proptest::collection::vec(
                (
                    proptest::sample::select(vec![
                        "l7r.port", "path.log", "a", "b", "c", "internal.hkd.agent.ticker.timeout",
                        "l7r.loadbalancer.plugin.default.weight.cpu", "vm.network.ip.start", "vm.network.netmask",
                        "l7r.auth.mode", "log.level",
                    ]),
                    proptest::sample::select(vec![
                        "", "1", "${a}", "${b}", "${c}${a}", "x'", "${l7r.port}", "10.0.0.1", "24", "${path.log}", "900", "-1", "${",
                    ]),
                ),
                0..6,
            ),
            1..6,
        )
    ) {
        let mut config = from_file("l7r.port = ${a}\na = 77\n");
        for reload in reloads {
            let (next, problems) = config.with_database(rows(&reload));
            for problem in &problems {
                prop_assert_eq!(problem.origin(), Some(&Source::Database));
            }
            for entry in next.iter_effective() {
                let fits = registry().get(entry.key).is_none_or(|spec| spec.kind.normalize(entry.value, spec.default.is_none()).is_ok());
                prop_assert!(fits, "{}: {}", entry.key, entry.value);
            }
            prop_assert!(next.port("l7r.port") > 0);
            prop_assert!(next.seconds("internal.hkd.agent.ticker.timeout") >= Duration::from_secs(60));
            config = next;
        }
    }

    #[test]
    fn no_file_makes_the_builder_panic(text in "[a-c.\\$\\{\\}=:# \\n\\\\0-9]{0,80}|\\PC{0,40}") {
        let _ = Config::builder().file("f", text.clone()).environment(text.clone()).set("a", text).build();
    }
}
