//! A real PostgreSQL for the length of a test.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use qvd_core::Secret;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{Backend, Db, Keepalive, Tls};

/// A server of its own, in a temporary directory, reached over a unix socket and a free loopback port. It promises
/// nothing about crashes of the machine (no fsync) and ends when this is dropped.
///
/// PostgreSQL refuses to run as root: a root test runs it as the user `postgres`.
#[derive(Debug)]
pub struct TemporaryPostgres {
    programs: PathBuf,
    directory: tempfile::TempDir,
    owner: Option<Owner>,
    password: String,
    port: u16,
    server: Option<Child>,
    databases: AtomicU32,
    template: OnceCell<()>,
}

impl TemporaryPostgres {
    /// Starts one; none (and a word why, see [`skip`](super::skip)) where PostgreSQL is not installed.
    ///
    /// # Panics
    ///
    /// When it is installed and does not start.
    pub async fn start() -> Option<Self> {
        let Some(programs) = find_programs() else {
            super::skip("PostgreSQL's initdb is neither under /usr/lib/postgresql nor in PATH");
            return None;
        };
        let owner = match needed_owner() {
            Ok(owner) => owner,
            Err(why) => {
                super::skip(&why);
                return None;
            }
        };
        let directory = tempfile::Builder::new().prefix("qvd-pg-").tempdir().expect("a temporary directory");
        if let Some(owner) = &owner {
            chown(directory.path(), Some(owner.uid), Some(owner.gid))
                .expect("root may give away its directory");
        }
        let password = Uuid::new_v4().simple().to_string();
        let mut postgres = Self {
            programs,
            directory,
            owner,
            password,
            port: 0,
            server: None,
            databases: AtomicU32::new(0),
            template: OnceCell::new(),
        };
        postgres.make_cluster();
        postgres.launch().await;
        Some(postgres)
    }

    /// An empty database of this server, without tables: see [`Db::deploy`].
    ///
    /// # Panics
    ///
    /// When the server is gone.
    pub async fn empty_database(&self) -> Backend {
        let name = self.next_name();
        self.administer(format!("create database {name}")).await;
        self.backend(&name)
    }

    /// A database of this server with all tables, and nothing in them.
    ///
    /// # Panics
    ///
    /// When the server is gone.
    pub async fn database(&self) -> Backend {
        self.database_with_isolation("serializable").await
    }

    /// As [`TemporaryPostgres::database`], with another default isolation, as an administrator may have set it.
    ///
    /// # Panics
    ///
    /// When the server is gone or does not know the level.
    pub async fn database_with_isolation(&self, level: &str) -> Backend {
        // Copying one with all tables takes a tenth of the time of making them.
        let make_template = async || {
            self.administer(format!("create database {TEMPLATE}")).await;
            let db = Db::connect(&self.backend(TEMPLATE)).await.expect("connections are made lazily");
            db.deploy(false).await.expect("an empty database takes the tables");
            db.close().await;
        };
        self.template.get_or_init(make_template).await;
        let name = self.next_name();
        self.administer(format!("create database {name} template {TEMPLATE} strategy file_copy")).await;
        // A copy does not inherit the settings of its template.
        self.administer(format!("alter database {name} set default_transaction_isolation = '{level}'")).await;
        self.backend(&name)
    }

    /// Stops the server at once, as a crash would: connections are cut, nothing is written down.
    ///
    /// # Panics
    ///
    /// When it does not stop.
    pub fn crash(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let data = self.directory.path().join("data");
        let stopped =
            self.command("pg_ctl").arg("stop").args(["-m", "immediate", "-w", "-D"]).arg(data).output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            let _ = server.kill();
        }
        server.wait().expect("the server is our child");
    }

    /// Starts the server again after [`TemporaryPostgres::crash`], on the same port.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.crash();
        self.launch().await;
    }

    fn backend(&self, name: &str) -> Backend {
        Backend::Postgres {
            host: self.directory.path().display().to_string(),
            port: self.port,
            name: name.to_owned(),
            user: ROLE.to_owned(),
            password: Secret::new(self.password.clone()),
            tls: Tls::Disable,
            pool_size: 8,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            keepalive: Keepalive::default(),
        }
    }

    /// The same database over loopback, where the server wants the password.
    ///
    /// # Panics
    ///
    /// When it is none of this server's.
    pub fn over_tcp(&self, backend: &Backend) -> Backend {
        let mut backend = backend.clone();
        let Backend::Postgres { host, .. } = &mut backend else { panic!("not a server: {backend:?}") };
        *host = Ipv4Addr::LOCALHOST.to_string();
        backend
    }

    fn make_cluster(&self) {
        let secret = self.directory.path().join("password");
        fs::write(&secret, &self.password).expect("the temporary directory is writable");
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("the file is ours");
        if let Some(owner) = &self.owner {
            chown(&secret, Some(owner.uid), Some(owner.gid)).expect("root may give away its file");
        }
        let made = self
            .command("initdb")
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "-U", ROLE])
            // Nobody else can enter the socket's directory; anybody can reach the port.
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .arg(format!("--pwfile={}", secret.display()))
            .arg("-D")
            .arg(self.directory.path().join("data"))
            .output()
            .expect("initdb was found");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    }

    async fn launch(&mut self) {
        // Somebody else may take the port between our look and the server's.
        for _ in 0..5 {
            if self.port == 0 {
                self.port = free_port();
            }
            if self.try_launch().await {
                return;
            }
            self.port = 0;
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        panic!("PostgreSQL does not start:\n{log}");
    }

    async fn try_launch(&mut self) -> bool {
        let log =
            fs::File::create(self.directory.path().join("log")).expect("the temporary directory is writable");
        let again = log.try_clone().expect("a descriptor is left");
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(self.directory.path().join("data"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB"])
            .arg("-k")
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .expect("postgres was found beside initdb");
        let options = self.administrator();
        let server = self.server.insert(server);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if server.try_wait().expect("the server is our child").is_some() {
                return false;
            }
            if let Ok(connection) = PgConnection::connect_with(&options).await {
                let _ = connection.close().await;
                return true;
            }
            // There is no event to wait for: the server says nothing when it is ready.
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn administrator(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.directory.path())
            .port(self.port)
            .username(ROLE)
            .database("postgres")
    }

    fn next_name(&self) -> String {
        format!("qvd{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs a statement of our own making.
    async fn administer(&self, statement: String) {
        let connected = PgConnection::connect_with(&self.administrator()).await;
        let mut connection = connected.expect("the server answers");
        let ran = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await;
        ran.expect("the statement is right");
        connection.close().await.expect("the connection closes");
    }

    /// A program of PostgreSQL's, as its owner, in a directory that the owner may enter.
    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = match &self.owner {
            Some(owner) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={}", owner.uid)).arg(format!("--regid={}", owner.gid));
                command.arg("--clear-groups").arg(path);
                command
            }
            None => Command::new(path),
        };
        command.current_dir(self.directory.path()).env_remove("PGDATA").env_remove("PGPORT");
        command
    }
}

impl Drop for TemporaryPostgres {
    fn drop(&mut self) {
        self.crash();
    }
}

/// The user that PostgreSQL runs as when we are root.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

fn needed_owner() -> Result<Option<Owner>, String> {
    let me = fs::metadata("/proc/self").map_err(|e| format!("/proc is not there: {e}"))?.uid();
    if me != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|e| format!("/etc/passwd cannot be read: {e}"))?;
    let entry = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some("postgres") {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Owner { uid, gid })
    });
    entry.map(Some).ok_or_else(|| "PostgreSQL refuses root and there is no user 'postgres'".to_owned())
}

/// The directory of the newest PostgreSQL's programs.
fn find_programs() -> Option<PathBuf> {
    let has_initdb = |directory: &Path| directory.join("initdb").is_file();
    let mut installed: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| has_initdb(bin))
        .collect();
    installed.sort_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        version.and_then(|version| version.parse::<u32>().ok())
    });
    installed.pop().or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|directory| has_initdb(directory))
    })
}

fn free_port() -> u16 {
    let probe: io::Result<u16> =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| Ok(listener.local_addr()?.port()));
    probe.expect("loopback has a free port")
}

const ROLE: &str = "qvd";
const TEMPLATE: &str = "qvd_template";
