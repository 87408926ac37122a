//! X screens to show things on: open ones, ones that want a cookie, and the far end of an `ssh -X`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LIMIT;

const COOKIE_NAME: &[u8] = b"MIT-MAGIC-COOKIE-1";

/// An X server on a display of its own choice.
pub(crate) struct XServer {
    _child: Child,
    number: u16,
    dir: tempfile::TempDir,
}

impl XServer {
    /// The cookie of those that want one.
    pub(crate) const COOKIE: [u8; 16] = *b"the real cookie.";

    /// One that admits everybody; `None` without Xvfb.
    pub(crate) async fn open() -> Option<Self> {
        Self::start(|command, _| {
            command.arg("-ac");
        })
        .await
    }

    /// One that wants a cookie.
    pub(crate) async fn with_cookie() -> Option<Self> {
        Self::start(|command, dir| {
            command.arg("-auth").arg(authority(dir, "server", "", &Self::COOKIE));
        })
        .await
    }

    async fn start(access: impl FnOnce(&mut Command, &Path)) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", "1024x768x24", "-noreset", "-nolisten", "tcp"]);
        access(&mut command, dir.path());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().ok()?;
        let mut lines = BufReader::new(child.stdout.take()?).lines();
        let number = timeout(LIMIT, lines.next_line()).await.ok()?.ok()??;
        Some(Self { _child: child, number: number.trim().parse().ok()?, dir })
    }

    pub(crate) fn display(&self) -> String {
        format!(":{}", self.number)
    }

    /// An authority file with this cookie for this display.
    pub(crate) fn authority(&self, name: &str, number: u16, cookie: &[u8]) -> PathBuf {
        authority(self.dir.path(), name, &number.to_string(), cookie)
    }

    /// The file of a user who may use it.
    pub(crate) fn own_authority(&self) -> PathBuf {
        self.authority("own", self.number, &Self::COOKIE)
    }
}

/// What `ssh -X` makes on the far machine: a display on loopback that wants a cookie of its own, hangs up on everybody
/// else without a word, and shows the real one to the real server.
pub(crate) struct LikeSsh {
    pub(crate) number: u16,
    _porter: JoinSet<()>,
}

impl LikeSsh {
    pub(crate) const COOKIE: [u8; 16] = *b"made up by sshd.";

    pub(crate) async fn before(server: &XServer) -> Self {
        let real = server.number;
        let mut found = None;
        for number in 10..1000 {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", 6000 + number)).await {
                found = Some((number, listener));
                break;
            }
        }
        let (number, listener) = found.expect("a free display number");
        let mut porter = JoinSet::new();
        porter.spawn(async move {
            let mut guests = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                guests.spawn(Self::admit(client, real));
            }
        });
        Self { number, _porter: porter }
    }

    pub(crate) fn display(&self) -> String {
        format!("localhost:{}.0", self.number)
    }

    async fn admit(mut client: TcpStream, real: u16) -> Option<()> {
        let mut head = [0; 12];
        client.read_exact(&mut head).await.ok()?;
        assert_eq!(head[0], b'l', "these tests run on little-endian machines");
        let length = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let mut name = vec![0; length(6).next_multiple_of(4)];
        let mut data = vec![0; length(8).next_multiple_of(4)];
        client.read_exact(&mut name).await.ok()?;
        client.read_exact(&mut data).await.ok()?;
        if data != Self::COOKIE {
            return None;
        }
        let mut server = connect_local(real);
        server.write_all(&[&head[..], &name, &XServer::COOKIE].concat()).await.ok()?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
    }
}

fn connect_local(number: u16) -> UnixStream {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(format!("/tmp/.X11-unix/X{number}"));
    let stream = std::os::unix::net::UnixStream::connect_addr(&address.unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

/// A file with one record, for this host.
fn authority(dir: &Path, name: &str, number: &str, cookie: &[u8]) -> PathBuf {
    let host = nix::unistd::gethostname().unwrap();
    let mut record = 256u16.to_be_bytes().to_vec();
    for field in [host.as_encoded_bytes(), number.as_bytes(), COOKIE_NAME, cookie] {
        record.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
        record.extend_from_slice(field);
    }
    let path = dir.join(name);
    std::fs::write(&path, record).unwrap();
    path
}
