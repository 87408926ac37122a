//! A database file on a disk that is full for a while.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use qvd_core::{ErrorKind, TenantId};
use qvd_db::testkit::skip;
use qvd_db::{Backend, Db};

/// A small file system of its own, gone with this.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where it cannot be mounted, which only root can.
    fn mounted() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(directory.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(directory)),
            _ => {
                skip("no file system can be mounted: that takes root and mount(8)");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Not one byte more fits.
    fn fill(&self) {
        let mut file = File::create(self.path().join("filler")).expect("there is room for a name");
        for size in [4096, 1] {
            while file.write_all(&[0; 4096][..size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_an_outage_that_ends_when_there_is_room_again() {
    let Some(disk) = SmallDisk::mounted() else { return };
    let backend = Backend::Sqlite { path: disk.path().join("qvd.db") };
    let db = Db::open(&backend).await.unwrap();
    let set = async |value: &str| db.config().set_all(&[("n".to_owned(), value.repeat(30_000))]).await;
    set("a").await.unwrap();
    for value in ["b", "c"] {
        disk.fill();
        for _ in 0..3 {
            let full = set("x").await.unwrap_err();
            assert_eq!((full.kind(), full.is_retryable()), (ErrorKind::Unavailable, true), "{full:?}");
        }
        db.health().await.unwrap();
        disk.free();
        set(value).await.unwrap();
        db.users().add(TenantId::DEFAULT, value, None).await.unwrap();
    }
    // Another process sees what was committed, and nothing of what was not.
    let other = Db::open(&backend).await.unwrap();
    let rows = other.config().load(TenantId::DEFAULT).await.unwrap();
    assert_eq!(rows, [("n".to_owned(), "c".repeat(30_000))]);
    assert_eq!(other.users().list().await.unwrap().len(), 2);
}
