//! What the two routers of a hand-over say to each other: lines in lock step, one of them with descriptors.
//!
//! ```text
//! successor     qvd-l7r succession 1
//! predecessor   sockets            and the listening sockets beside it
//! successor     accepting
//! predecessor   left
//! ```
//!
//! A release talks to the one before it and to the one behind it: a number that is not known is refused in words.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Asks for the sockets.
pub(super) const ASK: &str = "qvd-l7r succession 1";
/// Here they are.
pub(super) const SOCKETS: &str = "sockets";
/// The successor accepts.
pub(super) const ACCEPTING: &str = "accepting";
/// The predecessor accepts no more.
pub(super) const LEFT: &str = "left";

/// Descriptors in one message, as the kernel allows.
pub(super) const MOST_SOCKETS: usize = 253;

/// A line is shorter.
const MOST_BYTES: usize = 256;

/// Sends a line, with descriptors beside it.
pub(super) async fn send(stream: &UnixStream, line: &str, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = format!("{line}\n");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::Error::other("too many sockets for one message"));
            }
            let flags = SendFlags::NOSIGNAL;
            Ok(sendmsg(stream.as_fd(), &[IoSlice::new(bytes.as_bytes())], &mut beside, flags)?)
        })
        .await?;
    // The two speak in turns, so that there is room for a line.
    if sent < bytes.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}

/// Receives a line and what lies beside it.
pub(super) async fn receive(stream: &UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    loop {
        let mut bytes = [0; MOST_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let count = stream
            .async_io(Interest::READABLE, || {
                let mut beside = RecvAncillaryBuffer::new(&mut space);
                let into = &mut [IoSliceMut::new(&mut bytes)];
                let got = recvmsg(stream.as_fd(), into, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
                for message in beside.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        descriptors.extend(received);
                    }
                }
                if got.flags.contains(ReturnFlags::CTRUNC) {
                    return Err(io::Error::other("not all descriptors could be received"));
                }
                Ok(got.bytes)
            })
            .await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&bytes[..count]);
        if let Some(text) = line.strip_suffix(b"\n") {
            return Ok((String::from_utf8_lossy(text).into_owned(), descriptors));
        }
        if line.len() >= MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a line of a hand-over"));
        }
    }
}

/// Waits until the other side has closed.
pub(super) async fn closed(stream: &UnixStream) {
    // Whatever else it may say means nothing any more.
    while receive(stream).await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_line_comes_with_its_sockets_and_they_are_the_same_ones() {
        let (one, other) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        send(&one, SOCKETS, &borrowed).await.unwrap();
        let (line, received) = receive(&other).await.unwrap();
        assert_eq!((line.as_str(), received.len()), (SOCKETS, 3));
        for (socket, received) in sockets.iter().zip(received) {
            let received = TcpListener::from(received);
            assert_eq!(socket.local_addr().unwrap(), received.local_addr().unwrap());
        }
        send(&one, ACCEPTING, &[]).await.unwrap();
        assert_eq!(receive(&other).await.unwrap().0, ACCEPTING);
        drop(one);
        assert_eq!(receive(&other).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        closed(&other).await;
    }

    #[tokio::test]
    async fn what_is_no_line_ends_it() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut one = one.into_std().unwrap();
        one.set_nonblocking(false).unwrap();
        one.write_all(&[b'x'; MOST_BYTES]).unwrap();
        assert_eq!(receive(&other).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        // In crumbs it is one as well.
        let (one, other) = UnixStream::pair().unwrap();
        let mut one = one.into_std().unwrap();
        let reading = tokio::spawn(async move { receive(&other).await.unwrap().0 });
        for crumb in [b"le".as_slice(), b"ft", b"\n"] {
            one.write_all(crumb).unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(reading.await.unwrap(), LEFT);
    }
}
