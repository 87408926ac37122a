//! The disk that holds the homes, where a machine has one: prepared when it is empty, and mounted.
//!
//! What is on a disk is somebody's work. Only one that is seen to be empty is ever written to: blkid knows nothing
//! on it, and it holds zeros where formats and their copies are kept. Everything else that is not as expected is
//! refused in words.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::process_group::describe;

/// Which disk, and the programs that deal with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HomeDrive {
    /// The disk; without one homes stay where they are.
    pub drive: Option<PathBuf>,
    /// Directory that holds the homes: where it is mounted.
    pub homes: PathBuf,
    /// mkfs of its file system, with fixed arguments.
    pub mkfs: Vec<String>,
    /// mount with fixed arguments.
    pub mount: Vec<String>,
    /// blkid with fixed arguments.
    pub blkid: Vec<String>,
    /// sfdisk with fixed arguments.
    pub sfdisk: Vec<String>,
}

/// Why the homes cannot be put on their disk.
#[derive(Debug, thiserror::Error)]
pub enum HomeDriveError {
    /// There is something on the disk that is no partition for homes.
    #[error(
        "the home disk '{}' is not empty and has no first partition; prepare it by hand, or set vma.user.home.drive",
        drive.display()
    )]
    Occupied {
        /// The disk.
        drive: PathBuf,
    },
    /// There is something where the partition was made: of a disk that lost its table, for one.
    #[error(
        "the new partition '{}' of the home disk holds data already and is not formatted; look at it by hand, and \
         wipe it when nobody needs it",
        partition.display()
    )]
    OldData {
        /// Its device.
        partition: PathBuf,
    },
    /// What is on a device cannot be seen.
    #[error("cannot read '{}' to see whether it is empty", device.display())]
    Unreadable {
        /// The disk or partition.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A partition was made and is not there.
    #[error("the partition '{}' did not appear", partition.display())]
    NoPartition {
        /// Its device.
        partition: PathBuf,
    },
    /// A program failed.
    #[error("{program} failed on '{}': {reason}", device.display())]
    Program {
        /// The program.
        program: String,
        /// What it was to work on.
        device: PathBuf,
        /// How it ended, and its last words.
        reason: String,
    },
}

impl HomeDrive {
    /// Puts the homes on their disk, if there is one and they lie on the same file system as `root` still.
    ///
    /// # Cancellation
    ///
    /// The running program is killed. The next call goes on with a partition that is empty still; a file system
    /// that was written in part only is left to people.
    ///
    /// # Errors
    ///
    /// [`HomeDriveError`].
    pub async fn ensure(&self, root: &Path) -> Result<(), HomeDriveError> {
        let Some(drive) = self.drive.as_deref().filter(|drive| drive.exists()) else { return Ok(()) };
        if !is_on(&self.homes, root) {
            return Ok(());
        }
        // The kernel names partitions by its own name of the disk, not by that of a link.
        let drive = fs::canonicalize(drive).map_err(|source| unreadable(drive, source))?;
        let partition = first_partition(&drive);
        if !partition.exists() {
            self.prepare(&drive, &partition).await?;
        } else if self.is_empty(&partition, EDGE).await? {
            tracing::info!(partition = %partition.display(), "the empty home partition gets a file system");
            self.format(&partition).await?;
        }
        tracing::info!(partition = %partition.display(), homes = %self.homes.display(), "home disk is mounted");
        fs::create_dir_all(&self.homes).map_err(|error| failed("mkdir", &self.homes, error.to_string()))?;
        run(&self.mount, &[partition.as_os_str(), self.homes.as_os_str()], &partition, "").await.map(drop)
    }

    async fn prepare(&self, drive: &Path, partition: &Path) -> Result<(), HomeDriveError> {
        if !self.is_empty(drive, DISK_EDGE).await? {
            return Err(HomeDriveError::Occupied { drive: drive.to_owned() });
        }
        tracing::info!(drive = %drive.display(), "the empty home disk gets a partition and a file system");
        run(&self.sfdisk, &[drive.as_os_str()], drive, "label: gpt\n,\n").await?;
        let appears = async {
            while !partition.exists() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(APPEARS, appears)
            .await
            .map_err(|_| HomeDriveError::NoPartition { partition: partition.to_owned() })?;
        if !self.is_empty(partition, EDGE).await? {
            return Err(HomeDriveError::OldData { partition: partition.to_owned() });
        }
        self.format(partition).await
    }

    async fn format(&self, partition: &Path) -> Result<(), HomeDriveError> {
        run(&self.mkfs, &[partition.as_os_str()], partition, "").await.map(drop)
    }

    /// Whether there are only zeros at both ends and nothing that blkid knows. Its doubts count as something.
    async fn is_empty(&self, device: &Path, edge: u64) -> Result<bool, HomeDriveError> {
        if !has_blank_edges(device, edge).await? {
            return Ok(false);
        }
        let output = output(&self.blkid, &[OsStr::new("-p"), device.as_os_str()], device, "").await?;
        match output.status.code() {
            // The same status tells that it could not look; a complaint is not always made then.
            Some(BLKID_NOTHING) if output.stderr.is_empty() => Ok(output.stdout.is_empty()),
            Some(0 | BLKID_AMBIVALENT) => Ok(false),
            _ => Err(failed(&self.blkid[0], device, ended(&output))),
        }
    }
}

/// Whether the first and the last `edge` bytes of a device are all zero.
async fn has_blank_edges(device: &Path, edge: u64) -> Result<bool, HomeDriveError> {
    let path = device.to_owned();
    // A disk that is ill may take for ever to say so.
    let look = tokio::task::spawn_blocking(move || {
        let mut file = File::open(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        Ok(is_blank(&mut file, 0, edge)? && is_blank(&mut file, size.saturating_sub(edge), edge)?)
    });
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(looked)) => looked.map_err(|source| unreadable(device, source)),
        Ok(Err(lost)) => Err(unreadable(device, io::Error::other(lost))),
        Err(_) => Err(unreadable(device, io::ErrorKind::TimedOut.into())),
    }
}

fn is_blank(file: &mut File, from: u64, count: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

/// The device of a disk's first partition: a number that follows a number is set off from it.
fn first_partition(drive: &Path) -> PathBuf {
    let mut name = drive.as_os_str().to_owned();
    let ends_in_digit = name.to_string_lossy().ends_with(|c: char| c.is_ascii_digit());
    name.push(if ends_in_digit { "p1" } else { "1" });
    name.into()
}

/// Whether a path, or what there is of it, lies on the file system of another.
fn is_on(path: &Path, other: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|m| m.dev()).ok();
    path.ancestors().find_map(device) == device(other)
}

async fn run(
    program: &[String],
    words: &[&OsStr],
    device: &Path,
    input: &str,
) -> Result<Output, HomeDriveError> {
    let output = output(program, words, device, input).await?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failed(&program[0], device, ended(&output)))
}

async fn output(
    program: &[String],
    words: &[&OsStr],
    device: &Path,
    input: &str,
) -> Result<Output, HomeDriveError> {
    let name = program.first().map_or("", String::as_str);
    let fail = |error: io::Error| failed(name, device, error.to_string());
    let mut child = Command::new(name)
        .args(program.iter().skip(1))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading tells the reason by its status.
        drop(stdin.write_all(input.as_bytes()).await);
    }
    tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_| failed(name, device, format!("no end after {} s", PATIENCE.as_secs())))?
        .map_err(fail)
}

fn failed(program: &str, device: &Path, reason: String) -> HomeDriveError {
    HomeDriveError::Program { program: program.to_owned(), device: device.to_owned(), reason }
}

fn unreadable(device: &Path, source: io::Error) -> HomeDriveError {
    HomeDriveError::Unreadable { device: device.to_owned(), source }
}

fn ended(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    format!("{}: {}", describe(output.status), said.lines().next_back().unwrap_or_default())
}

/// Exit status of blkid's probe when there is nothing, and when there is too much.
const BLKID_NOTHING: i32 = 2;
const BLKID_AMBIVALENT: i32 = 8;

/// Bytes at each end of a partition that hold the marks of every usual format.
const EDGE: u64 = 1 << 20;

/// The same of a disk: what comes first is the table, and a partition usually begins 1 MiB behind. Homes whose
/// table is lost are seen before a new table is written.
const DISK_EDGE: u64 = 2 * EDGE;

/// How long the kernel's news of a partition may take.
const APPEARS: Duration = Duration::from_secs(10);

/// Longest time that a program may take: a file system on a large disk.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, symlink};

    /// A disk that is a file, and programs that write down how they were called.
    struct Machine {
        dir: tempfile::TempDir,
        home_drive: HomeDrive,
    }

    impl Machine {
        /// `blkid` is the status of the probe.
        fn new(blkid: i32) -> Self {
            Self::probed_by(&format!("exit {blkid}"))
        }

        /// `blkid` is what the probe does.
        fn probed_by(blkid: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            File::create(path("vdb")).unwrap().set_len(SIZE).unwrap();
            let tool = |name: &str, then: &str| -> Vec<String> {
                let text = format!(
                    "echo {name} \"$@\" | sed 's|{0}/||g' >> '{0}/ran'; {then}",
                    dir.path().display()
                );
                vec!["/bin/sh".to_owned(), "-c".to_owned(), text, name.to_owned()]
            };
            let made = format!("cat > '{0}/table'; truncate -s {SIZE} '{0}/vdb1'", dir.path().display());
            let home_drive = HomeDrive {
                drive: Some(path("vdb")),
                homes: path("home"),
                mkfs: tool("mkfs", ""),
                mount: tool("mount", ""),
                blkid: tool("blkid", blkid),
                sfdisk: tool("sfdisk", &made),
            };
            Self { dir, home_drive }
        }

        /// Leaves `bytes` on a device, which is made when it is missing.
        fn mark(&self, device: &str, at: u64, bytes: &[u8]) {
            let path = self.dir.path().join(device);
            let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
            file.set_len(SIZE).unwrap();
            file.write_all_at(bytes, at).unwrap();
        }

        async fn ensure(&self) -> Result<Vec<String>, HomeDriveError> {
            self.home_drive.ensure(self.dir.path()).await?;
            Ok(self.ran())
        }

        fn ran(&self) -> Vec<String> {
            let ran = fs::read_to_string(self.dir.path().join("ran")).unwrap_or_default();
            ran.lines().map(str::to_owned).collect()
        }
    }

    /// Of every device: both ends and something between them.
    const SIZE: u64 = 3 * DISK_EDGE;

    #[tokio::test]
    async fn an_empty_disk_is_prepared_and_mounted() {
        let machine = Machine::new(BLKID_NOTHING);
        assert_eq!(
            machine.ensure().await.unwrap(),
            ["blkid -p vdb", "sfdisk vdb", "blkid -p vdb1", "mkfs vdb1", "mount vdb1 home"]
        );
        assert_eq!(fs::read_to_string(machine.dir.path().join("table")).unwrap(), "label: gpt\n,\n");
    }

    #[tokio::test]
    async fn a_disk_with_a_partition_is_only_mounted() {
        let machine = Machine::new(0);
        machine.mark("vdb1", 1024, b"superblock");
        assert_eq!(machine.ensure().await.unwrap(), ["mount vdb1 home"]);
    }

    #[tokio::test]
    async fn a_disk_with_anything_else_on_it_is_never_written_to() {
        for (status, words) in [(0, "not empty"), (BLKID_AMBIVALENT, "not empty"), (4, "exit status 4")] {
            let machine = Machine::new(status);
            let error = machine.ensure().await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(machine.ran(), ["blkid -p vdb"]);
        }
    }

    #[tokio::test]
    async fn bytes_that_nobody_knows_are_not_written_over() {
        // A copy of a table at the end; homes whose table is lost; the table's own place.
        for at in [SIZE - 512, EDGE + 1024, 0] {
            let machine = Machine::new(BLKID_NOTHING);
            machine.mark("vdb", at, b"x");
            let error = machine.ensure().await.unwrap_err().to_string();
            assert!(error.contains("not empty"), "{error}");
            assert!(machine.ran().is_empty(), "{:?}", machine.ran());
        }
    }

    #[tokio::test]
    async fn a_probe_that_could_not_look_is_no_proof() {
        let machine = Machine::probed_by("echo 'blkid: error: vdb: Permission denied' >&2; exit 2");
        let error = machine.ensure().await.unwrap_err().to_string();
        assert!(error.contains("Permission denied"), "{error}");
        assert_eq!(machine.ran(), ["blkid -p vdb"]);
        let mut machine = Machine::new(BLKID_NOTHING);
        machine.home_drive.drive = Some(machine.dir.path().to_owned());
        let error = machine.ensure().await.unwrap_err().to_string();
        assert!(error.starts_with("cannot read '"), "{error}");
        assert!(machine.ran().is_empty());
    }

    #[tokio::test]
    async fn a_new_partition_over_old_data_is_not_formatted() {
        let mut machine = Machine::new(BLKID_NOTHING);
        machine.home_drive.sfdisk[2]
            .push_str(&format!("; printf x >> '{}/vdb1'", machine.dir.path().display()));
        let error = machine.ensure().await.unwrap_err().to_string();
        assert!(error.contains("vdb1' of the home disk holds data already"), "{error}");
        assert_eq!(machine.ran(), ["blkid -p vdb", "sfdisk vdb"]);
        // What blkid alone sees, it sees on the partition too.
        let machine = Machine::probed_by("case \"$2\" in *vdb1) exit 0;; esac; exit 2");
        let error = machine.ensure().await.unwrap_err().to_string();
        assert!(error.contains("holds data already"), "{error}");
        assert_eq!(machine.ran(), ["blkid -p vdb", "sfdisk vdb", "blkid -p vdb1"]);
    }

    #[tokio::test]
    async fn an_interrupted_first_start_is_finished_by_the_next() {
        let machine = Machine::new(BLKID_NOTHING);
        machine.mark("vdb", 0, b"table");
        machine.mark("vdb1", 0, b"");
        assert_eq!(machine.ensure().await.unwrap(), ["blkid -p vdb1", "mkfs vdb1", "mount vdb1 home"]);
    }

    #[tokio::test]
    async fn a_disk_is_found_behind_a_link() {
        let mut machine = Machine::new(BLKID_NOTHING);
        machine.mark("vdb1", 1024, b"superblock");
        let link = machine.dir.path().join("virtio-home");
        symlink("vdb", &link).unwrap();
        machine.home_drive.drive = Some(link);
        assert_eq!(machine.ensure().await.unwrap(), ["mount vdb1 home"]);
    }

    #[tokio::test]
    async fn homes_that_are_elsewhere_already_stay() {
        let mut machine = Machine::new(BLKID_NOTHING);
        machine.home_drive.homes = "/proc/self".into();
        assert!(machine.ensure().await.unwrap().is_empty());
        let mut none = Machine::new(BLKID_NOTHING);
        none.home_drive.drive = Some("/nonexistent/vdb".into());
        assert!(none.ensure().await.unwrap().is_empty());
    }

    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        assert_eq!(first_partition(Path::new("/dev/vdb")), Path::new("/dev/vdb1"));
        assert_eq!(first_partition(Path::new("/dev/nvme0n1")), Path::new("/dev/nvme0n1p1"));
    }
}
