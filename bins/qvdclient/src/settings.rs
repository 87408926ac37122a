//! From options, environment and files to what the client library takes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qvd_client::options::{Geometry, SessionOptions};
use qvd_client::trust::{Policy, TrustAnchors};
use qvd_client::tunnel::{NxProxy, nx_words};
use qvd_client::{ClientBuilder, Error};
use qvd_core::config::{Config, Source};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::args::Args;
use crate::failure::Failure;

/// Where systems keep the authorities they trust, all in one file.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Keys of the older clients that nothing here answers to, and why.
const WITHOUT_EFFECT: [(&str, &str); 4] = [
    ("client.ssl.ocsp_mode", NOT_ASKED),
    ("client.ssl.allow_ocsp_error", NOT_ASKED),
    ("client.ssl.allow_ocsp_server_failure", NOT_ASKED),
    ("client.ssl.options.SSL_version", "TLS 1.2 and 1.3 are spoken, nothing older"),
];
const NOT_ASKED: &str = "no responder is asked whether a certificate was revoked";

/// Reads an environment variable; empty counts as absent.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// The user's own directory, `~/.qvd`.
pub(crate) fn user_dir() -> PathBuf {
    let home = variable("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    home.join(".qvd")
}

/// Where the user's X cookies are.
pub(crate) fn x_authority() -> PathBuf {
    let home = || PathBuf::from(variable("HOME").unwrap_or_default()).join(".Xauthority");
    variable("XAUTHORITY").map_or_else(home, PathBuf::from)
}

/// The configuration: files, `QVD_SET`, options.
pub(crate) fn load(args: &Args) -> Result<Config, Failure> {
    let files =
        [PathBuf::from("/etc/qvd/client.conf"), user_dir().join("client.conf"), "qvd-client.conf".into()];
    let mut builder = Config::builder();
    for file in files {
        match fs::read_to_string(&file) {
            Ok(text) => builder = builder.file(file.display().to_string(), text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let path = file.display().to_string();
                return Err(Failure::File { operation: "read", path, source });
            }
        }
    }
    if let Some(text) = variable("QVD_SET") {
        builder = builder.environment(text);
    }
    for (key, value) in overrides(args)? {
        builder = builder.set(key, value);
    }
    builder.build().map_err(Failure::Config)
}

/// The options that have a key.
fn overrides(args: &Args) -> Result<Vec<(String, String)>, Failure> {
    let texts = [
        ("client.host.name", &args.host),
        ("client.host.port", &args.port),
        ("client.user.name", &args.user),
        ("client.geometry", &args.geometry),
        ("client.link", &args.link),
    ];
    let mut overrides: Vec<(String, String)> =
        texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.clone()?))).collect();
    if args.fullscreen {
        overrides.push(("client.fullscreen".to_owned(), "1".to_owned()));
    }
    if args.no_ssl {
        overrides.push(("client.use_ssl".to_owned(), "0".to_owned()));
    }
    for setting in &args.settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--set '{setting}': write KEY=VALUE")))?;
        overrides.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(overrides)
}

/// What was set and has no effect, for people.
pub(crate) fn without_effect(config: &Config) -> Vec<String> {
    let is_set = |key: &str| !matches!(config.source(key), None | Some(Source::Default));
    let set = WITHOUT_EFFECT.iter().filter(|(key, _)| is_set(key));
    set.map(|(key, why)| format!("{key} has no effect: {why}")).collect()
}

/// A text that a `client.force.*` key may fix.
fn forced(config: &Config, forced: &str, usual: &str) -> String {
    config.get(forced).filter(|text| !text.is_empty()).unwrap_or_else(|| config.text(usual))
}

/// The server's name.
pub(crate) fn host(config: &Config) -> Result<String, Failure> {
    let host = forced(config, "client.force.host.name", "client.host.name");
    if host.is_empty() {
        let remedy = "no server given: use -h HOST, QVDHOST, or client.host.name in ~/.qvd/client.conf";
        return Err(Failure::Usage(remedy.to_owned()));
    }
    Ok(host)
}

/// What the session asks of its virtual machine.
pub(crate) fn session_options(
    config: &Config,
    args: &Args,
    keyboard: Option<String>,
) -> Result<SessionOptions, Error> {
    let mut options = SessionOptions::default();
    if let Some(keyboard) = args.keyboard.clone().or(keyboard) {
        options.keyboard = keyboard;
    }
    options.geometry = config.geometry("client.geometry").map(|(width, height)| Geometry { width, height });
    options.fullscreen = config.flag("client.fullscreen");
    options.link = forced(config, "client.force.link", "client.link").parse()?;
    options.printing = config.flag("client.printing.enable");
    options.audio = config.flag("client.audio.enable");
    options.nxagent_extra_args = config.text("client.nxagent.extra_args");
    Ok(options)
}

/// The program that shows the desktop, with its words.
pub(crate) fn nx_proxy(config: &Config, args: &Args) -> Result<NxProxy, Error> {
    let mut command = config.command("command.nxproxy").into_iter();
    // Unless somebody chose one, it is the one along PATH, so that a home-grown one can be put before it.
    let is_default = matches!(config.source("command.nxproxy"), None | Some(Source::Default));
    let program = command.next().filter(|_| !is_default).unwrap_or_else(|| "nxproxy".to_owned());
    let mut words: Vec<String> = command.collect();
    words.extend(config.words("client.nxproxy.extra_args"));
    if config.flag("client.audio.enable") {
        words.push(format!("media={}", pulse_port(variable("PULSE_SERVER").as_deref())));
    }
    if config.flag("client.printing.enable") {
        words.push("cups=631".to_owned());
    }
    words.extend(nx_words(args.nx_options.as_deref().unwrap_or_default())?);
    let proxy = NxProxy::find(&program)?.words(words);
    Ok(match variable("XDG_RUNTIME_DIR") {
        Some(dir) => proxy.runtime_dir(dir),
        None => proxy,
    })
}

/// Port of the sound server on this machine.
fn pulse_port(server: Option<&str>) -> u16 {
    let local = server.and_then(|text| {
        let text = text.strip_prefix("tcp:").unwrap_or(text);
        text.strip_prefix("localhost:").unwrap_or(text).parse().ok()
    });
    local.unwrap_or(4713)
}

/// Everything about certificates, and the environment to share.
pub(crate) fn apply(config: &Config, args: &Args, builder: ClientBuilder) -> Result<ClientBuilder, Failure> {
    let mut builder = builder.share_environment(shared_environment(config));
    if !config.flag("client.use_ssl") {
        return Ok(builder.without_tls());
    }
    builder = builder
        .trust_anchors(anchors(config))
        .policy(policy(config, args))
        .remember_in(user_dir().join("accepted_certs.json"));
    if let Some((chain, key)) = identity(config, args)? {
        builder = builder.identity(chain, key);
    }
    Ok(builder)
}

fn policy(config: &Config, args: &Args) -> Policy {
    let mut policy = Policy::default();
    policy.allow_bad_host = args.no_check || config.flag("client.ssl.allow_bad_host");
    policy.allow_revoked = args.no_check || config.flag("client.ssl.allow_revoked");
    policy.allow_untrusted = args.no_check || config.flag("client.ssl.allow_untrusted");
    policy.allow_expired = args.no_check || config.flag("client.ssl.allow_expired");
    policy.allow_not_yet_valid = args.no_check || config.flag("client.ssl.allow_not_yet_valid");
    policy.allow_weak_hash = args.no_check || config.flag("client.ssl.allow_insecure_sign_algo");
    policy.allow_weak_key = args.no_check || config.flag("client.ssl.allow_weak_key");
    policy.allow_other = args.no_check || config.flag("client.ssl.allow_unknown_error");
    policy
}

/// Authorities of the system, of the configuration, and those in the user's own directory.
fn anchors(config: &Config) -> TrustAnchors {
    let mut certificates = Vec::new();
    match config.text("path.ssl.ca.system.file").as_str() {
        "" | "SYSTEM_DEFAULT" => {
            if let Some(file) = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|file| file.exists()) {
                certificates.extend(read_certificates(file));
            }
        }
        file => certificates.extend(read_certificates(Path::new(file))),
    }
    let personal = user_dir().join(config.path("path.ssl.ca.personal"));
    for dir in config.path_list("path.ssl.ca.system.path").into_iter().chain([personal]) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            certificates.extend(read_certificates(&entry.path()));
        }
    }
    TrustAnchors::new(certificates)
}

/// The certificates of a PEM file; what cannot be read vouches for nobody, and the user is asked then.
fn read_certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    let Ok(certificates) = CertificateDer::pem_file_iter(file) else { return Vec::new() };
    certificates.filter_map(Result::ok).collect()
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Certificate and key of the user, when asked for.
fn identity(config: &Config, args: &Args) -> Result<Option<Identity>, Failure> {
    let files = match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ if config.flag("client.ssl.use_cert") => {
            (config.path("client.ssl.cert_file"), config.path("client.ssl.key_file"))
        }
        _ => return Ok(None),
    };
    let unreadable = |file: &Path, error: rustls::pki_types::pem::Error| Failure::File {
        operation: "read",
        path: file.display().to_string(),
        source: match error {
            rustls::pki_types::pem::Error::Io(source) => source,
            other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
        },
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.0)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(&files.0, error))?;
    let key = PrivateKeyDer::from_pem_file(&files.1).map_err(|error| unreadable(&files.1, error))?;
    Ok(Some((chain, key)))
}

fn shared_environment(config: &Config) -> Vec<(String, Vec<u8>)> {
    if !config.flag("client.auth_env_share.enable") {
        return Vec::new();
    }
    let names = config.indexed("client.auth_env_share.list.N");
    names
        .into_iter()
        .filter_map(|name| {
            let value = std::env::var_os(&name)?;
            Some((name, std::os::unix::ffi::OsStringExt::into_vec(value)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn args(line: &str) -> Args {
        Args::try_parse_from(line.split_whitespace()).unwrap()
    }

    fn config(text: &str, args: &Args) -> Config {
        let mut builder = Config::builder().file("client.conf", text);
        for (key, value) in overrides(args).unwrap() {
            builder = builder.set(key, value);
        }
        builder.build().unwrap()
    }

    #[test]
    fn options_win_over_files_and_forced_keys_over_both() {
        let line = args("qvdclient -h b -g 800x600 --link lan --set client.printing.enable=0");
        let c = config("client.host.name = a\nclient.geometry = 640x480\nclient.fullscreen = 1\n", &line);
        assert_eq!(host(&c).unwrap(), "b");
        let options = session_options(&c, &line, Some("pc104/de".to_owned())).unwrap();
        assert_eq!(options.geometry.unwrap().to_string(), "800x600");
        assert_eq!((options.link.as_str(), options.keyboard.as_str()), ("lan", "pc104/de"));
        assert!(options.fullscreen && !options.printing);

        let forced = config("client.force.host.name = fixed\nclient.force.link = modem\n", &line);
        assert_eq!(host(&forced).unwrap(), "fixed");
        assert_eq!(session_options(&forced, &line, None).unwrap().link.as_str(), "modem");

        let nobody = args("qvdclient");
        assert!(host(&config("", &nobody)).unwrap_err().to_string().contains("-h HOST"));
        assert!(overrides(&args("qvdclient --set nonsense")).is_err());
    }

    #[test]
    fn a_key_without_effect_is_named_when_it_is_set() {
        let line = args("qvdclient");
        assert_eq!(without_effect(&config("client.ssl.allow_revoked = 1\n", &line)), Vec::<String>::new());
        let named = without_effect(&config("client.ssl.ocsp_mode = SSL_OCSP_NO_STAPLE\n", &line));
        assert!(
            matches!(named.as_slice(), [one] if one.starts_with("client.ssl.ocsp_mode has no effect")),
            "{named:?}"
        );
        for (key, _) in WITHOUT_EFFECT {
            assert!(qvd_core::config::registry().get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn the_sound_servers_port() {
        for (server, port) in [
            (None, 4713),
            (Some("tcp:localhost:5000"), 5000),
            (Some("localhost:5001"), 5001),
            (Some("unix:/run/pulse"), 4713),
        ] {
            assert_eq!(pulse_port(server), port, "{server:?}");
        }
    }
}
