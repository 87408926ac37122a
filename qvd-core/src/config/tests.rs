//! What a configuration does as a whole: layers, references, mistakes and live reload.

use super::*;
use proptest::prelude::*;

fn rows(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn from_file(text: &str) -> Config {
    Config::builder().file("node.conf", text).build().expect("the file is good")
}

/// The lines of the error that a file causes.
fn errors(text: &str) -> Vec<String> {
    let error = Config::builder().file("node.conf", text).build().expect_err("the file is bad");
    error.to_string().lines().map(str::to_owned).collect()
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

// Layers

#[test]
fn the_defaults_load_without_a_single_error() {
    let config = Config::builder().build().expect("the defaults are good");
    assert_eq!(config.warnings(), [""; 0]);
    assert_eq!(config.rejected(), []);
    assert_eq!(config.text("log.filename"), "/var/log/qvd.log");
    assert_eq!(config.text("path.l7r.ssl.cert"), "/var/run/qvd/l7r/ssl/cert.pem");
    assert_eq!(config.text("command.windows.xming"), r"Xming\Xming.exe");
    assert_eq!(config.text("command.xinit"), "");
    assert_eq!(config.source("l7r.port"), Some(&Source::Default));
}

#[test]
fn each_layer_wins_over_the_ones_below() {
    let builder = Config::builder();
    assert_eq!(builder.clone().build().expect("good").port("l7r.port"), 8443);
    let builder = builder.file("a.conf", "l7r.port = 1");
    assert_eq!(builder.clone().build().expect("good").port("l7r.port"), 1);
    let builder = builder.file("b.conf", "l7r.port = 2\n");
    assert_eq!(builder.clone().build().expect("good").port("l7r.port"), 2);
    let builder = builder.environment("l7r.port=3");
    assert_eq!(builder.clone().build().expect("good").port("l7r.port"), 3);
    let builder = builder.database(rows(&[("l7r.port", "4")]));
    assert_eq!(builder.clone().build().expect("good").port("l7r.port"), 4);
    let config = builder.set("l7r.port", "5").build().expect("good");
    assert_eq!(config.port("l7r.port"), 5);
    assert_eq!(config.source("l7r.port"), Some(&Source::CommandLine));
}

#[test]
fn later_files_win_key_by_key() {
    let config = Config::builder()
        .file("node.conf", "l7r.port = 1\nl7r.address = 10.0.0.1")
        .file("node.conf.d/x.conf", "\nl7r.port = 2")
        .build()
        .expect("good");
    assert_eq!((config.port("l7r.port"), config.text("l7r.address").as_str()), (2, "10.0.0.1"));
    assert_eq!(config.source("l7r.port").map(ToString::to_string).as_deref(), Some("node.conf.d/x.conf:2"));
    assert_eq!(config.warnings(), [""; 0], "only a repetition within one file is worth a word");
}

#[test]
fn an_empty_value_is_set_and_hides_the_layers_below() {
    let config = from_file("client.host.name =\nl7r.auth.plugins =\n");
    assert_eq!(config.get("l7r.auth.plugins").as_deref(), Some(""));
    assert!(!config.has("l7r.auth.plugins"));
    assert_eq!(config.get("nodename"), None, "nobody set it and there is no default");
    let config = Config::builder()
        .file("node.conf", "vm.network.bridge = br0")
        .database(rows(&[("vm.network.bridge", "")]))
        .build()
        .expect("good");
    assert_eq!(config.text("vm.network.bridge"), "");
}

#[test]
fn file_only_keys_in_the_database_have_no_effect_and_are_reported() {
    let config = Config::builder()
        .file("node.conf", "log.level = WARN")
        .environment("nodename=n1")
        .database(rows(&[("log.level", "DEBUG"), ("vma.audio.enable", "1"), ("nodename", "n2")]))
        .build()
        .expect("good");
    assert_eq!((config.text("log.level"), config.text("nodename")), ("WARN".to_owned(), "n1".to_owned()));
    assert!(!config.flag("vma.audio.enable"));
    assert_eq!(
        config.warnings(),
        [
            "log.level is only read from node.conf; the database value has no effect",
            "vma.audio.enable is only read from vma.conf; the database value has no effect",
            "nodename is only read from node.conf; the database value has no effect",
        ]
    );
}

#[test]
fn database_only_keys_in_a_file_have_no_effect() {
    let config = from_file("l7r.ssl.key = x");
    assert_eq!(config.get("l7r.ssl.key"), None);
    assert_eq!(
        config.warnings(),
        ["node.conf:1: l7r.ssl.key is only read from the database; set it with 'config ssl'"]
    );
}

#[test]
fn the_environment_is_split_at_semicolons() {
    let config =
        Config::builder().environment(r" l7r.port = 99 ;; vm.vnc.opts=a\;b\c=d; ").build().expect("good");
    assert_eq!(config.port("l7r.port"), 99);
    assert_eq!(config.text("vm.vnc.opts"), r"a;b\c=d");
    let error =
        Config::builder().environment("database.password=a;geheim").build().expect_err("a part is no pair");
    assert_eq!(error.to_string(), r"QVD_SET: a part without '=' (a ';' in a value is written '\;')");
}

// References

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
        ["node.conf:1: path.log: refers to itself (log.filename -> path.log -> log.filename)"]
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

// Mistakes

#[test]
fn all_mistakes_are_listed_with_their_lines() {
    let error = Config::builder()
        .file("node.conf", "\nl7r.port = 84x3\nlone\nl7r.use_ssl = perhaps\n")
        .file("more.conf", "log.level = loud\nvm.network.netmask = 255.0.255.0")
        .environment("l7r.limit.head.timeout=soon")
        .set("l7r.address", "a b")
        .build()
        .expect_err("nothing is right");
    assert_eq!(
        texts(error.problems()),
        [
            "node.conf:2: l7r.port: '84x3' is not a port number (1-65535)",
            "node.conf:3: invalid property line 'lone' at line 3",
            "node.conf:4: l7r.use_ssl: 'perhaps' is not a boolean (1 yes y true t on, or 0 no n false f off)",
            "more.conf:1: log.level: 'loud' is not one of ALL, TRACE, DEBUG, INFO, WARN, ERROR, FATAL, OFF",
            "more.conf:2: vm.network.netmask: '255.0.255.0' is not a network mask (0-32, or dotted and contiguous)",
            "command line: l7r.address: 'a b' is not an address (an IP address, a host name, or * for all)",
            "QVD_SET: l7r.limit.head.timeout: 'soon' is not a time in seconds (such as 30, 0.5, 10m, 2h or 1d)",
        ]
    );
    assert_eq!(error.kind(), crate::ErrorKind::Invalid);
}

#[test]
fn a_bad_value_in_a_file_counts_even_when_another_layer_hides_it() {
    let error = Config::builder()
        .file("node.conf", "l7r.port = 84x3")
        .database(rows(&[("l7r.port", "8443")]))
        .build()
        .expect_err("it would come to light one day");
    assert_eq!(error.to_string(), "node.conf:1: l7r.port: '84x3' is not a port number (1-65535)");
}

#[test]
fn a_value_that_breaks_another_is_blamed() {
    // The value is a good path; the command made of it by default is no command.
    let lines = errors("path.qvd.bin = /it's");
    assert!(
        lines[0].starts_with("node.conf:1: path.qvd.bin: would break client.session_open.command: "),
        "{lines:?}"
    );
}

#[test]
fn unknown_keys_are_reported_with_what_was_probably_meant() {
    let config = from_file("nodename = n1\nl7r.prot = 1\nmyproperty = 2\n");
    assert_eq!(
        config.warnings(),
        [
            "node.conf:2: unknown configuration key 'l7r.prot' (did you mean 'l7r.port'?)",
            "node.conf:3: unknown configuration key 'myproperty'",
        ]
    );
    assert_eq!(config.text("myproperty"), "2", "plugins have keys of their own");
    assert_eq!(
        errors("l7r.prot = 1\nconfig.strict = 1\n"),
        ["node.conf:1: unknown configuration key 'l7r.prot' (did you mean 'l7r.port'?)"]
    );
    assert_eq!(
        errors("g\\ h = 1\nconfig.strict = yes\n"),
        ["node.conf:1: 'g h' cannot be a configuration key (letters, digits, '_', '.' and '-')"]
    );
}

#[test]
fn a_key_set_twice_in_a_file_is_reported_with_both_lines() {
    let config = from_file("l7r.port = 1\n\nl7r.port = 2\n");
    assert_eq!(config.port("l7r.port"), 2);
    assert_eq!(config.warnings(), ["node.conf:3: 'l7r.port' is set again and replaces the value of line 1"]);
}

#[test]
fn blanks_after_numbers_and_credentials_are_removed_and_reported() {
    let config =
        from_file("l7r.port = 99 \ndatabase.password = geheim\t\ndatabase.user = q \nlog.pattern = x \n");
    assert_eq!(config.port("l7r.port"), 99);
    assert_eq!(config.secret("database.password").expose(), "geheim");
    assert_eq!((config.text("database.user"), config.text("log.pattern")), ("q".to_owned(), "x ".to_owned()));
    assert_eq!(config.warnings().len(), 3, "{:?}", config.warnings());
    assert_eq!(
        config.warnings()[1],
        "node.conf:2: database.password: the blanks around the value are not part of it"
    );
}

#[test]
fn a_required_key_says_where_it_was_looked_for() {
    let builder = Config::builder().file("/etc/qvd/node.conf", "").require("database.password");
    let error = builder.clone().database([]).build().expect_err("it is required");
    assert_eq!(
        error.to_string(),
        "configuration key 'database.password' is not set (looked in: /etc/qvd/node.conf, database)"
    );
    let builder =
        Config::builder().missing_file("/etc/qvd/node.conf").file("x.conf", "nodename =").require("nodename");
    assert_eq!(
        builder.build().expect_err("an empty name is none").to_string(),
        "configuration key 'nodename' is not set (looked in: x.conf, /etc/qvd/node.conf)"
    );
    let config = from_file("nodename = n1");
    assert_eq!(config.require("nodename"), Ok(()));
    assert!(config.require("vm.network.ip.start").is_err());
}

#[test]
fn old_names_still_work_and_are_reported() {
    let config = from_file(
        "l7r.auth.mode = ldap\nclient.auth_env.share.list.0 = A\nclient.auth_env.share.list.1 = B\n\
         path.ssl.certs = /x\nl7r.options.SSL_version = TLSv1_3\n",
    );
    assert_eq!(config.list("l7r.auth.plugins"), ["ldap"]);
    assert_eq!(config.text("l7r.auth.mode"), "ldap", "asked for by its old name");
    assert_eq!(config.indexed("client.auth_env_share.list.N"), ["A", "B"]);
    assert_eq!(config.text("l7r.ssl.options.SSL_version"), "TLSv1_3");
    assert_eq!(config.get("path.ssl.certs"), None);
    assert_eq!(
        config.warnings()[0],
        "node.conf:1: configuration key 'l7r.auth.mode' is deprecated, use 'l7r.auth.plugins'"
    );
    assert_eq!(
        config.warnings()[3],
        "node.conf:4: configuration key 'path.ssl.certs' has no effect any more"
    );
    assert_eq!(config.warnings().len(), 5);
}

#[test]
fn the_present_name_wins_over_the_old_one_in_the_same_place() {
    for text in ["l7r.auth.mode = old\nl7r.auth.plugins = new", "l7r.auth.plugins = new\nl7r.auth.mode = old"]
    {
        assert_eq!(from_file(text).text("l7r.auth.plugins"), "new");
    }
    let database = rows(&[("l7r.auth.plugins", "new"), ("l7r.auth.mode", "old")]);
    assert_eq!(Config::builder().database(database).build().expect("good").text("l7r.auth.plugins"), "new");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    const WEIGHT: &str = "l7r.loadbalancer.plugin.default.weight";
    for (text, error) in [
        (format!("{WEIGHT}.cpu = -1"), format!("node.conf:1: {WEIGHT}.cpu: '-1' is negative: a weight is 0 or more")),
        (
            format!("{WEIGHT}.cpu = 0\n{WEIGHT}.ram = 0.0\n{WEIGHT}.random = 0"),
            format!("node.conf:1: {WEIGHT}.cpu: the weights of cpu, ram and random must not all be 0"),
        ),
        (
            "l7r.auth.plugins = default, ld-ap".to_owned(),
            "node.conf:1: l7r.auth.plugins: 'ld-ap' is not a plugin name (letters, digits and '_')".to_owned(),
        ),
        (
            "vm.network.ip.start = 10.3.15.255\nvm.network.netmask = 24".to_owned(),
            "node.conf:1: vm.network.ip.start: '10.3.15.255' must lie between the ends of its network, 10.3.15.0/24"
                .to_owned(),
        ),
        (
            "vm.network.ip.start = 10.3.15.0\nvm.network.netmask = 255.255.255.0".to_owned(),
            "node.conf:1: vm.network.ip.start: '10.3.15.0' must lie between the ends of its network, 10.3.15.0/24"
                .to_owned(),
        ),
        (
            "internal.hkd.agent.ticker.delay = 200".to_owned(),
            "node.conf:1: internal.hkd.agent.ticker.delay: would break internal.hkd.agent.ticker.timeout: \
             must be at least four times internal.hkd.agent.ticker.delay"
                .to_owned(),
        ),
        (
            "internal.hkd.cluster.node.timeout = 9m".replace("9m", "539"),
            "node.conf:1: internal.hkd.cluster.node.timeout: must be at least the sum of \
             internal.hkd.agent.ticker.timeout, internal.hkd.fence.kill.timeout and internal.hkd.lease.margin"
                .to_owned(),
        ),
    ] {
        assert_eq!(errors(&text), [error], "{text}");
    }
    from_file("internal.hkd.cluster.node.timeout = 540");
}

#[test]
fn an_outside_gateway_is_worth_a_warning() {
    let network = "vm.network.ip.start = 10.3.15.50\nvm.network.netmask = 24\n";
    let config =
        from_file(&format!("{network}vm.network.gateway = 10.3.16.1\nvm.network.dns_server = 10.3.15.1"));
    assert_eq!(
        config.warnings(),
        ["vm.network.gateway: 10.3.16.1 is outside of the network of the VMs, 10.3.15.0/24"]
    );
    let everything = "vm.network.ip.start = 10.3.15.50\nvm.network.netmask = 0\nvm.network.gateway = 1.1.1.1";
    assert_eq!(from_file(everything).warnings(), [""; 0]);
}

#[test]
fn the_fast_profile_changes_defaults_and_single_keys_win_over_it() {
    let config = from_file("hkd.cluster.profile = fast\ninternal.hkd.agent.ticker.delay = 4");
    assert_eq!(config.seconds("internal.hkd.agent.ticker.delay"), Duration::from_secs(4));
    assert_eq!(config.seconds("internal.hkd.agent.ticker.timeout"), Duration::from_secs(20));
    assert_eq!(config.seconds("internal.hkd.cluster.node.timeout"), Duration::from_secs(40));
    assert_eq!(Config::defaults().seconds("internal.hkd.agent.ticker.timeout"), Duration::from_secs(450));
}

// Secrets

#[test]
fn secrets_are_masked_wherever_a_configuration_is_printed() {
    let text = "database.password = hunter2\nwat.admin.password = hunter2\nmy.api.token = hunter2\n\
                auth.ldap.bindpass = hunter2\nl7r.auth.plugin.default.salt = hunter2\nthe.secret = hunter2\n";
    let builder = Config::builder()
        .file("node.conf", text)
        .environment("x.passwd=hunter2")
        .set("x.password", "hunter2");
    let builder = builder.database(rows(&[("y.secret", "hunter2")]));
    assert!(!format!("{builder:?}").contains("hunter2"));
    let config = builder.build().expect("good");
    let debug = format!("{config:?}");
    assert!(!debug.contains("hunter2"), "{debug}");
    assert!(debug.contains("database.password=***** (node.conf:1)"), "{debug}");
    assert!(!format!("{:?}", config.warnings()).contains("hunter2"));
    assert_eq!(config.secret("database.password").expose(), "hunter2");
}

#[test]
fn a_bad_secret_is_not_repeated_in_the_message() {
    let lines = errors("l7r.auth.plugin.totp.token_size = geheim\ndatabase.password = a\\u0000b");
    assert_eq!(
        lines,
        [
            "node.conf:1: l7r.auth.plugin.totp.token_size: '*****' is not an integer",
            "node.conf:2: database.password: '*****' contains a NUL character",
        ]
    );
}

// The database

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

// Reading

#[test]
fn every_getter_answers_for_every_key_and_for_none() {
    let config = Config::defaults();
    let names: Vec<&str> =
        registry().iter().map(|spec| spec.name).chain(["no.such.key", "", "${x}"]).collect();
    for name in names {
        let _ = (
            config.get(name),
            config.text(name),
            config.flag(name),
            config.integer(name),
            config.number(name),
        );
        let _ = (
            config.seconds(name),
            config.port(name),
            config.octal(name),
            config.path(name),
            config.list(name),
        );
        let _ = (config.secret(name), config.ipv4(name), config.netmask(name), config.geometry(name));
        let _ = (config.path_list(name), config.command(name), config.words(name), config.indexed(name));
    }
    assert_eq!(config.text("no.such.key"), "");
    assert_eq!(config.integer("no.such.key"), 0);
    assert_eq!(config.seconds("no.such.key"), Duration::ZERO);
    assert_eq!(config.command("no.such.key"), [""; 0]);
}

#[test]
fn values_come_in_their_types() {
    let config = from_file(
        "l7r.use_ssl = off\nvm.kvm.cpus = 7\ninternal.vm.reserved_cpu = 1.5\ninternal.l7r.timeout.vma = 0.2\n\
         hkd.user.umask = 0027\npath.log = /a b\nclient.usb.share_list = 1:2@x , 3:4\nvm.network.gateway = 10.0.0.1\n\
         vm.network.netmask = 255.255.0.0\nclient.geometry = 800x600\nlog.level = debug\npaths.exec_path = /bin:/sbin\n",
    );
    assert!(!config.flag("l7r.use_ssl") && config.flag("vm.kvm.virtio"));
    assert_eq!((config.integer("vm.kvm.cpus"), config.number("internal.vm.reserved_cpu")), (7, 1.5));
    assert_eq!(config.seconds("internal.l7r.timeout.vma"), Duration::from_millis(200));
    assert_eq!((config.octal("hkd.user.umask"), config.octal("vma.user.umask")), (0o27, 0o22));
    assert_eq!(config.path("path.log"), PathBuf::from("/a b"));
    assert_eq!(config.list("client.usb.share_list"), ["1:2@x", "3:4"]);
    assert_eq!(config.ipv4("vm.network.gateway"), Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(
        (config.netmask("vm.network.netmask"), config.geometry("client.geometry")),
        (Some(16), Some((800, 600)))
    );
    assert_eq!(config.text("log.level"), "DEBUG", "words come in the spelling of the table");
    assert_eq!(config.path_list("paths.exec_path"), [PathBuf::from("/bin"), PathBuf::from("/sbin")]);
}

#[test]
fn commands_come_with_their_extra_words() {
    let config = from_file(
        "path.qvd.bin = /opt/qvd\ncommand.nxagent = ${path.qvd.bin}/nxagent -a\n\
         command.nxagent.args.extra = -title 'my desktop'\ncommand.x.args.extra = -b\n",
    );
    assert_eq!(config.command("command.nxagent"), ["/opt/qvd/nxagent", "-a", "-title", "my desktop"]);
    assert_eq!(config.command("command.x"), [""; 0], "extra words alone are no command");
    assert_eq!(config.command("command.windows.nxproxy"), [r"nx\nxproxy.exe"]);
}

#[test]
fn indexed_keys_end_at_the_first_gap() {
    let config = from_file(
        "client.share.0 = /a\nclient.share.1 = /b\nclient.share.3 = /d\n\
         client.mount.0.remote = /r\nclient.mount.0.local = /l\n",
    );
    assert_eq!(config.indexed("client.share.N"), ["/a", "/b"]);
    assert_eq!(config.indexed("client.mount.N.remote"), ["/r"]);
    assert_eq!(config.indexed("client.auth_env_share.list.N"), [""; 0]);
}

#[test]
fn the_effective_list_shows_value_text_and_source() {
    let config =
        Config::builder().file("n.conf", "path.log = ${path.tmp}/l").set("x.y", "1").build().expect("good");
    let entries: Vec<_> = config.iter_effective().collect();
    assert!(entries.is_sorted_by_key(|entry| entry.key));
    let entry = |key: &str| *entries.iter().find(|entry| entry.key == key).expect(key);
    let log = entry("path.log");
    assert_eq!(
        (log.value, log.raw, log.source.to_string().as_str()),
        ("/var/tmp/l", "${path.tmp}/l", "n.conf:1")
    );
    assert_eq!(entry("x.y").source, &Source::CommandLine);
    assert_eq!(entry("l7r.port").source, &Source::Default);
    assert!(!entries.iter().any(|entry| entry.key == "nodename"), "what has no value is not listed");
}

proptest! {
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
