//! A server of some package that a test starts for itself.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use super::PATIENCE;

/// Ends with the value.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// A command that runs it, so that it goes with the test, whatever ends that. It says nothing unless told to.
    pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// What it says, if its command left it that.
    pub(crate) fn output(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("piped")
    }

    /// Whether it comes to listen; false when it has ended instead.
    pub(crate) async fn listens(&mut self, port: u16) -> bool {
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        let wait = async {
            loop {
                poll.tick().await;
                if self.0.try_wait().unwrap().is_some() {
                    return false;
                }
                if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                    return true;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("a server listens or ends")
    }

    /// Ends it, as an outage does.
    pub(crate) fn stop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Says that a test is skipped for want of a server; a failure where none may be skipped.
pub(crate) fn skipped(why: &str) {
    assert_ne!(std::env::var("QVD_TEST_REQUIRE").as_deref(), Ok("1"), "{why}");
    eprintln!("skipped: {why}");
}
