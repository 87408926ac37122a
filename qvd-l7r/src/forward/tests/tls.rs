//! Real TLS clients at the pump.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use qvd_core::config::Config;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientSide;

use super::*;
use crate::tls::{Tls, self_signed};

/// Both ends' settings.
struct Pair {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let material = self_signed("desk", None).unwrap();
        let server = Tls::new(&material, &Config::defaults()).unwrap().config();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(material.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { server, client: Arc::new(client) }
    }

    /// A TLS 1.3 client and what the router has of it.
    async fn connected(size: usize) -> (ClientSide<DuplexStream>, TlsStream<DuplexStream>) {
        let (far, near) = duplex(size);
        Self::new(&rustls::version::TLS13).connect(far, near).await
    }

    async fn connect<S>(&self, far: DuplexStream, near: S) -> (ClientSide<DuplexStream>, TlsStream<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.client.clone());
        let (client, server) =
            tokio::join!(connector.connect(name(), far), TlsStream::accept(near, self.server.clone()));
        (client.unwrap(), server.unwrap())
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("desk").unwrap()
}

/// Writes everything, with a change of keys in the middle, hears so many bytes, then closes.
async fn converse(
    mut stream: ClientSide<DuplexStream>,
    bytes: Vec<u8>,
    hears: usize,
    new_keys: bool,
) -> Vec<u8> {
    let (early, late) = bytes.split_at(bytes.len() / 2);
    stream.write_all(early).await.unwrap();
    if new_keys {
        stream.get_mut().1.refresh_traffic_keys().unwrap();
    }
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        write.write_all(late).await.unwrap();
        write.flush().await.unwrap();
    };
    let mut heard = vec![0; hears];
    let ((), received) = tokio::join!(send, read.read_exact(&mut heard));
    received.unwrap();
    write.shutdown().await.unwrap();
    heard
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_byte_arrives_in_order_both_ways_over_tls(
        up in 0usize..300_000, down in 0usize..300_000, prefix in 0usize..3000, modern: bool,
        client_keys: bool, our_keys: bool,
        pipe in 1usize..70_000, chop_client in pieces(), chop_desktop in pieces(),
    ) {
        run(async move {
            let pair = Pair::new(if modern { &rustls::version::TLS13 } else { &rustls::version::TLS12 });
            let (far, near) = duplex(pipe);
            let (desktop_end, desktop) = duplex(pipe);
            let (client_end, mut client) = pair.connect(far, Choppy::new(near, &chop_client)).await;
            let mut desktop = choppy(desktop, &chop_desktop);
            if modern && our_keys {
                client.refresh_keys().unwrap();
            }
            let pump = async {
                let mut pump = Pump::new(&mut client, &mut desktop, Prefix(noise(prefix, 9)));
                let ended = (&mut pump).await;
                let account = (ended, pump.moved(), pump.footprint());
                drop((client, desktop));
                account
            };
            let talk = converse(client_end, noise(up, 1), down, modern && client_keys);
            // Closed by the desktop, the client could not say everything: the desktop listens to the end first.
            let desktop = async {
                let (mut read, mut write) = tokio::io::split(desktop_end);
                let mut heard = Vec::new();
                let bytes = noise(down, 2);
                let (sent, received) = tokio::join!(write.write_all(&bytes), read.read_to_end(&mut heard));
                sent.unwrap();
                received.unwrap();
                heard
            };
            let ((ended, moved, footprint), at_client, at_desktop) = tokio::join!(pump, talk, desktop);
            assert!(at_client == noise(down, 2), "what the client hears");
            assert!(at_desktop == [noise(prefix, 9), noise(up, 1)].concat(), "what the desktop hears");
            assert_eq!(moved, Moved { up: (up + prefix) as u64, down: down as u64 });
            assert_eq!((ended, footprint), (Ended::ByClient, 0));
        });
    }
}

/// In the older protocol the last word of the handshake is the server's.
#[test]
fn a_handshake_of_the_older_protocol_is_over_when_our_last_word_is_sent() {
    run(async {
        let (far, near) = duplex(1);
        let (_client_end, client) = Pair::new(&rustls::version::TLS12).connect(far, near).await;
        assert_eq!((client.held(), client.footprint()), (0, 0));
    });
}

#[test]
fn a_tls_client_that_closes_has_closed_both_ways() {
    run(async {
        let (mut client_end, mut client) = Pair::connected(64).await;
        let (mut desktop_end, mut desktop) = pipe(64);
        let talk = async {
            client_end.write_all(b"last words").await.unwrap();
            client_end.shutdown().await.unwrap();
            let mut heard = Vec::new();
            desktop_end.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (ended, heard) = tokio::join!(Pump::new(&mut client, &mut desktop, Prefix::default()), talk);
        assert_eq!((ended, heard.as_slice()), (Ended::ByClient, &b"last words"[..]));
    });
}

#[test]
fn a_tls_client_that_vanishes_is_lost_and_what_it_said_is_delivered() {
    run(async {
        let (mut client_end, mut client) = Pair::connected(1024).await;
        let (mut desktop_end, mut desktop) = pipe(1024);
        client_end.write_all(b"I am just going outside").await.unwrap();
        // The end of the socket without the word that TLS wants.
        client_end.get_mut().0.shutdown().await.unwrap();
        let ended = Pump::new(&mut client, &mut desktop, Prefix::default()).await;
        assert_eq!(ended, Ended::ClientLost);
        let mut heard = Vec::new();
        desktop_end.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"I am just going outside");
    });
}

#[test]
fn row_73_a_desktop_that_half_closes_is_heard_to_its_end_and_then_close_notify_comes() {
    run(async {
        let (mut client_end, mut client) = Pair::connected(100).await;
        let (mut desktop_end, mut desktop) = pipe(1 << 20);
        desktop_end.write_all(&noise(400_000, 3)).await.unwrap();
        desktop_end.shutdown().await.unwrap();
        let talk = async {
            let mut heard = Vec::new();
            // Without close_notify this would be an error.
            client_end.read_to_end(&mut heard).await.unwrap();
            client_end.write_all(b"still here").await.unwrap();
            client_end.shutdown().await.unwrap();
            let mut said = Vec::new();
            desktop_end.read_to_end(&mut said).await.unwrap();
            (heard, said)
        };
        let (ended, (heard, said)) =
            tokio::join!(Pump::new(&mut client, &mut desktop, Prefix::default()), talk);
        assert!(heard == noise(400_000, 3));
        assert_eq!((ended, said.as_slice()), (Ended::ByDesktop, &b"still here"[..]));
    });
}

#[test]
fn row_74_a_slow_tls_client_costs_one_buffer_and_a_record() {
    run(async {
        let (far, near) = duplex(1000);
        let (client_end, client) = Pair::new(&rustls::version::TLS13).connect(far, near).await;
        let (first, second, read) = held_by_a_slow_client(client, client_end).await;
        let record = 16 << 10;
        assert!(first > BUFFER_SIZE / 2 && first <= BUFFER_SIZE + record, "{first}");
        assert_eq!(read, 64 << 10, "after a short write");
        assert!(second <= (64 << 10) + record, "{second}");
    });
}

#[test]
fn a_session_that_was_left_in_the_middle_of_a_record_ends_in_order() {
    run(async {
        let (mut client_end, mut client) = Pair::connected(1000).await;
        let (mut desktop_end, mut desktop) = pipe(1 << 20);
        desktop_end.write_all(&noise(1 << 20, 5)).await.unwrap();
        let mut pump = Pump::new(&mut client, &mut desktop, Prefix::default());
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut pump).await.is_err(), "the client is slow");
        drop(pump);
        let listen = async {
            let mut heard = Vec::new();
            client_end.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (closed, heard) = tokio::join!(client.shutdown(), listen);
        closed.unwrap();
        assert!(heard == noise(1 << 20, 5)[..BUFFER_SIZE], "whole records, then close_notify");
    });
}

/// A client by hand: what it sends, and when, is the test's.
struct ByHand {
    tls: ClientConnection,
    socket: DuplexStream,
}

impl ByHand {
    async fn hear(&mut self) -> Result<(), rustls::Error> {
        let mut bytes = vec![0; 32 << 10];
        let read = self.socket.read(&mut bytes).await.unwrap();
        let mut bytes = &bytes[..read];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            self.tls.process_new_packets()?;
        }
        Ok(())
    }

    fn pending(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Shakes hands; the last flight and the first data go in one piece, or byte by byte.
    async fn greet(pair: &Pair, socket: DuplexStream, piecewise: bool) -> Self {
        let tls = ClientConnection::new(pair.client.clone(), name()).unwrap();
        let mut client = Self { tls, socket };
        loop {
            if !client.tls.is_handshaking() {
                client.tls.writer().write_all(b"first").unwrap();
            }
            let bytes = client.pending();
            if piecewise {
                for byte in bytes {
                    client.socket.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            } else {
                client.socket.write_all(&bytes).await.unwrap();
            }
            if !client.tls.is_handshaking() {
                return client;
            }
            client.hear().await.unwrap();
        }
    }
}

#[test]
fn data_right_behind_the_handshake_reaches_the_desktop_without_another_byte() {
    for (version, piecewise) in [
        (&rustls::version::TLS13, false),
        (&rustls::version::TLS13, true),
        (&rustls::version::TLS12, false),
        (&rustls::version::TLS12, true),
    ] {
        run(async {
            let pair = Pair::new(version);
            let (far, near) = duplex(64 << 10);
            let (client, accepted) = tokio::join!(
                ByHand::greet(&pair, far, piecewise),
                TlsStream::accept(near, pair.server.clone())
            );
            let mut accepted = accepted.unwrap();
            let (mut desktop_end, mut desktop) = pipe(1024);
            let mut pump = Pump::new(&mut accepted, &mut desktop, Prefix::default());
            let mut heard = [0; 5];
            tokio::select! {
                ended = &mut pump => panic!("{ended}"),
                read = desktop_end.read_exact(&mut heard) => { read.unwrap(); }
            }
            assert_eq!(&heard, b"first");
            drop(client);
        });
    }
}

#[test]
fn what_cannot_be_deciphered_loses_the_client_who_is_told_why() {
    run(async {
        let pair = Pair::new(&rustls::version::TLS13);
        let (far, near) = duplex(64 << 10);
        let (mut client, accepted) =
            tokio::join!(ByHand::greet(&pair, far, false), TlsStream::accept(near, pair.server.clone()));
        let mut accepted = accepted.unwrap();
        client.tls.writer().write_all(b"forged").unwrap();
        let mut bytes = client.pending();
        *bytes.last_mut().unwrap() ^= 1;
        client.socket.write_all(&bytes).await.unwrap();
        let (mut desktop_end, mut desktop) = pipe(1024);
        let ended = Pump::new(&mut accepted, &mut desktop, Prefix::default()).await;
        assert_eq!(ended, Ended::ClientLost);
        let mut heard = Vec::new();
        desktop_end.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"first", "nothing of what was forged");
        // Tickets of the handshake come first.
        let error = loop {
            if let Err(error) = client.hear().await {
                break error;
            }
        };
        assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
        let mut nothing = [0];
        assert!(client.tls.reader().read(&mut nothing).is_err());
    });
}

#[test]
fn a_peer_that_speaks_no_tls_is_told_so() {
    run(async {
        let pair = Pair::new(&rustls::version::TLS13);
        let (mut far, near) = duplex(1024);
        far.write_all(b"GET /qvd/ping HTTP/1.1\r\n\r\n").await.unwrap();
        let error = TlsStream::accept(near, pair.server).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        let mut alert = Vec::new();
        far.read_to_end(&mut alert).await.unwrap();
        assert!(matches!(alert.as_slice(), [0x15, 3, _, 0, 2, 2, _]), "{alert:?}");
    });
}

#[test]
fn tickets_an_answer_and_the_end_go_in_one_piece_and_nobody_who_waits_is_kept_waiting() {
    run(async {
        let pair = Pair::new(&rustls::version::TLS13);
        let (far, near) = duplex(1 << 16);
        let near = Choppy::new(near, &[usize::MAX]);
        let sent = near.sent.clone();
        let (mut client, mut server) = pair.connect(far, near).await;
        assert_eq!(sent.load(Ordering::Relaxed), 1, "the handshake");
        server.write_all(b"head").await.unwrap();
        server.write_all(b"body").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), 2, "all of it");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"headbody");

        let (far, near) = duplex(1 << 16);
        let (mut client, mut server) = pair.connect(far, near).await;
        server.write_all(b"not flushed").await.unwrap();
        let mut request = [0; 7];
        let (read, answered) = tokio::join!(server.read_exact(&mut request), async {
            let mut heard = [0; 11];
            client.read_exact(&mut heard).await.unwrap();
            client.write_all(b"request").await.unwrap();
            heard
        });
        read.unwrap();
        assert_eq!((&request, &answered), (b"request", b"not flushed"));
    });
}
