//! What the suite's cases begin with.

use std::time::Duration;

use qvd_core::state::{HostState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{DiId, HostId, OsfId, RunId, SessionId, TenantId, UserId, VmId};
use uuid::Uuid;

use crate::{Backend, Claimant, Db, NewHost, NewImage, NewOsf, NewSession, NewVm, TakeOver};

/// An empty database, and the way to open it a second time.
#[derive(Clone, Debug)]
pub struct Site {
    /// A handle to it.
    pub db: Db,
    backend: Backend,
}

impl Site {
    /// Opens an empty database that has its tables (or is SQLite, which makes them).
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub async fn open(backend: Backend) -> Self {
        let db = Db::open(&backend).await.expect("the database opens");
        Self { db, backend }
    }

    /// Another handle to the same database, as another process has it. Memory has but one.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub async fn second(&self) -> Db {
        match self.backend {
            Backend::SqliteMemory => self.db.clone(),
            _ => Db::open(&self.backend).await.expect("the database opens again"),
        }
    }

    /// Whether other processes can open it.
    pub fn is_shared(&self) -> bool {
        !matches!(self.backend, Backend::SqliteMemory)
    }

    /// Whether it is a server.
    pub fn is_postgres(&self) -> bool {
        matches!(self.backend, Backend::Postgres { .. })
    }
}

/// A running host, a user, a flavour with an image, and a stopped virtual machine.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The database.
    pub db: Db,
    /// A running host.
    pub host: HostId,
    /// Its daemon's incarnation.
    pub incarnation: i64,
    /// A user.
    pub user: UserId,
    /// A flavour.
    pub osf: OsfId,
    /// Its image, tagged `default` and `head`.
    pub di: DiId,
    /// The user's virtual machine.
    pub vm: VmId,
}

impl Fixture {
    /// Fills an empty database.
    ///
    /// # Panics
    ///
    /// When it is not empty, or away.
    pub async fn fill(db: &Db) -> Self {
        let (host, incarnation) = Self::running_host(db, "n1").await;
        let user =
            db.users().add(TenantId::DEFAULT, "ana", Some("$argon2id$old")).await.expect("a new login");
        let osf = db.osfs().add(Self::osf("desk")).await.expect("a new OSF");
        let di = db.images().add(Self::image(osf, Some("v1"))).await.expect("a new DI").id;
        let vm = db.vms().add(Self::vm("ana-1", user, osf)).await.expect("a new VM");
        Self { db: db.clone(), host, incarnation, user, osf, di, vm }
    }

    /// Adds a host whose daemon runs.
    ///
    /// # Panics
    ///
    /// When the name is taken.
    pub async fn running_host(db: &Db, name: &str) -> (HostId, i64) {
        let host = NewHost {
            name: name.to_owned(),
            address: format!("{name}.example.net"),
            frontend: true,
            backend: true,
        };
        let host = db.hosts().add(host).await.expect("a new host");
        let taken =
            db.hosts().take_over(host, Self::daemon(Uuid::new_v4())).await.expect("nobody has the host");
        let running = db.hosts().set_state(host, taken.incarnation, HostState::Running).await;
        assert!(running.expect("the database is there").is_updated());
        (host, taken.incarnation)
    }

    /// A daemon that holds the lock of a run directory, with a lease of minutes.
    pub fn daemon(run_token: Uuid) -> TakeOver {
        TakeOver {
            run_token,
            machine_id: "machine-1".to_owned(),
            boot_id: "boot-1".to_owned(),
            pid: 4711,
            lease: Duration::from_secs(450),
            fence_grace: Duration::from_secs(150),
            watch: Duration::from_millis(50),
        }
    }

    /// A flavour for the process driver.
    pub fn osf(name: &str) -> NewOsf {
        NewOsf {
            tenant: TenantId::DEFAULT,
            name: name.to_owned(),
            memory: Mebibytes(256),
            use_overlay: true,
            home: Some(Mebibytes(1024)),
            hypervisor: Some("process".to_owned()),
        }
    }

    /// A pseudo image.
    pub fn image(osf_id: OsfId, version: Option<&str>) -> NewImage {
        NewImage {
            osf_id,
            file_name: "desk.img".to_owned(),
            format: "none".to_owned(),
            version: version.map(str::to_owned),
            size: None,
            sha256: None,
        }
    }

    /// A virtual machine that starts from `default`.
    pub fn vm(name: &str, user_id: UserId, osf_id: OsfId) -> NewVm {
        NewVm { name: name.to_owned(), user_id, osf_id, di_tag: "default".to_owned(), ip: None }
    }

    /// A session through the fixture's host.
    pub fn session(&self, number: u8) -> NewSession {
        NewSession {
            session_id: SessionId::from_random([number; 16]),
            l7r_host: self.host,
            l7r_pid: 99,
            l7r_instance: Uuid::from_u128(7),
            real_user: self.user,
            user_ip: Some([192, 0, 2, 7].into()),
        }
    }

    /// Claims the virtual machine and brings it to `running`.
    ///
    /// # Panics
    ///
    /// When it is not stopped.
    pub async fn run(&self) -> RunId {
        let vms = self.db.vms();
        let claimed = vms.claim(self.vm, self.host, Claimant::Router).await.expect("the database is there");
        let run = claimed.updated().expect("the VM is stopped").run_id;
        let accepted =
            vms.accept_start(self.vm, self.host, self.incarnation).await.expect("the database is there");
        assert!(accepted.is_updated());
        let running = vms.set_state(self.vm, self.host, run, VmState::Running, None).await;
        assert!(running.expect("the database is there").is_updated());
        run
    }
}
