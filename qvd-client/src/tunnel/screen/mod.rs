//! Will the user's screen show an NX window? Asked before anything else, since the agent's own complaint about it
//! comes late, from far away, and costs a new desktop its life.
//!
//! The agent opens its window through `nxproxy` as a client without a cookie: NX hands on none. So the X server must
//! admit the user by name, as the servers of local logins do; one behind `ssh -X`, or started with a cookie alone,
//! does not.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::error::{Error, Result};

/// How long an X server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The opening of an X client without a cookie: little-endian, protocol 11.0, no authorization.
const HELLO: [u8; 12] = [b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where an X display is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Local(u16),
    Tcp(String, u16),
}

/// Asks the X server of `display` (as in `DISPLAY`) whether it admits a client without a cookie.
///
/// # Errors
///
/// [`Error::ScreenUnreachable`] when nobody answers there, [`Error::ScreenRefuses`] when a cookie is wanted.
pub async fn check_screen(display: &str) -> Result<()> {
    let unreachable = |source| Error::ScreenUnreachable { display: display.to_owned(), source };
    let place = place(display).ok_or_else(|| unreachable(io::ErrorKind::InvalidInput.into()))?;
    let asking = async {
        match place {
            Place::Local(number) => admits(local(number).await?).await,
            Place::Tcp(host, number) => {
                admits(TcpStream::connect((host.as_str(), 6000u16.saturating_add(number))).await?).await
            }
        }
    };
    let admitted = tokio::time::timeout(PATIENCE, asking).await;
    match admitted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::ScreenRefuses { display: display.to_owned() }),
        Err(source) => Err(unreachable(source)),
    }
}

async fn admits(mut server: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<bool> {
    server.write_all(&HELLO).await?;
    // 1 is success; 0 is failed, 2 is more authorization wanted.
    Ok(server.read_u8().await? == 1)
}

async fn local(number: u16) -> io::Result<UnixStream> {
    let path = format!("/tmp/.X11-unix/X{number}");
    let hidden = SocketAddr::from_abstract_name(path.as_bytes())
        .and_then(|address| std::os::unix::net::UnixStream::connect_addr(&address))
        .and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
    match hidden {
        Ok(stream) => UnixStream::from_std(stream),
        Err(_) => UnixStream::connect(path).await,
    }
}

/// `:0`, `:0.1`, `unix:0` and `host:10.0`.
fn place(display: &str) -> Option<Place> {
    let (host, rest) = display.rsplit_once(':')?;
    let number = rest.split('.').next()?.parse().ok()?;
    Some(match host {
        "" | "unix" => Place::Local(number),
        host => Place::Tcp(host.to_owned(), number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_are_understood() {
        assert_eq!(place(":0"), Some(Place::Local(0)));
        assert_eq!(place("unix:7.1"), Some(Place::Local(7)));
        assert_eq!(place("localhost:10.0"), Some(Place::Tcp("localhost".into(), 10)));
        assert_eq!(place("nonsense"), None);
        assert_eq!(place(":x"), None);
    }

    async fn answer(first: u8) -> bool {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let asked = tokio::spawn(admits(ours));
        let mut hello = [0; 12];
        theirs.read_exact(&mut hello).await.unwrap();
        assert_eq!(hello, HELLO);
        theirs.write_all(&[first]).await.unwrap();
        asked.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn only_success_is_admission() {
        assert!(answer(1).await);
        assert!(!answer(0).await);
        assert!(!answer(2).await);
    }

    #[tokio::test]
    async fn a_display_that_is_not_there_is_named() {
        let error = check_screen(":64999").await.unwrap_err();
        assert!(matches!(error, Error::ScreenUnreachable { .. }), "{error}");
        assert!(error.to_string().contains(":64999"));
    }
}
