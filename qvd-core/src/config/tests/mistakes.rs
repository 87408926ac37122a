//! What is said about mistakes, and that secrets are not part of it.

use super::*;

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
            "command line: l7r.address: 'a b' is not a list of addresses (IP addresses or host names, or * for all)",
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
            "internal.hkd.cluster.node.timeout = 539".to_owned(),
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
