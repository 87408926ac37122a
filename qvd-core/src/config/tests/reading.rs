//! The getters.

use super::*;

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
         vm.network.netmask = 255.255.0.0\nclient.geometry = 800x600\nlog.level = debug\npaths.exec_path = /bin:/sbin\n\
         l7r.metrics.address = 127.0.0.1:9253\n",
    );
    assert!(!config.flag("l7r.use_ssl") && config.flag("vm.kvm.virtio"));
    assert_eq!((config.integer("vm.kvm.cpus"), config.number("internal.vm.reserved_cpu")), (7, 1.5));
    assert_eq!(config.seconds("internal.l7r.timeout.vma"), Duration::from_millis(200));
    assert_eq!((config.octal("hkd.user.umask"), config.octal("vma.user.umask")), (0o27, 0o22));
    assert_eq!(config.path("path.log"), PathBuf::from("/a b"));
    assert_eq!(config.list("client.usb.share_list"), ["1:2@x", "3:4"]);
    assert_eq!(config.ipv4("vm.network.gateway"), Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(config.socket("l7r.metrics.address"), Some(([127, 0, 0, 1], 9253).into()));
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
