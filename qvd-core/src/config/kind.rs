//! The types a value can have, and the check of a text against its type.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::value;
use super::words::split_words;

/// The type of a key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Any text.
    Text,
    /// Any text that must not be shown.
    Secret,
    /// `1 yes y true t on`, or `0 no n false f off` and the empty text.
    Bool,
    /// A whole number.
    Integer,
    /// A decimal number.
    Number,
    /// A time in seconds, with decimals and a suffix `s`, `m`, `h` or `d` if wanted.
    Seconds,
    /// A TCP port, 1 to 65535.
    Port,
    /// A file mode in octal digits.
    Octal,
    /// A path.
    Path,
    /// Paths separated by colons.
    PathList,
    /// A program, with fixed words after it if wanted.
    Command,
    /// Words for a command.
    Words,
    /// Texts separated by commas.
    List,
    /// An address to listen on: an IP address, a host name, or `*` for all.
    Address,
    /// Addresses to listen on, separated by commas.
    Addresses,
    /// An IP address with a port.
    Socket,
    /// An IPv4 address.
    Ipv4,
    /// A prefix length or a dotted mask.
    Netmask,
    /// IP networks separated by commas.
    Networks,
    /// A size in pixels, `WIDTHxHEIGHT`.
    Geometry,
    /// One of these words.
    Enum(Box<[&'static str]>),
    /// A regular expression.
    Regex,
    /// An absolute URL.
    Url,
    /// Certificates or keys in PEM form.
    Pem,
    /// Names joined by `|`.
    Flags,
    /// A setting of the log system; its own reader checks it.
    Log4perl,
    /// A text template; its own reader checks it.
    Template,
}

impl Kind {
    /// The type named so in the key table.
    pub(super) fn from_table(name: &'static str) -> Option<Self> {
        if let Some(words) = name.strip_prefix("enum ") {
            return Some(Self::Enum(words.split('/').collect()));
        }
        Some(match name {
            "string" => Self::Text,
            "secret" => Self::Secret,
            "bool" => Self::Bool,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "seconds" => Self::Seconds,
            "port" => Self::Port,
            "octal" => Self::Octal,
            "path" => Self::Path,
            "path list" => Self::PathList,
            "command" => Self::Command,
            "words" => Self::Words,
            "list" => Self::List,
            "address" => Self::Address,
            "addresses" => Self::Addresses,
            "socket" => Self::Socket,
            "ipv4" => Self::Ipv4,
            "netmask" => Self::Netmask,
            "networks" => Self::Networks,
            "WxH" => Self::Geometry,
            "regex" => Self::Regex,
            "url" => Self::Url,
            "pem" => Self::Pem,
            "flags" => Self::Flags,
            "log4perl" => Self::Log4perl,
            "template" => Self::Template,
            _ => return None,
        })
    }

    /// Whether blanks around a value mean nothing.
    pub(super) const fn ignores_blanks(&self) -> bool {
        match self {
            Self::Text
            | Self::Secret
            | Self::Path
            | Self::PathList
            | Self::Command
            | Self::Words
            | Self::Regex
            | Self::Pem
            | Self::Log4perl
            | Self::Template => false,
            Self::Bool
            | Self::Integer
            | Self::Number
            | Self::Seconds
            | Self::Port
            | Self::Octal
            | Self::List
            | Self::Address
            | Self::Addresses
            | Self::Socket
            | Self::Ipv4
            | Self::Netmask
            | Self::Networks
            | Self::Geometry
            | Self::Enum(_)
            | Self::Url
            | Self::Flags => true,
        }
    }

    /// Whether the empty text is a value of this type, as opposed to "nothing was given".
    const fn may_be_empty(&self) -> bool {
        match self {
            Self::Text
            | Self::Secret
            | Self::Bool
            | Self::Path
            | Self::PathList
            | Self::Command
            | Self::Words
            | Self::List
            | Self::Networks
            | Self::Geometry
            | Self::Regex
            | Self::Flags
            | Self::Log4perl
            | Self::Template => true,
            Self::Integer
            | Self::Number
            | Self::Seconds
            | Self::Port
            | Self::Octal
            | Self::Address
            | Self::Addresses
            | Self::Socket
            | Self::Ipv4
            | Self::Netmask
            | Self::Enum(_)
            | Self::Url
            | Self::Pem => false,
        }
    }

    /// The value as the getters want it: without blanks that mean nothing, enum words in their own spelling.
    ///
    /// `optional` says that the key has no default, so that an empty value means "none".
    ///
    /// # Errors
    /// What the text is not, to be read after `'text' `.
    pub(super) fn normalize(&self, text: &str, optional: bool) -> Result<String, String> {
        if text.contains('\0') {
            return Err("contains a NUL character".to_owned());
        }
        let text = if self.ignores_blanks() { text.trim() } else { text };
        if text.is_empty() && (optional || self.may_be_empty()) {
            return Ok(String::new());
        }
        let fits = match self {
            Self::Text | Self::Secret | Self::Path | Self::PathList | Self::List => true,
            Self::Log4perl | Self::Template => true,
            Self::Bool => value::boolean(text).is_some(),
            Self::Integer => text.parse::<i64>().is_ok(),
            Self::Number => value::number(text).is_some(),
            Self::Seconds => value::seconds(text).is_some(),
            Self::Port => text.parse::<u16>().is_ok_and(|port| port != 0),
            Self::Octal => value::octal(text).is_some(),
            Self::Command | Self::Words => {
                split_words(text).map_err(|open| format!("cannot be split into words: {open}"))?;
                true
            }
            Self::Address => is_address(text),
            Self::Addresses => {
                let addresses = value::list(text, ',');
                !addresses.is_empty() && addresses.iter().all(|address| is_address(address))
            }
            Self::Socket => text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Netmask => value::netmask(text).is_some(),
            Self::Networks => value::list(text, ',').iter().all(|network| is_network(network)),
            Self::Geometry => value::geometry(text).is_some(),
            Self::Enum(words) => {
                let known = words.iter().find(|word| word.eq_ignore_ascii_case(text));
                return known.map(|word| (*word).to_owned()).ok_or_else(|| self.complaint());
            }
            Self::Regex => is_balanced(text),
            Self::Url => is_url(text),
            Self::Pem => text.contains("-----BEGIN ") && text.contains("-----END "),
            Self::Flags => text.split('|').all(is_flag),
        };
        if fits { Ok(text.to_owned()) } else { Err(self.complaint()) }
    }

    fn complaint(&self) -> String {
        match self {
            Self::Text | Self::Secret => "is not a text",
            Self::Bool => "is not a boolean (1 yes y true t on, or 0 no n false f off)",
            Self::Integer => "is not an integer",
            Self::Number => "is not a number",
            Self::Seconds => "is not a time in seconds (such as 30, 0.5, 10m, 2h or 1d)",
            Self::Port => "is not a port number (1-65535)",
            Self::Octal => "is not a file mode in octal digits (0-7777)",
            Self::Path => "is not a path",
            Self::PathList => "is not a list of paths separated by ':'",
            Self::Command | Self::Words => "is not a command",
            Self::List => "is not a list separated by ','",
            Self::Address => "is not an address (an IP address, a host name, or * for all)",
            Self::Addresses => "is not a list of addresses (IP addresses or host names, or * for all)",
            Self::Socket => "is not an IP address with a port (such as 127.0.0.1:9253 or [::1]:9253)",
            Self::Ipv4 => "is not an IPv4 address",
            Self::Netmask => "is not a network mask (0-32, or dotted and contiguous)",
            Self::Networks => "is not a list of networks (such as 10.0.0.0/8, fd00::/8)",
            Self::Geometry => "is not a size in pixels (WIDTHxHEIGHT)",
            Self::Enum(words) => return format!("is not one of {}", words.join(", ")),
            Self::Regex => "is not a regular expression (brackets do not match, or it ends in a backslash)",
            Self::Url => "is not an absolute URL",
            Self::Pem => "is not in PEM form",
            Self::Flags => "is not a list of flags joined by '|'",
            Self::Log4perl => "is not a log setting",
            Self::Template => "is not a template",
        }
        .to_owned()
    }
}

fn is_address(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let all_digits_and_dots = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text == "*"
        || bare.parse::<IpAddr>().is_ok()
        || (!all_digits_and_dots && !text.starts_with(['-', '.']) && text.chars().all(host_char))
}

fn is_network(text: &str) -> bool {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|bits| bits <= longest))
}

fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        && !rest.is_empty()
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn is_flag(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A look at the brackets only: whoever uses the expression compiles it with an engine of its own.
fn is_balanced(pattern: &str) -> bool {
    let mut groups = 0_usize;
    let mut in_class = false;
    let mut class_is_new = false;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let first_in_class = std::mem::take(&mut class_is_new);
        if c == '\\' {
            if chars.next().is_none() {
                return false;
            }
            continue;
        }
        match c {
            '^' if first_in_class => class_is_new = true,
            ']' if in_class && !first_in_class => in_class = false,
            _ if in_class => {}
            '[' => (in_class, class_is_new) = (true, true),
            '(' => groups += 1,
            ')' => match groups.checked_sub(1) {
                Some(open) => groups = open,
                None => return false,
            },
            _ => {}
        }
    }
    groups == 0 && !in_class
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Type as in the table, texts that fit, texts that do not.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        ("string", &["", " x ", "ü"], &["a\0b"]),
        ("secret", &["", " x "], &["\0"]),
        (
            "bool",
            &["1", "yes", "y", "true", "t", "on", "0", "no", "n", "false", "f", "off", "", " 1 ", "YES"],
            &["2", "maybe", "10", "ja"],
        ),
        (
            "integer",
            &["0", "-7", "9223372036854775807", " 5 "],
            &["", "1.5", "x", "9223372036854775808", "1 2"],
        ),
        ("number", &["0", "1.5", "-2", ".5", "1000"], &["", "x", "nan", "inf", "1e999", "1,5"]),
        (
            "seconds",
            &["0", "30", "0.2", "10m", "2h", "1d", "5s", " 7 ", "1.5h"],
            &["", "x", "-1", "5 m x", "1w", "inf", "nan", "1e3", ".", "m", "99999999999d"],
        ),
        ("port", &["1", "8443", "65535", " 22 "], &["", "0", "65536", "84x3", "-1", "1.0"]),
        ("octal", &["0022", "22", "0", "7777"], &["", "8", "0o22", "-1", "17777", "+22"]),
        ("path", &["", "/a b", "relative"], &["\0"]),
        ("path list", &["", "a:b"], &["\0"]),
        ("command", &["", "prog", "prog 'a b'"], &["prog 'a b", "p \"", "\0"]),
        ("words", &["", "-a -b"], &["it's"]),
        ("list", &["", "a", "a, b,,c"], &["\0"]),
        (
            "address",
            &["*", "::", "[::1]", "10.0.0.1", "localhost", "node-1.example.com"],
            &["", "a b", "10.0.0", "1.2.3.4.5", "-x"],
        ),
        ("addresses", &["*", "10.0.0.1, [::1]", "localhost,node-1"], &["", ",", "10.0.0.1, a b", "1.2.3"]),
        (
            "socket",
            &["127.0.0.1:9253", "[::1]:80", " 0.0.0.0:65535 "],
            &["", "127.0.0.1", "::1", "localhost:9253", "127.0.0.1:0", "127.0.0.1:65536", ":80", "*:80"],
        ),
        ("ipv4", &["10.0.0.1", " 1.2.3.4 "], &["", "10.0.0", "10.0.0.256", "::1", "x"]),
        (
            "netmask",
            &["0", "24", "32", "255.255.255.0", "0.0.0.0"],
            &["", "33", "-1", "255.0.255.0", "0.0.0.255", "x"],
        ),
        (
            "networks",
            &["", "10.0.0.0/8", "10.0.0.1, fd00::/8"],
            &["10.0.0.0/33", "fd00::/129", "x", "10.0.0.0/"],
        ),
        ("WxH", &["", "1024x768", "1X1"], &["1024", "x", "0x5", "5x0", "1024x768x24", "-1x5"]),
        ("enum never/search", &["never", "Search", " NEVER "], &["", "nev", "never/search"]),
        ("regex", &["", "^a(b|c)[])]\\($", "[^]]", "a"], &["(", "a)", "[a", "a\\", "[]"]),
        (
            "url",
            &["https://*:443/", "http+unix://%2Fx", "ldap://h"],
            &["", "host", "://x", "http://", "http://a b", "1a://b"],
        ),
        ("pem", &["-----BEGIN X-----\nMA==\n-----END X-----\n"], &["", "x"]),
        ("flags", &["", "A", "A|B_2", "A | B"], &["A|", "a b", "|"]),
        ("log4perl", &["", "DEBUG, A"], &["\0"]),
        ("template", &["", "{}"], &["\0"]),
    ];

    #[test]
    fn every_type_accepts_and_refuses() {
        for (name, good, bad) in CASES {
            let kind = Kind::from_table(name).expect(name);
            for text in *good {
                assert!(kind.normalize(text, false).is_ok(), "{name} accepts {text:?}");
            }
            for text in *bad {
                assert!(kind.normalize(text, false).is_err(), "{name} refuses {text:?}");
            }
        }
    }

    #[test]
    fn an_empty_value_is_none_where_the_key_has_no_default() {
        for (name, ..) in CASES {
            let kind = Kind::from_table(name).expect(name);
            assert_eq!(kind.normalize("", true), Ok(String::new()), "{name}");
        }
    }

    #[test]
    fn values_come_back_in_their_own_spelling() {
        let level = Kind::from_table("enum INFO/DEBUG").expect("a type");
        assert_eq!(level.normalize(" debug", false).as_deref(), Ok("DEBUG"));
        assert_eq!(Kind::Port.normalize(" 22\t", false).as_deref(), Ok("22"));
        assert_eq!(Kind::Path.normalize("/a ", false).as_deref(), Ok("/a "), "a path may end in a blank");
    }

    #[test]
    fn complaints_say_what_would_fit() {
        assert_eq!(Kind::Port.normalize("84x3", false), Err("is not a port number (1-65535)".to_owned()));
        let kind = Kind::from_table("enum a/b").expect("a type");
        assert_eq!(kind.normalize("c", false), Err("is not one of a, b".to_owned()));
        assert_eq!(
            Kind::Command.normalize("a 'b", false),
            Err("cannot be split into words: a ' is opened and not closed".to_owned())
        );
    }

    #[test]
    fn unknown_type_names_are_no_type() {
        assert_eq!(Kind::from_table("strnig"), None);
    }

    proptest! {
        #[test]
        fn what_was_accepted_once_is_accepted_again_unchanged(
            which in 0..CASES.len(),
            text in "[-0-9a-z.:/,|x()\\[\\]\\\\'\" *]{0,16}|\\PC{0,16}",
        ) {
            let kind = Kind::from_table(CASES[which].0).expect("a type");
            if let Ok(value) = kind.normalize(&text, true) {
                prop_assert_eq!(kind.normalize(&value, true), Ok(value));
            }
        }
    }
}
