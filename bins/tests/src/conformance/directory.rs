//! A directory of its own: a real slapd on an address of the loopback network.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::wire::eventually;
use crate::process::{Process, run};

/// A running slapd.
#[derive(Debug)]
pub struct Directory {
    server: Process,
    uri: String,
    base: &'static str,
    _dir: tempfile::TempDir,
}

impl Directory {
    /// What the mainframe says of everybody's password.
    pub const EXPIRED: &'static str = "R004109 The password has expired.";

    /// A directory with `alice`, `bob`, and two entries `twin`; the password of each is `LOGIN-secret`.
    ///
    /// # Errors
    ///
    /// When slapd is not installed or does not start.
    pub async fn start() -> Result<Self> {
        let dir = directory()?;
        let data = dir.path().join("data");
        fs::create_dir(&data).context("no directory")?;
        let config = format!(
            "moduleload back_mdb\ndatabase mdb\nsuffix {BASE}\nrootdn cn=admin,{BASE}\nrootpw admin\n\
             directory {}\naccess to attrs=userPassword by anonymous auth\naccess to * by * read\n",
            data.display()
        );
        let file = write_config(dir.path(), &config)?;
        let mut entries =
            format!("dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: QVD\ndc: qvd\n\n");
        for unit in ["people", "others"] {
            entries
                .push_str(&format!("dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}\n\n"));
        }
        for (login, unit) in [("alice", "people"), ("bob", "people"), ("twin", "people"), ("twin", "others")]
        {
            entries.push_str(&format!(
                "dn: uid={login},ou={unit},{BASE}\nobjectClass: inetOrgPerson\nuid: {login}\ncn: {login}\n\
                 sn: {login}\nuserPassword: {login}-secret\n\n"
            ));
        }
        let ldif = dir.path().join("entries.ldif");
        fs::write(&ldif, entries).context("no entries")?;
        run(Command::new("slapd").args(["-T", "add", "-f"]).arg(&file).arg("-l").arg(&ldif))?;
        Self::serve(dir, &file, BASE).await
    }

    /// A directory that finds everybody, and refuses every password with [`EXPIRED`](Self::EXPIRED): slapd in front of
    /// a back end that answers as a mainframe does.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn start_mainframe() -> Result<Self> {
        let dir = directory()?;
        let socket = dir.path().join("mainframe.sock");
        let listener = UnixListener::bind(&socket).context("no socket")?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that breaks off has no answer, which its caller will see.
                drop(answer_mainframe(stream));
            }
        });
        let config = format!(
            "moduleload back_sock\ndatabase sock\nsuffix {MAINFRAME}\nsocketpath {}\n",
            socket.display()
        );
        let file = write_config(dir.path(), &config)?;
        Self::serve(dir, &file, MAINFRAME).await
    }

    /// Its address, as configurations name it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Where searches begin.
    pub fn base(&self) -> &str {
        self.base
    }

    /// How many binds it was asked for.
    ///
    /// # Errors
    ///
    /// When it has no log.
    pub fn binds(&self) -> Result<usize> {
        let lines = self.server.lines();
        ensure!(!lines.is_empty(), "the directory logs nothing");
        Ok(lines.iter().filter(|line| line.contains(" BIND dn=")).count())
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.server.stop(Duration::from_secs(5));
    }

    async fn serve(dir: tempfile::TempDir, config: &Path, base: &'static str) -> Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let id = std::process::id();
        let (a, b) = ((192 + id / 250 % 62) as u8, (id % 250) as u8 + 1);
        let address = Ipv4Addr::new(127, a, b, NEXT.fetch_add(1, Ordering::Relaxed));
        let uri = format!("ldap://{address}:{PORT}");
        let mut command = Command::new("slapd");
        // Statistics on standard error: one line for each operation.
        command.arg("-f").arg(config).args(["-h", &uri, "-d", "256"]);
        let mut server = Process::start("slapd", command, &dir.path().join("slapd.log"))?;
        eventually("slapd", async || {
            ensure!(server.is_running(), "slapd ended: {}", server.lines().join(" "));
            Ok(tokio::net::TcpStream::connect((address, PORT)).await.ok())
        })
        .await?;
        Ok(Self { server, uri, base, _dir: dir })
    }
}

fn directory() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("qvd-directory-").tempdir().context("no directory")
}

fn write_config(dir: &Path, more: &str) -> Result<PathBuf> {
    let mut text = "modulepath /usr/lib/ldap\n".to_owned();
    for schema in ["core", "cosine", "inetorgperson"] {
        text.push_str(&format!("include /etc/ldap/schema/{schema}.schema\n"));
    }
    let file = dir.join("slapd.conf");
    fs::write(&file, format!("{text}pidfile {}\n{more}", dir.join("slapd.pid").display()))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Answers one operation of slapd's, as `slapd-sock(5)` has it.
fn answer_mainframe(mut stream: UnixStream) -> std::io::Result<()> {
    let mut operation = String::new();
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if operation.is_empty() {
            operation = line;
        }
    }
    let answer = match operation.as_str() {
        // slapd takes everything behind the colon for the message.
        "BIND" => format!("RESULT\ncode: 49\ninfo:{}\n", Directory::EXPIRED),
        "SEARCH" => format!("dn: uid=racf,{MAINFRAME}\nobjectClass: account\nuid: racf\n\nRESULT\ncode: 0\n"),
        "UNBIND" => return Ok(()),
        _ => "RESULT\ncode: 53\n".to_owned(),
    };
    stream.write_all(answer.as_bytes())
}

const BASE: &str = "dc=qvd";

const MAINFRAME: &str = "dc=racf";

const PORT: u16 = 28389;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::in_path;

    fn search(directory: &Directory, more: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new("ldapsearch");
        command.args(["-x", "-LLL", "-H", directory.uri(), "-b", directory.base()]).args(more);
        let output = command.output().expect("ldapsearch runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    #[tokio::test]
    async fn it_finds_and_refuses_as_rows_need_it() {
        if !in_path("slapd") || !in_path("ldapsearch") {
            return crate::skip("slapd or ldapsearch is not installed");
        }
        let directory = Directory::start().await.expect("a directory");
        let (code, found) = search(&directory, &["(uid=twin)", "dn"]);
        assert_eq!((code, found.matches("dn: ").count()), (Some(0), 2), "{found}");
        let alice = ["-D", "uid=alice,ou=people,dc=qvd", "-w"];
        let (code, _) = search(&directory, &[&alice[..], &["alice-secret", "(uid=alice)"]].concat());
        assert_eq!(code, Some(0));
        let (code, _) = search(&directory, &[&alice[..], &["wrong", "(uid=alice)"]].concat());
        assert_eq!(code, Some(49));
        assert!(directory.binds().expect("a log") >= 3);
    }

    #[tokio::test]
    async fn the_mainframe_says_why_a_password_is_refused() {
        if !in_path("slapd") || !in_path("ldapsearch") {
            return crate::skip("slapd or ldapsearch is not installed");
        }
        let directory = Directory::start_mainframe().await.expect("a directory");
        let (code, found) = search(&directory, &["(uid=racf)"]);
        assert_eq!((code, found.contains("uid: racf")), (Some(0), true), "{found}");
        let (code, said) = search(&directory, &["-D", "uid=racf,dc=racf", "-w", "any"]);
        let told = format!("additional info: {}\n", Directory::EXPIRED);
        assert_eq!((code, said.contains(&told)), (Some(49), true), "{said}");
    }
}
