//! Will the user's screen show an NX window? Asked before anything else, since the agent's own complaint about it
//! comes late, from far away, and costs a new desktop its life.
//!
//! The agent opens its window through `nxproxy` as a client without a cookie: NX hands on none. Most X servers of
//! local logins admit their user all the same. One behind `ssh -X`, or started with a cookie alone, does not; for
//! those a [`Door`] on a display of its own lets this user's clients in and shows the cookie for them:
//!
//! ```text
//! nxproxy ──:20123── Door (own user only, adds the cookie) ──localhost:10── ssh ── X server
//! ```

mod authority;
mod door;
mod opening;
mod place;

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::error::{Error, Result};
use authority::{Cookie, find_cookie};
use door::Door;
use opening::{Answer, Opening};
use place::{Place, Reached};

/// How long an X server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An X display on which `nxproxy` can open windows.
///
/// # Example
///
/// ```no_run
/// # async fn run() -> Result<(), qvd_client::Error> {
/// use qvd_client::tunnel::{NxProxy, Screen};
/// let screen = Screen::open("localhost:10.0", "/home/alice/.Xauthority".as_ref()).await?;
/// let proxy = NxProxy::find("nxproxy")?.display(screen.display());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Screen {
    display: String,
    _door: Option<Door>,
}

impl Screen {
    /// Asks the X server of `display` (as in `DISPLAY`) to admit a client; when it wants a cookie, shows that of the
    /// X authority file, and keeps doing so for others of this user as long as this value lives.
    ///
    /// # Errors
    ///
    /// [`Error::ScreenUnreachable`] when nobody answers there, [`Error::ScreenRefuses`] when there is no cookie that
    /// it takes, [`Error::Local`] when no display of our own can be made.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open(display: &str, authority: &Path) -> Result<Self> {
        let unreachable = |source| Error::ScreenUnreachable { display: display.to_owned(), source };
        let place = Place::parse(display).ok_or_else(|| {
            unreachable(io::Error::new(io::ErrorKind::InvalidInput, "it is written :0 or HOST:0"))
        })?;
        let way = timeout(PATIENCE, way_in(&place, authority)).await;
        match way.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)? {
            Way::Open => Ok(Self { display: display.to_owned(), _door: None }),
            Way::WithCookie(cookie) => {
                let door = Door::open(place, cookie)
                    .map_err(|e| Error::local("make an X display that adds the cookie of yours", e))?;
                Ok(Self { display: door.display(), _door: Some(door) })
            }
            Way::Closed(reason) => Err(Error::ScreenRefuses { display: display.to_owned(), reason }),
        }
    }

    /// What to give `nxproxy` as its display.
    pub fn display(&self) -> &str {
        &self.display
    }
}

/// How a display lets a client in.
enum Way {
    /// As it comes.
    Open,
    /// With this cookie.
    WithCookie(Cookie),
    /// Not at all; why.
    Closed(String),
}

async fn way_in(place: &Place, authority: &Path) -> io::Result<Way> {
    let Answer::Refused(words) = admission(place.connect().await?.stream, None).await? else {
        return Ok(Way::Open);
    };
    let closed = |why: &str, words: &str| Ok(Way::Closed(reason(why, words, authority, place)));
    let records = match std::fs::read(authority) {
        Ok(records) => records,
        Err(error) => return closed(&format!("it wants a cookie, and none can be read: {error}"), &words),
    };
    let Reached { stream, address } = place.connect().await?;
    let Some(cookie) = find_cookie(&records, &address, place.number()) else {
        return closed("it wants a cookie, and there is none for it", &words);
    };
    match admission(stream, Some(&cookie)).await? {
        Answer::Admitted => Ok(Way::WithCookie(cookie)),
        Answer::Refused(words) => closed("it does not take the cookie that is there for it", &words),
    }
}

/// What a client hears that shows this cookie, or none.
async fn admission(
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    cookie: Option<&Cookie>,
) -> io::Result<Answer> {
    match Opening::ours().send(&mut server, cookie).await {
        Ok(()) => Answer::read(&mut server).await,
        Err(error) if opening::is_hanging_up(&error) => Ok(Answer::Refused(String::new())),
        Err(error) => Err(error),
    }
}

fn reason(why: &str, words: &str, authority: &Path, place: &Place) -> String {
    let words = if words.is_empty() { String::new() } else { format!(" (it says: {words})") };
    let file = authority.display();
    let remedy = match place {
        Place::Local(_) => ", or allow yourself there: xhost +si:localuser:$(id -un)",
        Place::Tcp(..) => "",
    };
    format!("{why}{words}; the X authority file is '{file}', set XAUTHORITY if it is another{remedy}")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn answer(bytes: &[u8]) -> Answer {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let asked = tokio::spawn(admission(ours, None));
        let mut hello = [0; 12];
        theirs.read_exact(&mut hello).await.unwrap();
        assert_eq!(hello, [b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        asked.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn only_success_is_admission_and_a_refusal_keeps_its_words() {
        assert_eq!(answer(&[1]).await, Answer::Admitted);
        assert_eq!(answer(b"\0\x02\x0b\0\0\0\x01\0no\0\0").await, Answer::Refused("no".into()));
        assert_eq!(answer(b"\x02\0\0\0\0\0\x01\0a\x1b \0").await, Answer::Refused("a?".into()));
        assert_eq!(answer(b"\0").await, Answer::Refused(String::new()), "cut short");
        assert_eq!(answer(b"").await, Answer::Refused(String::new()), "as ssh does it");
    }

    #[tokio::test]
    async fn a_display_that_is_not_there_is_named() {
        for display in [":64999", "nonsense"] {
            let error = Screen::open(display, Path::new("/nonexistent")).await.unwrap_err();
            assert!(matches!(error, Error::ScreenUnreachable { .. }), "{error}");
            assert!(error.to_string().contains(display));
        }
    }
}
