//! What the process itself is: its account, its umask, its limits.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, User, geteuid};
use qvd_bin_common::Failure;
use qvd_core::ErrorKind;
use qvd_core::config::Config;

/// Refuses an account that this process does not have. `root`, the default, suits whoever starts it: a site of an
/// ordinary user needs no root. The program does not change its account itself, because what it started before and
/// what it has open would stay behind with the old one; its service manager does.
pub(crate) fn check_account(config: &Config) -> Result<(), Failure> {
    let wanted = config.text("hkd.as_user");
    let me = geteuid();
    if wanted == "root" || account(&wanted) == Some(me) {
        return Ok(());
    }
    let text = format!(
        "'hkd.as_user' is '{wanted}', and this process belongs to user {me}: start it as that account (User= of its \
         service), or remove the key"
    );
    Err(Failure::new(ErrorKind::Invalid, text))
}

fn account(name: &str) -> Option<Uid> {
    User::from_name(name).ok().flatten().map(|user| user.uid)
}

/// Takes umask and limits from the configuration. What is refused is told and changes nothing.
pub(crate) fn apply(config: &Config) {
    umask(Mode::from_bits_truncate(config.octal("hkd.user.umask")));
    for (name, resource) in LIMITS {
        if let Err(error) = limit(config, name, resource) {
            tracing::warn!(key = format!("hkd.process.limit.{name}"), %error, "limit not set");
        }
    }
}

fn limit(config: &Config, name: &str, resource: Resource) -> nix::Result<()> {
    let of = |key: String| config.has(&key).then(|| limit_value(config.integer(&key)));
    let soft = of(format!("hkd.process.limit.{name}"));
    let hard = of(format!("hkd.process.limit.hard.{name}"));
    let (soft, hard) = match (soft, hard) {
        (None, None) => return Ok(()),
        (Some(soft), hard) => (soft, hard.unwrap_or(soft)),
        (None, Some(hard)) => (getrlimit(resource)?.0.min(hard), hard),
    };
    setrlimit(resource, soft, hard)
}

/// Less than nothing means no limit.
fn limit_value(value: i64) -> rlim_t {
    rlim_t::try_from(value).unwrap_or(RLIM_INFINITY)
}

/// Names in `hkd.process.limit.NAME`.
const LIMITS: [(&str, Resource); 8] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("stack", Resource::RLIMIT_STACK),
];
