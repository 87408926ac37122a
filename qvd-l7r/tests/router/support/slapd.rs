//! A real directory: slapd with a data directory and free loopback ports of its own.
//!
//! | suffix | holds | who may search |
//! |---|---|---|
//! | `dc=qvd,dc=test` | people as on Unix, below `ou=people` | everybody |
//! | `dc=example,dc=com` | people as in Active Directory, below `ou=People` | `cn=Administrator,cn=Users` |
//! | `o=racf` | people about whom the server says why they may not bind | everybody |

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::Options;
use super::server::{Server, free_port, skipped};

/// The password of everybody in the directory.
pub(crate) const DIRECTORY_PASSWORD: &str = "dir:wörd";

/// The password of the account that searches `dc=example,dc=com`.
pub(crate) const ADMINISTRATOR_PASSWORD: &str = "admin-wörd";

pub(crate) struct Slapd {
    server: Server,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
}

impl Slapd {
    /// Starts one; none where slapd is not installed, which is a failure where tests may not be skipped.
    pub(crate) async fn start() -> Option<Self> {
        let Some((slapd, slapadd)) = program("slapd").zip(program("slapadd")) else {
            let why = "slapd is not installed (Debian: slapd)";
            skipped(why);
            return None;
        };
        let dir = tempfile::Builder::new().prefix("qvd-ldap-").tempdir().unwrap();
        let configuration = write_configuration(dir.path());
        for (number, people) in [unix_people(), windows_people(), racf_people()].iter().enumerate() {
            load(&slapadd, &configuration, number + 1, people);
        }
        answer_binds(UnixListener::bind(dir.path().join("racf.sock")).unwrap());
        // Somebody else may take a port between our look and slapd's.
        for _ in 0..5 {
            let (port, tls_port) = (free_port(), free_port());
            let mut server = launch(&slapd, &configuration, port, tls_port);
            if server.listens(tls_port).await {
                return Some(Self { server, dir, port, tls_port });
            }
        }
        panic!("slapd does not start");
    }

    /// The certificate that vouches for it.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// Logins of the people of `dc=qvd,dc=test`.
    pub(crate) fn unix(&self, options: Options) -> Options {
        self.keys(options.set("l7r.auth.plugins", "ldap"))
    }

    /// Where those people are found.
    pub(crate) fn keys(&self, options: Options) -> Options {
        options
            .set("auth.ldap.host", format!("127.0.0.1:{}", self.port))
            .set("auth.ldap.base", "ou=people,dc=qvd,dc=test")
            .set("auth.ldap.scope", "sub")
    }

    /// Ends it, as an outage does.
    pub(crate) fn stop(&mut self) {
        self.server.stop();
    }
}

/// Servers are not in everybody's path.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/libexec/openldap")];
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.exists())
}

fn launch(slapd: &Path, configuration: &Path, port: u16, tls_port: u16) -> Server {
    let mut command = Server::command(slapd);
    command.args(["-d", "0", "-f"]).arg(configuration).args([
        "-h",
        &format!("ldap://127.0.0.1:{port}/ ldaps://127.0.0.1:{tls_port}/ ldaps://127.0.0.2:{tls_port}/"),
    ]);
    Server::start(&mut command)
}

fn write_configuration(dir: &Path) -> PathBuf {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    for database in ["unix", "windows", "racf"] {
        std::fs::create_dir(dir.join(database)).unwrap();
    }
    let top = dir.display();
    // The numbers are those that Microsoft gave the attribute and the class.
    let text = format!(
        r#"TLSCertificateFile {top}/cert.pem
TLSCertificateKeyFile {top}/key.pem
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.2.840.113556.1.4.221 NAME 'sAMAccountName' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
objectclass ( 1.2.840.113556.1.5.9 NAME 'user' SUP top AUXILIARY MAY sAMAccountName )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload back_sock
database mdb
maxsize 10485760
suffix "dc=qvd,dc=test"
directory {top}/unix
access to attrs=userPassword by anonymous auth by * none
access to * by * read
database mdb
maxsize 10485760
suffix "dc=example,dc=com"
directory {top}/windows
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=Administrator,cn=Users,dc=example,dc=com" read by * none
database mdb
maxsize 10485760
suffix "o=racf"
directory {top}/racf
access to * by * read
overlay sock
socketpath {top}/racf.sock
sockops bind
"#
    );
    let file = dir.join("slapd.conf");
    std::fs::write(&file, text).unwrap();
    file
}

fn load(slapadd: &Path, configuration: &Path, database: usize, ldif: &str) {
    let mut child = Command::new(slapadd)
        .args(["-q", "-n", &database.to_string(), "-f"])
        .arg(configuration)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(ldif.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn unix_people() -> String {
    let person = |uid: &str, cn: &str, more: &str| {
        format!(
            "dn: uid={uid},ou=people,dc=qvd,dc=test\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n\
             uid: {uid}\ncn: {cn}\nsn: {cn}\nuidNumber: 2001\ngidNumber: 3001\nhomeDirectory: /nfs/{uid}\n\
             userPassword: {DIRECTORY_PASSWORD}\n{more}\n"
        )
    };
    [
        "dn: dc=qvd,dc=test\nobjectClass: dcObject\nobjectClass: organization\no: qvd\ndc: qvd\n".to_owned(),
        "dn: ou=people,dc=qvd,dc=test\nobjectClass: organizationalUnit\nou: people\n".to_owned(),
        "dn: ou=links,dc=qvd,dc=test\nobjectClass: organizationalUnit\nou: links\n".to_owned(),
        person("alice", "Alice Doe", ""),
        person("Bob", "Robert", ""),
        person("twin1", "Twin", ""),
        person("twin2", "Twin", ""),
        person("odd\\2cone", "Odd", "").replace("uid: odd\\2cone", "uid: odd,one"),
        "dn: uid=linked,ou=links,dc=qvd,dc=test\nobjectClass: alias\nobjectClass: extensibleObject\nuid: linked\n\
         aliasedObjectName: uid=alice,ou=people,dc=qvd,dc=test\n"
            .to_owned(),
    ]
    .join("\n")
}

fn windows_people() -> String {
    let administrator = "dn: cn=Administrator,cn=Users,dc=example,dc=com\nobjectClass: person\n\
                         cn: Administrator\nsn: Administrator\n";
    [
        "dn: dc=example,dc=com\nobjectClass: dcObject\nobjectClass: organization\no: example\ndc: example\n"
            .to_owned(),
        "dn: cn=Users,dc=example,dc=com\nobjectClass: organizationalRole\ncn: Users\n".to_owned(),
        "dn: ou=People,dc=example,dc=com\nobjectClass: organizationalUnit\nou: People\n".to_owned(),
        format!("{administrator}userPassword: {ADMINISTRATOR_PASSWORD}\n"),
        format!(
            "dn: cn=Alice Doe,ou=People,dc=example,dc=com\nobjectClass: inetOrgPerson\nobjectClass: user\n\
             cn: Alice Doe\nsn: Doe\nsAMAccountName: alice\nuserPassword: {DIRECTORY_PASSWORD}\n"
        ),
    ]
    .join("\n")
}

fn racf_people() -> String {
    let people = ["expired", "revoked"].map(|uid| {
        format!("\ndn: uid={uid},o=racf\nobjectClass: account\nobjectClass: simpleSecurityObject\nuid: {uid}\nuserPassword: x\n")
    });
    format!("dn: o=racf\nobjectClass: organization\no: racf\n{}", people.concat())
}

/// What a mainframe says about those who may not bind, whatever their password.
fn answer_binds(socket: UnixListener) {
    tokio::spawn(async move {
        while let Ok((mut asked, _)) = socket.accept().await {
            let mut question = Vec::new();
            while !question.ends_with(b"\n\n") && asked.read_buf(&mut question).await.is_ok_and(|n| n > 0) {}
            let said = match String::from_utf8_lossy(&question) {
                text if text.contains("dn: uid=expired,") => {
                    "R004109 The password has expired (srv_authenticate_native_password)"
                }
                _ => "R004110 The userid has been revoked (srv_authenticate_native_password)",
            };
            // slapd takes a blank behind the colon for a part of the text.
            let _ = asked.write_all(format!("RESULT\ncode: 49\ninfo:{said}\n").as_bytes()).await;
        }
    });
}
