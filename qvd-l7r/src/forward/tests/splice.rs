//! The pump over real sockets that can be spliced.

use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};

use super::*;
use crate::forward::splice::MOST_PIPES;
use crate::stream::{ClientStream, DesktopStream};

/// Two ends of a connection, with small buffers in the system, so that they fill.
async fn connection(buffer: u32) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(buffer).unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    let (far, near) = tokio::join!(socket.connect(address), listener.accept());
    (far.unwrap(), near.unwrap().0)
}

/// Writes in pieces and half-closes, while it reads in pieces; a piece of 0 lets others go on first.
async fn speak<S: AsyncRead + AsyncWrite>(stream: S, bytes: Vec<u8>, pieces: Vec<usize>) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut sizes = pieces.clone().into_iter().cycle();
    let send = async move {
        let mut left = &bytes[..];
        while !left.is_empty() {
            let size = sizes.next().unwrap().min(left.len());
            write.write_all(&left[..size]).await.unwrap();
            left = &left[size..];
            tokio::task::yield_now().await;
        }
        write.shutdown().await.unwrap();
    };
    let hear = async move {
        let mut heard = Vec::new();
        for size in pieces.into_iter().cycle() {
            let at = heard.len();
            heard.resize(at + size, 0);
            let read = read.read(&mut heard[at..]).await.unwrap();
            heard.truncate(at + read);
            if read == 0 && size > 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        heard
    };
    tokio::join!(send, hear).1
}

fn run_on_sockets<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("it ends") })
}

fn big_pieces() -> impl Strategy<Value = Vec<usize>> {
    (1usize..400_000, proptest::collection::vec(0usize..300_000, 0..6)).prop_map(|(first, mut rest)| {
        rest.insert(0, first.max(20_000));
        rest
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_byte_arrives_through_pipes_too(
        up in 0usize..3_000_000, down in 0usize..3_000_000, prefix in 0usize..3000,
        buffer in 4_000u32..400_000, unix in any::<bool>(),
        client_pieces in big_pieces(), desktop_pieces in big_pieces(),
    ) {
        run_on_sockets(async move {
            let (client_end, client) = connection(buffer).await;
            let mut client = ClientStream::plain(client);
            let first = noise(prefix, 9);
            let (said, heard) = (noise(up, 1), noise(down, 2));
            let talk = speak(client_end, said.clone(), client_pieces);
            let (moved, at_client, at_desktop) = if unix {
                let (desktop_end, desktop) = UnixStream::pair().unwrap();
                let desktop = DesktopStream::Unix(PlainStream::new(desktop));
                let answer = speak(desktop_end, heard.clone(), desktop_pieces);
                tokio::join!(pumped(&mut client, desktop, first), talk, answer)
            } else {
                let (desktop_end, desktop) = connection(buffer).await;
                let desktop = DesktopStream::Tcp(PlainStream::new(desktop));
                let answer = speak(desktop_end, heard.clone(), desktop_pieces);
                tokio::join!(pumped(&mut client, desktop, first), talk, answer)
            };
            assert!(at_client == heard, "down");
            assert!(at_desktop == [noise(prefix, 9), said].concat(), "up");
            assert_eq!(moved, Moved { up: (up + prefix) as u64, down: down as u64 });
        });
    }
}

async fn pumped(client: &mut ClientStream, mut desktop: DesktopStream, first: Vec<u8>) -> Moved {
    let mut pump = Pump::new(client, &mut desktop, Prefix(first));
    (&mut pump).await;
    assert_eq!(pump.footprint(), 0);
    pump.moved()
}

/// Fills a connection until nothing more goes in; the pump takes what it can meanwhile.
async fn flood(stream: &TcpStream, pump: &mut Pump<'_, ClientStream, DesktopStream>) -> usize {
    let bytes = vec![7; 1 << 20];
    let (mut sent, mut idle_turns) = (0, 0);
    while idle_turns < 1000 {
        idle_turns += 1;
        match stream.try_write(&bytes) {
            Ok(written) => (sent, idle_turns) = (sent + written, 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        tokio::select! {
            biased;
            ended = &mut *pump => panic!("{ended:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    sent
}

#[test]
fn what_a_slow_reader_leaves_is_bounded_and_comes_in_the_end() {
    run_on_sockets(async {
        let (mut client_end, client) = connection(50_000).await;
        let (mut desktop_end, desktop) = connection(400_000).await;
        let mut client = ClientStream::plain(client);
        let mut desktop = DesktopStream::Tcp(PlainStream::new(desktop));
        let mut pump = Pump::new(&mut client, &mut desktop, Prefix::default());
        let sent = flood(&desktop_end, &mut pump).await;
        assert!(pump.down.piped() > 0, "something is in a pipe");
        assert!(pump.footprint() <= BUFFER_SIZE, "{}", pump.footprint());
        desktop_end.shutdown().await.unwrap();
        let mut heard = Vec::new();
        let hear = async {
            client_end.read_to_end(&mut heard).await.unwrap();
            client_end.shutdown().await.unwrap();
        };
        let (ended, ()) = tokio::join!(&mut pump, hear);
        assert_eq!((ended, heard.len()), (Ended::ByDesktop, sent));
        assert_eq!(pump.moved(), Moved { up: 0, down: sent as u64 });
        assert_eq!(pump.footprint(), 0);
    });
}

#[test]
fn what_lies_in_a_pipe_is_not_counted_as_delivered_to_a_client_that_broke() {
    run_on_sockets(async {
        let (client_end, client) = connection(50_000).await;
        let (desktop_end, desktop) = connection(400_000).await;
        let mut client = ClientStream::plain(client);
        let mut desktop = DesktopStream::Tcp(PlainStream::new(desktop));
        let mut pump = Pump::new(&mut client, &mut desktop, Prefix::default());
        let sent = flood(&desktop_end, &mut pump).await as u64;
        assert!(pump.down.piped() > 0, "something is in a pipe");
        socket2::SockRef::from(&client_end).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client_end);
        assert_eq!((&mut pump).await, Ended::ClientLost);
        assert!(pump.moved().down < sent, "{:?} of {sent}", pump.moved());
    });
}

#[test]
fn when_slow_readers_have_all_the_pipes_bytes_are_copied() {
    run_on_sockets(async {
        let take = || with_buffers(|buffers| buffers.pipes.take());
        let mut taken: Vec<_> = (0..MOST_PIPES).map(|_| take().unwrap()).collect();
        assert_eq!(take().unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        let (mut client_end, client) = connection(50_000).await;
        let (mut desktop_end, desktop) = connection(400_000).await;
        let mut client = ClientStream::plain(client);
        let mut desktop = DesktopStream::Tcp(PlainStream::new(desktop));
        let mut pump = Pump::new(&mut client, &mut desktop, Prefix::default());
        let sent = flood(&desktop_end, &mut pump).await;
        assert!(pump.down.piped() == 0 && pump.footprint() > 0);
        assert!(pump.footprint() <= BUFFER_SIZE, "{}", pump.footprint());
        desktop_end.shutdown().await.unwrap();
        let mut heard = Vec::new();
        let hear = async {
            client_end.read_to_end(&mut heard).await.unwrap();
            client_end.shutdown().await.unwrap();
        };
        tokio::join!(&mut pump, hear);
        assert_eq!(heard.len(), sent);
        drop(taken.pop());
        assert!(take().is_ok(), "they come back");
    });
}
