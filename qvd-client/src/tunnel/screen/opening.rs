//! The first words between an X client and its server: who the client says it is, and whether it may stay.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::authority::{COOKIE_NAME, Cookie};

/// What a client opens with, less its authorization.
pub(super) struct Opening {
    head: [u8; 12],
}

impl Opening {
    /// Where the lengths of name and data stand.
    const LENGTHS: [usize; 2] = [6, 8];

    /// Our own: little-endian, protocol 11.0.
    pub(super) fn ours() -> Self {
        Self { head: [b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
    }

    /// Takes one from a client and drops the authorization that it shows; `None` when it leaves without a word.
    pub(super) async fn read(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut opening = Self { head: [0; 12] };
        match client.read_exact(&mut opening.head).await {
            Ok(_) => {}
            Err(error) if is_hanging_up(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        if !matches!(opening.head[0], b'l' | b'B') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no X client"));
        }
        for at in Self::LENGTHS {
            let length = padded(usize::from(opening.number(at)));
            client.read_exact(&mut vec![0; length]).await?;
        }
        Ok(Some(opening))
    }

    /// Opens with this cookie, or with none.
    pub(super) async fn send(
        mut self,
        server: &mut (impl AsyncWrite + Unpin),
        cookie: Option<&Cookie>,
    ) -> io::Result<()> {
        let fields = cookie.map_or([&[][..], &[]], |cookie| [COOKIE_NAME, cookie.bytes()]);
        let mut body = Vec::new();
        for (at, field) in Self::LENGTHS.into_iter().zip(fields) {
            let length = u16::try_from(field.len()).map_err(io::Error::other)?;
            self.set_number(at, length);
            body.extend_from_slice(field);
            body.resize(padded(body.len()), 0);
        }
        server.write_all(&[&self.head[..], &body].concat()).await
    }

    fn number(&self, at: usize) -> u16 {
        let bytes = [self.head[at], self.head[at + 1]];
        if self.head[0] == b'B' { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn set_number(&mut self, at: usize, number: u16) {
        let bytes = if self.head[0] == b'B' { number.to_be_bytes() } else { number.to_le_bytes() };
        self.head[at..at + 2].copy_from_slice(&bytes);
    }
}

/// The server's answer to an opening.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Admitted,
    /// Its words, if it has any.
    Refused(String),
}

impl Answer {
    /// Reads it as far as it matters. A server that hangs up without a word refuses as well: that is how ssh does it.
    pub(super) async fn read(server: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        match server.read_u8().await {
            Ok(1) => Ok(Self::Admitted),
            Ok(kind) => Ok(Self::Refused(words(kind, server).await.unwrap_or_default())),
            Err(error) if is_hanging_up(&error) => Ok(Self::Refused(String::new())),
            Err(error) => Err(error),
        }
    }
}

/// Whether the other side just went.
pub(super) fn is_hanging_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// Why the server refuses: after a failure (0) the words are counted in bytes, when it wants more (2) in words of four.
async fn words(kind: u8, server: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = [0; 7];
    server.read_exact(&mut head).await?;
    let length = match kind {
        0 => usize::from(head[0]),
        _ => usize::from(u16::from_le_bytes([head[5], head[6]])) * 4,
    };
    let mut text = vec![0; length];
    server.read_exact(&mut text).await?;
    let text = String::from_utf8_lossy(&text);
    Ok(crate::list::printable(text.trim_end_matches(['\0', '\n', ' '])))
}

/// Rounded up to whole words of the protocol.
fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_authorization_is_replaced_in_either_byte_order() {
        let cookie = Cookie::new(vec![7; 16]);
        for (theirs, ours) in [
            (&b"l\0\x0b\0\0\0\x03\0\x01\0\0\0abc\0x\0\0\0"[..], &b"l\0\x0b\0\0\0\x12\0\x10\0\0\0"[..]),
            (&b"B\0\0\x0b\0\0\0\0\0\0\0\0"[..], &b"B\0\0\x0b\0\0\0\x12\0\x10\0\0"[..]),
        ] {
            let mut client = &[theirs, b"rest"].concat()[..];
            let opening = Opening::read(&mut client).await.unwrap().unwrap();
            assert_eq!(client, b"rest", "what follows is left alone");
            let mut sent = Vec::new();
            opening.send(&mut sent, Some(&cookie)).await.unwrap();
            assert_eq!(sent, [ours, b"MIT-MAGIC-COOKIE-1\0\0", &[7; 16]].concat());
        }
    }

    #[tokio::test]
    async fn whoever_leaves_or_speaks_otherwise_is_told_apart() {
        assert!(Opening::read(&mut &b""[..]).await.unwrap().is_none());
        assert!(Opening::read(&mut &b"GET / HTTP/1.1"[..]).await.is_err());
        assert!(Opening::read(&mut &b"l\0\x0b\0\0\0\xff\xff\0\0\0\0short"[..]).await.is_err());
    }
}
