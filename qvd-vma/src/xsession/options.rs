//! The options file of nxagent: one line made of what the client asked for and what this machine allows. Pure.

use std::path::PathBuf;

/// What the configuration says about the agent's options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptionSettings {
    /// Keyboard of clients that send none, `model/layout`.
    pub default_keyboard: String,
    /// Link of clients that send none.
    pub default_link: String,
    /// Audio channel.
    pub media: bool,
    /// Slave channel.
    pub slave: bool,
    /// Printing channel, for clients that want it.
    pub printing: bool,
    /// Where the agent listens for its client.
    pub listen: Listen,
}

/// Where the agent listens for its client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// TCP port 4000 plus the configured display, whatever display the agent has in the end.
    #[default]
    Tcp,
    /// A unix socket.
    Unix(PathBuf),
}

/// A property whose value may not go into the options file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid characters in parameter {name}")]
pub struct InvalidParameter {
    /// The property.
    pub name: String,
}

/// The value of a session property; the last one of a name counts.
pub fn property<'a>(properties: &'a [(String, String)], name: &str) -> Option<&'a str> {
    properties.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// Whether a flag property is set: absent, empty and `0` are not.
pub fn flag(properties: &[(String, String)], name: &str) -> bool {
    property(properties, name).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Whether the client runs Windows, which prints over SMB.
pub fn is_windows(properties: &[(String, String)]) -> bool {
    matches!(property(properties, "qvd.client.os"), Some("windows" | "winnt"))
}

/// The file's content for an agent on `display`, when the configured one is `configured_display`.
///
/// # Errors
///
/// [`InvalidParameter`] when a value has characters that would change the meaning of the line.
///
/// ```
/// use qvd_vma::xsession::options::{line, OptionSettings};
/// let properties = [("qvd.client.geometry".to_owned(), "800x600".to_owned())];
/// let settings = OptionSettings { default_link: "adsl".into(), ..OptionSettings::default() };
/// assert_eq!(line(&properties, &settings, 100, 100).unwrap(), "nx/nx,link=adsl,geometry=800x600:100\n");
/// ```
pub fn line(
    properties: &[(String, String)],
    settings: &OptionSettings,
    display: u16,
    configured_display: u16,
) -> Result<String, InvalidParameter> {
    let mut words = vec!["nx/nx".to_owned()];
    let fallbacks = [
        ("keyboard", "qvd.client.keyboard", settings.default_keyboard.as_str()),
        ("client", "qvd.client.os", ""),
        ("link", "qvd.client.link", settings.default_link.as_str()),
        ("geometry", "qvd.client.geometry", ""),
        ("fullscreen", "qvd.client.fullscreen", ""),
    ];
    for (key, name, fallback) in fallbacks {
        let value = property(properties, name).unwrap_or(fallback);
        if !value.bytes().all(is_plain) {
            return Err(InvalidParameter { name: name.to_owned() });
        }
        if !value.is_empty() {
            words.push(format!(
                "{key}={}",
                if key == "keyboard" { known_layout(value) } else { value.into() }
            ));
        }
    }
    // Switched on, a channel's port is counted from the agent's display; programs look for it where the configured
    // one has it.
    let channel = |name: &str, port: u32| {
        if display == configured_display { format!("{name}=1") } else { format!("{name}={port}") }
    };
    if settings.media {
        words.push(channel("media", media_port(configured_display)));
    }
    if settings.slave {
        words.push(channel("slave", slave_port(configured_display)));
    }
    let extra = property(properties, EXTRA).unwrap_or_default();
    if !extra_is_harmless(extra) {
        return Err(InvalidParameter { name: EXTRA.to_owned() });
    }
    if !extra.is_empty() {
        words.push(extra.to_owned());
    }
    if settings.printing && flag(properties, "qvd.client.printing.enabled") {
        let channel = if is_windows(properties) { "smb" } else { "cups" };
        words.push(format!("{channel}={}", printing_port(configured_display)));
    }
    match &settings.listen {
        Listen::Unix(path) => words.push(format!("listen=unix:{}", path.display())),
        Listen::Tcp if display != configured_display => {
            words.push(format!("listen={}", u32::from(configured_display) + 4000));
        }
        Listen::Tcp => {}
    }
    Ok(format!("{}:{display}\n", words.join(",")))
}

/// Port of the printing channel inside the machine.
pub fn printing_port(display: u16) -> u32 {
    u32::from(display) + 2000
}

/// Port of the audio channel inside the machine.
pub fn media_port(display: u16) -> u32 {
    u32::from(display) + 7000
}

/// Port of the slave channel inside the machine.
pub fn slave_port(display: u16) -> u32 {
    u32::from(display) + 11_000
}

const EXTRA: &str = "qvd.client.nxagent.extra_args";

/// What raw options of a client may say: how the stream is packed and how the window behaves. Everything else, and
/// much is not even documented, can open ports, read and write files or end sessions. The agent takes names in any
/// case; here there is one.
const TUNING: [&str; 26] = [
    "autodpi",
    "autograb",
    "backingstore",
    "cache",
    "clipboard",
    "composite",
    "copysize",
    "defer",
    "delta",
    "images",
    "keyconv",
    "limit",
    "magicpixel",
    "memory",
    "menu",
    "pack",
    "resize",
    "shmem",
    "shpix",
    "shseg",
    "sleep",
    "streaming",
    "strict",
    "taint",
    "textclipboard",
    "tile",
];

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_/+-".contains(&byte)
}

/// Whether these are `name=value` pairs of [`TUNING`], separated by commas. No value of them is a path.
fn extra_is_harmless(extra: &str) -> bool {
    let is_value = |value: &str| {
        !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-_".contains(&b))
    };
    extra.is_empty()
        || extra.split(',').all(|word| {
            word.split_once('=').is_some_and(|(name, value)| TUNING.contains(&name) && is_value(value))
        })
}

/// Clients send the layout `en`, which no X server has.
fn known_layout(keyboard: &str) -> String {
    match keyboard.split_once('/') {
        Some((model, "en")) => format!("{model}/us"),
        _ => keyboard.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn properties(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn settings() -> OptionSettings {
        OptionSettings {
            default_keyboard: "pc105/en".into(),
            default_link: "adsl".into(),
            ..OptionSettings::default()
        }
    }

    #[test]
    fn the_line_of_the_protocol_page_comes_out() {
        let asked = properties(&[
            ("qvd.client.keyboard", "pc105/es"),
            ("qvd.client.os", "linux"),
            ("qvd.client.geometry", "1024x768"),
            ("qvd.client.printing.enabled", "1"),
        ]);
        let all = OptionSettings { media: true, slave: true, printing: true, ..settings() };
        assert_eq!(
            line(&asked, &all, 100, 100).unwrap(),
            "nx/nx,keyboard=pc105/es,client=linux,link=adsl,geometry=1024x768,media=1,slave=1,cups=2100:100\n"
        );
    }

    #[test]
    fn fallbacks_are_for_absent_values_only() {
        assert_eq!(line(&[], &settings(), 7, 7).unwrap(), "nx/nx,keyboard=pc105/us,link=adsl:7\n");
        let empty = properties(&[("qvd.client.link", ""), ("qvd.client.keyboard", "")]);
        assert_eq!(line(&empty, &settings(), 7, 7).unwrap(), "nx/nx:7\n");
    }

    #[test]
    fn the_last_value_of_a_name_counts() {
        let asked = properties(&[("qvd.client.link", "modem"), ("qvd.client.link", "lan")]);
        assert!(line(&asked, &settings(), 7, 7).unwrap().contains("link=lan"));
    }

    #[test]
    fn a_dangerous_value_names_its_parameter() {
        for (name, value) in [
            ("qvd.client.geometry", "$(reboot)"),
            ("qvd.client.link", "lan,slave=1"),
            ("qvd.client.keyboard", "pc105/us:1"),
            (EXTRA, "a=1:0\nnx/nx,b=2"),
            (EXTRA, "a=1 b"),
            (EXTRA, "composite=0,listen=5000"),
            (EXTRA, "accept=10.0.0.1"),
            (EXTRA, "Listen=5000"),
            (EXTRA, "OPTIONS=/etc/passwd"),
            (EXTRA, "slave=1"),
            (EXTRA, "composite=0,kill=1"),
            (EXTRA, "cache=/etc"),
            (EXTRA, "composite"),
            (EXTRA, "composite="),
            (EXTRA, "composite=0,"),
        ] {
            let error = line(&properties(&[(name, value)]), &settings(), 7, 7).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid characters in parameter {name}"), "{value}");
        }
    }

    #[test]
    fn the_link_may_be_tuned() {
        let asked = properties(&[(EXTRA, "composite=0,cache=16M,pack=16m-png-9")]);
        let text = line(&asked, &settings(), 7, 7).unwrap();
        assert!(text.ends_with(",composite=0,cache=16M,pack=16m-png-9:7\n"), "{text}");
        assert!(TUNING.is_sorted(), "so that one finds a name");
    }

    #[test]
    fn windows_prints_over_smb_under_both_of_its_names() {
        let printing = OptionSettings { printing: true, ..settings() };
        for os in ["windows", "winnt"] {
            let asked = properties(&[("qvd.client.os", os), ("qvd.client.printing.enabled", "1")]);
            assert!(line(&asked, &printing, 100, 100).unwrap().contains("smb=2100"));
        }
        let off = properties(&[("qvd.client.printing.enabled", "0")]);
        assert!(!line(&off, &printing, 100, 100).unwrap().contains("cups"));
    }

    #[test]
    fn the_client_finds_the_agent_whatever_its_display() {
        assert!(line(&[], &settings(), 103, 100).unwrap().contains("listen=4100:103"));
        let channels = OptionSettings { media: true, slave: true, ..settings() };
        assert!(line(&[], &channels, 103, 100).unwrap().contains(",media=7100,slave=11100,"));
        assert_eq!((media_port(100), slave_port(100)), (7100, 11_100));
        let unix = OptionSettings { listen: Listen::Unix("/run/qvd/nx.sock".into()), ..settings() };
        assert!(line(&[], &unix, 103, 100).unwrap().ends_with(",listen=unix:/run/qvd/nx.sock:103\n"));
    }

    proptest! {
        /// As the agent reads them: names without regard to case.
        #[test]
        fn only_tuning_gets_through(
            words in proptest::collection::vec(("[A-Za-z]{1,9}|[lL]isten|SLAVE|options|[cC]ache", "[0-9a-zA-Z/.:]{0,4}"), 1..4)
        ) {
            let extra = words.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
            let asked = properties(&[(EXTRA, &extra)]);
            if line(&asked, &settings(), 100, 100).is_ok() {
                for (name, value) in &words {
                    prop_assert!(TUNING.contains(&name.to_lowercase().as_str()), "{name} got through");
                    prop_assert!(!value.contains(['/', ':']), "{value} got through");
                }
            }
        }

        #[test]
        fn there_is_always_one_line_and_one_display(value in ".*", extra in ".*") {
            let asked = properties(&[("qvd.client.geometry", &value), (EXTRA, &extra)]);
            if let Ok(text) = line(&asked, &settings(), 100, 100) {
                prop_assert_eq!(text.matches('\n').count(), 1);
                prop_assert_eq!(text.matches(':').count(), 1);
            }
        }
    }
}
