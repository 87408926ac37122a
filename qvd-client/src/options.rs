//! What a session asks of its virtual machine: the `qvd.client.*` and `custom.*` parameters of a connect.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Size of the desktop in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Geometry {
    type Err = Error;

    /// Reads `WIDTHxHEIGHT`.
    fn from_str(text: &str) -> Result<Self> {
        let side = |text: &str| text.parse().ok().filter(|n| (1..=65_535).contains(n));
        let sides = text.split_once(['x', 'X']).map(|(width, height)| (side(width), side(height)));
        match sides {
            Some((Some(width), Some(height))) => Ok(Self { width, height }),
            Some(_) | None => Err(Error::Setting {
                what: "geometry",
                value: text.to_owned(),
                why: "write WIDTHxHEIGHT in pixels, like 1024x768".to_owned(),
            }),
        }
    }
}

/// Speed of the way between user and server; decides how much is compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link(String);

impl Link {
    /// The words that NX knows; a rate such as `56k` or `10m` is right as well.
    pub const WORDS: [&str; 6] = ["modem", "isdn", "adsl", "wan", "lan", "local"];

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Link {
    fn default() -> Self {
        Self("adsl".to_owned())
    }
}

impl FromStr for Link {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
        let is_rate = !number.is_empty()
            && text.len() - number.len() <= 1
            && number.bytes().all(|b| b.is_ascii_digit());
        if Self::WORDS.contains(&text) || is_rate {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::Setting {
            what: "link",
            value: text.to_owned(),
            why: format!("write one of {}, or a rate such as 56k or 10m", Self::WORDS.join(", ")),
        })
    }
}

/// Wishes for one session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Keyboard, `MODEL/LAYOUT`.
    pub keyboard: String,
    /// Size of the desktop; `None` leaves it to the agent (whole screen).
    pub geometry: Option<Geometry>,
    /// Whole screen without a frame.
    pub fullscreen: bool,
    /// Speed of the way.
    pub link: Link,
    /// Whether the user's printers are offered.
    pub printing: bool,
    /// Whether sound is offered.
    pub audio: bool,
    /// Words for the agent's options.
    pub nxagent_extra_args: String,
    /// Further `qvd.client.*` and `custom.*` parameters, which win over the ones above.
    pub further: Vec<(String, String)>,
}

impl Default for SessionOptions {
    /// 1024x768 over `adsl` with a `pc105/us` keyboard, neither sound nor printers.
    fn default() -> Self {
        Self {
            keyboard: "pc105/us".to_owned(),
            geometry: Some(Geometry { width: 1024, height: 768 }),
            fullscreen: false,
            link: Link::default(),
            printing: false,
            audio: false,
            nxagent_extra_args: String::new(),
            further: Vec::new(),
        }
    }
}

impl SessionOptions {
    /// Adds a parameter.
    ///
    /// # Errors
    ///
    /// When the server would refuse it: only `qvd.client.*` and `custom.*` without line breaks may be sent.
    pub fn with_parameter(mut self, name: &str, value: &str) -> Result<Self> {
        let allowed = name.starts_with("qvd.client.") || name.starts_with("custom.");
        if !allowed || [name, value].iter().any(|text| text.contains(['\0', '\r', '\n'])) {
            return Err(Error::Setting {
                what: "parameter",
                value: name.to_owned(),
                why: "only qvd.client.* and custom.* without line breaks may be sent".to_owned(),
            });
        }
        self.further.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// The parameters of the connect request, without the id.
    pub(crate) fn parameters(&self) -> Vec<(String, String)> {
        let flag = |yes: bool| if yes { "1" } else { "0" }.to_owned();
        let geometry = self.geometry.map(|g| g.to_string()).unwrap_or_default();
        let mut parameters = vec![
            ("qvd.client.keyboard".to_owned(), self.keyboard.clone()),
            ("qvd.client.os".to_owned(), os().to_owned()),
            ("qvd.client.link".to_owned(), self.link.as_str().to_owned()),
            ("qvd.client.geometry".to_owned(), geometry),
            ("qvd.client.fullscreen".to_owned(), flag(self.fullscreen)),
            ("qvd.client.printing.enabled".to_owned(), flag(self.printing)),
            ("qvd.client.audio.sound.enable".to_owned(), flag(self.audio)),
            ("qvd.client.nxagent.extra_args".to_owned(), self.nxagent_extra_args.clone()),
        ];
        for (name, value) in &self.further {
            parameters.retain(|(known, _)| known != name);
            parameters.push((name.clone(), value.clone()));
        }
        parameters
    }
}

fn os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        "linux" => "linux",
        "windows" => "windows",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_and_link_say_what_would_do() {
        assert_eq!("800x600".parse::<Geometry>().unwrap().to_string(), "800x600");
        for bad in ["", "800", "800x", "0x600", "800x600x2", "99999x1", "-1x5"] {
            assert!(bad.parse::<Geometry>().unwrap_err().to_string().contains("1024x768"), "{bad}");
        }
        for good in ["modem", "local", "56k", "10m", "128"] {
            assert_eq!(good.parse::<Link>().unwrap().as_str(), good);
        }
        for bad in ["", "fast", "10kk", "k", "1 m"] {
            assert!(bad.parse::<Link>().unwrap_err().to_string().contains("adsl"), "{bad}");
        }
    }

    #[test]
    fn the_server_accepts_every_parameter() {
        let options = SessionOptions { fullscreen: true, geometry: None, ..SessionOptions::default() }
            .with_parameter("custom.colour", "deep blue&x=1")
            .unwrap()
            .with_parameter("qvd.client.keyboard", "pc105/es")
            .unwrap();
        let mut parameters = options.parameters();
        parameters.push(("id".to_owned(), "7".to_owned()));
        let query = qvd_core::proto::query::encode(parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let read = qvd_core::proto::upgrade::connect_request(query.as_bytes()).unwrap();
        assert_eq!(read.id, "7");
        let value = |name: &str| read.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("qvd.client.fullscreen"), Some("1"));
        assert_eq!(value("qvd.client.keyboard"), Some("pc105/es"));
        assert_eq!(value("custom.colour"), Some("deep blue&x=1"));
        assert!(options.clone().with_parameter("id", "8").is_err());
        assert!(options.with_parameter("custom.x", "a\nb").is_err());
    }
}
