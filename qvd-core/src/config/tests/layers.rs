//! Which of several values wins, and where values do not count.

use super::*;

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
