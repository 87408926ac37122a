//! What a driver is asked to run, and what it made ready.

use std::path::PathBuf;

use crate::id::{DiId, RunId, UserId, VmId};
use crate::units::Mebibytes;

/// The disk image to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSpec {
    /// Its id.
    pub di_id: DiId,
    /// File name inside the images directory.
    pub path: String,
    /// Format as recorded; never guessed from the content.
    pub format: String,
}

impl ImageSpec {
    /// The image of that id, in a file of that name, of the format that was recorded.
    pub fn new(di_id: DiId, path: impl Into<String>, format: impl Into<String>) -> Self {
        Self { di_id, path: path.into(), format: format.into() }
    }
}

/// Where all processes of one machine must be: made by the host before the launch, so that its fence can end what it
/// has never heard of, whatever the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaunchPlace {
    /// Directories of control groups, one per hierarchy. Groups below them are inside too.
    pub cgroups: Vec<PathBuf>,
}

impl LaunchPlace {
    /// These control groups, which exist.
    pub fn in_cgroups(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { cgroups: directories.into_iter().collect() }
    }
}

/// Everything a driver needs to know to run one virtual machine once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmSpec {
    /// The virtual machine.
    pub vm_id: VmId,
    /// This run of it.
    pub run_id: RunId,
    /// Incarnation of the host that claims it.
    pub host_incarnation: i64,
    /// Name as the administrator wrote it; foreign text.
    pub name: String,
    /// Owner.
    pub user_id: UserId,
    /// Owner's login.
    pub login: String,
    /// Memory limit.
    pub memory: Mebibytes,
    /// Image to start from.
    pub image: ImageSpec,
    /// Whether the system disk is written to a layer above the image.
    pub use_overlay: bool,
    /// Home size; none means no home of its own.
    pub home: Option<Mebibytes>,
    /// Name of the home as recorded by an earlier run.
    pub storage: Option<String>,
    /// Address of its own, when it has one.
    pub ip: Option<String>,
    /// Where its processes must be; none leaves the place to the driver.
    pub place: Option<LaunchPlace>,
}

impl VmSpec {
    /// A specification with defaults: 256 MiB, no image, no home, no address.
    pub fn new(vm_id: VmId, run_id: RunId, name: impl Into<String>, login: impl Into<String>) -> Self {
        Self {
            vm_id,
            run_id,
            host_incarnation: 0,
            name: name.into(),
            user_id: UserId::new(0),
            login: login.into(),
            memory: Mebibytes(256),
            image: ImageSpec::new(DiId::new(0), "", "none"),
            use_overlay: true,
            home: None,
            storage: None,
            ip: None,
            place: None,
        }
    }
}

/// What [`Hypervisor::prepare`](super::Hypervisor::prepare) made ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// Name of the home in use, to be recorded with the virtual machine.
    pub storage: Option<String>,
}
