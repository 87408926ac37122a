//! Carries bytes between the server and `nxproxy`, each way for itself, until both have ended.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes taken at once; a TLS record holds no more.
const CHUNK: usize = 16 << 10;

/// What happened on the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Its first bytes were handed over.
    FirstBytes,
    /// It ended the stream, in order.
    Closed,
    /// Nothing more comes from it, in order or not.
    Over,
}

/// Sends `early` to `local`, then copies both ways. An end on one side is passed on to the other side's writing half,
/// and the other way goes on.
pub(super) async fn relay(
    server: impl AsyncRead + AsyncWrite,
    early: &[u8],
    local: impl AsyncRead + AsyncWrite,
    on: impl Fn(Moment),
) -> io::Result<()> {
    let (server_read, server_write) = tokio::io::split(server);
    let (local_read, mut local_write) = tokio::io::split(local);
    let down = async {
        if !early.is_empty() {
            local_write.write_all(early).await?;
            on(Moment::FirstBytes);
        }
        let mut told = !early.is_empty();
        let copied = copy(server_read, local_write, |moment| {
            if moment == Moment::Closed || !std::mem::replace(&mut told, true) {
                on(moment);
            }
        })
        .await;
        on(Moment::Over);
        copied
    };
    let up = copy(local_read, server_write, |_| ());
    tokio::try_join!(down, up).map(|_| ())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut on: impl FnMut(Moment),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut first = true;
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => {
                on(Moment::Closed);
                break;
            }
            Ok(length) => to.write_all(&buffer[..length]).await?,
            // Ended without TLS's good-bye: a break, after which what was read is still good.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        to.flush().await?;
        if first {
            first = false;
            on(Moment::FirstBytes);
        }
    }
    // The other side may have gone already, which is what an end is about.
    let _ = to.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn early_bytes_come_first_and_half_an_end_is_only_half() {
        let (server, mut far_server) = tokio::io::duplex(64);
        let (local, mut far_local) = tokio::io::duplex(64);
        let moments = RefCell::new(Vec::new());
        let relaying = relay(server, b"NX", local, |moment| moments.borrow_mut().push(moment));
        let script = async {
            far_server.write_all(b"PROXY").await.unwrap();
            let mut greeting = [0; 7];
            far_local.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"NXPROXY");
            far_server.shutdown().await.unwrap();
            assert_eq!(far_local.read(&mut [0]).await.unwrap(), 0);
            let much = vec![7; 1000];
            let write = async {
                far_local.write_all(&much).await.unwrap();
                far_local.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let read = far_server.read_to_end(&mut got);
            let ((), read) = tokio::join!(write, read);
            read.unwrap();
            assert_eq!(got, much);
        };
        let (relayed, ()) = tokio::join!(relaying, script);
        relayed.unwrap();
        assert_eq!(moments.into_inner(), [Moment::FirstBytes, Moment::Closed, Moment::Over]);
    }
}
