//! Disk images: adding, tagging, deleting.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use qvd_core::DiId;
use qvd_core::model::Osf;
use qvd_db::Guard;

use super::image_file;
use super::image_store::{self, StagedFile};
use super::rows::{Found, ImageRow};
use super::vm_add::OsfRef;
use super::{Admin, Outcome};
use crate::error::{Error, Result};
use crate::filter::Filter;

/// When machines that run from an outdated image have to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expirations {
    /// When the user is asked to leave.
    pub soft: Option<Timestamp>,
    /// When the machine is stopped.
    pub hard: Option<Timestamp>,
}

impl Expirations {
    /// Whether no limit is given.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn stored(self) -> qvd_db::Expirations {
        qvd_db::Expirations { soft: self.soft.map(SystemTime::from), hard: self.hard.map(SystemTime::from) }
    }
}

/// Where a new image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// A file on this machine; it is copied and stays.
    File(PathBuf),
    /// Nowhere: drivers that need no image start from this one.
    None,
}

/// An image to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Its flavour.
    pub osf: OsfRef,
    /// Its content.
    pub source: ImageSource,
    /// Its version; none: today's date and the first free number.
    pub version: Option<String>,
    /// Limits for machines that run from `head`.
    pub expirations: Expirations,
}

/// An added image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageAdded {
    /// Its id.
    pub id: DiId,
    /// How many machines got limits.
    pub expired: u64,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// A tag to give or take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagging {
    /// The image.
    pub image: DiId,
    /// The tag.
    pub tag: String,
    /// Limits for machines that run from an outdated image.
    pub expirations: Expirations,
}

impl Admin {
    /// Adds an image: version tag (fixed), `head`, and `default` if the flavour has none.
    ///
    /// # Errors
    ///
    /// No such flavour; a file that cannot be read or copied, or that the flavour's driver cannot start from; a
    /// version that exists.
    pub async fn add_image(&self, new: NewImage) -> Result<ImageAdded> {
        let osf = self.osf(&new.osf).await.map_err(|error| match error {
            Error::NotFound(_) => Error::NotFound("OSF not found".to_owned()),
            other => other,
        })?;
        let driver = self.driver(&osf);
        let mut warnings = Vec::new();
        let (staged, file_name) = match new.source {
            ImageSource::None => {
                if !image_file::suits(NO_IMAGE, &driver) {
                    warnings.push(format!(
                        "OSF {} uses {driver}, which can not start without an image",
                        osf.name
                    ));
                }
                (None, NO_IMAGE.to_owned())
            }
            ImageSource::File(path) => {
                let file_name = image_store::base_name(&path)?.to_owned();
                (Some(self.stage_file(path, &driver).await?), file_name)
            }
        };
        let row = qvd_db::NewImage {
            osf_id: osf.id,
            file_name,
            format: staged.as_ref().map_or(NO_IMAGE, |file| file.format).to_owned(),
            version: new.version,
            size: staged.as_ref().map(|file| file.size),
            sha256: staged.as_ref().map(|file| file.sha256.clone()),
        };
        let image = self.db.images().stage(row).await?;
        let (id, path) = (image.id, image.path);
        match self.publish(id, &path, staged, new.expirations).await {
            Ok(expired) => Ok(ImageAdded { id, expired, warnings }),
            Err(error) => {
                // What stays behind when this fails, too, is a staged row, which nobody starts from.
                let _ = self.db.images().discard(id).await;
                let _ = tokio::fs::remove_file(self.images_directory().join(&path)).await;
                Err(error)
            }
        }
    }

    /// The published images that match, by id.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn images(&self, filter: &Filter) -> Result<Vec<Found<ImageRow>>> {
        let osfs = self.db.osfs().list().await?;
        let rows = self.db.images().list().await?.into_iter().map(|image| {
            let osf = osfs.iter().find(|osf| osf.id == image.osf_id).map(|osf| osf.name.clone());
            ImageRow { image, osf }
        });
        self.select(rows.collect(), filter).await
    }

    /// Gives a tag to an image, taking it from the one that has it. Answers how many machines got limits.
    ///
    /// # Errors
    ///
    /// No such image; the tag is fixed somewhere in the flavour; not a tag.
    pub async fn tag_image(&self, tagging: Tagging) -> Result<u64> {
        let Tagging { image, tag, expirations } = tagging;
        Ok(self.db.images().tag(image, &tag, expirations.stored()).await?)
    }

    /// Takes a tag from an image. Answers how many machines got limits.
    ///
    /// # Errors
    ///
    /// No such image; it does not have the tag, or has it fixed.
    pub async fn untag_image(&self, tagging: Tagging) -> Result<u64> {
        let Tagging { image, tag, expirations } = tagging;
        Ok(self.db.images().untag(image, &tag, expirations.stored()).await?)
    }

    /// Deletes images that nothing runs from; others are left alone. `default` and `head` go to the latest other image
    /// of the flavour. Files stay unless `purge`.
    ///
    /// # Errors
    ///
    /// The database's; a file that cannot be removed (its image is deleted then).
    pub async fn delete_images(&self, images: &[Found<ImageRow>], purge: bool) -> Result<Outcome<DiId>> {
        let mut outcome = Outcome::default();
        for image in images.iter().map(|found| &found.row.image) {
            match self.db.images().delete(image.id).await {
                Ok(Guard::Updated(())) => outcome.done.push(image.id),
                Ok(Guard::Unchanged(()) | Guard::NotFound) => {
                    outcome.skip(image.id, &image.path, "already deleted");
                    continue;
                }
                Err(qvd_db::Error::InUse { relation, .. }) => {
                    outcome.skip(image.id, &image.path, relation);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if purge && image.format != NO_IMAGE {
                let file = self.images_directory().join(&image.path);
                tokio::fs::remove_file(&file).await.map_err(|error| Error::file(&file, &error))?;
            }
        }
        outcome.warnings = self.unresolved_tags(images).await?;
        Ok(outcome)
    }

    /// The driver that runs machines of a flavour here.
    pub(super) fn driver(&self, osf: &Osf) -> String {
        osf.hypervisor.clone().unwrap_or_else(|| self.config.text("vm.hypervisor"))
    }

    async fn stage_file(&self, path: PathBuf, driver: &str) -> Result<StagedFile> {
        let (directory, driver) = (self.images_directory(), driver.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            let format = image_store::look_at(&path).map_err(|error| with_similar_names(error, &path))?;
            if !image_file::suits(format, &driver) {
                let text = format!("{} is a {format} image, but vm.hypervisor is {driver}", path.display());
                return Err(Error::invalid("path", text));
            }
            StagedFile::copy(&path, format, &directory)
        });
        copied.await.map_err(|_| Error::InvalidState("the image could not be copied".to_owned()))?
    }

    async fn publish(
        &self,
        id: DiId,
        path: &str,
        staged: Option<StagedFile>,
        expirations: Expirations,
    ) -> Result<u64> {
        if let Some(file) = staged {
            file.settle(path)?;
        }
        match self.db.images().publish(id, expirations.stored()).await? {
            Guard::Updated(published) | Guard::Unchanged(published) => Ok(published.expiring_vms),
            Guard::NotFound => Err(Error::InvalidState(format!("DI {id} was deleted while it was added"))),
        }
    }

    /// Machines of these images' flavours whose tag names no image any more.
    async fn unresolved_tags(&self, images: &[Found<ImageRow>]) -> Result<Vec<String>> {
        let touched = |osf| images.iter().any(|found| found.row.image.osf_id == osf);
        let vms = self.db.vms().list().await?;
        let lost = vms.iter().filter(|vm| touched(vm.vm.osf_id) && vm.di_version.is_none());
        Ok(lost
            .map(|overview| {
                let vm = &overview.vm;
                format!("vm {} ({}) can not start: no DI has the tag {}", vm.id, vm.name, vm.di_tag)
            })
            .collect())
    }

    fn images_directory(&self) -> PathBuf {
        self.config.path("path.storage.images")
    }
}

/// Format, and file name, of an image without a file.
const NO_IMAGE: &str = "none";

/// Names files that somebody may have meant.
fn with_similar_names(error: Error, path: &Path) -> Error {
    let Error::File { what, reason: reason @ std::io::ErrorKind::NotFound } = error else { return error };
    let wanted = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).take(4).collect::<String>();
    let mut similar: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| stem(&name.to_lowercase()) == stem(&wanted))
        .collect();
    similar.sort();
    match similar.is_empty() {
        true => Error::File { what, reason },
        false => Error::File { what: format!("{what} (there is: {})", similar.join(", ")), reason },
    }
}

/// Refuses what no image can be tagged with.
pub(super) fn check_tag(tag: &str) -> Result<()> {
    let unfit = |c: char| c.is_whitespace() || c.is_control() || ",=*?".contains(c);
    if (1..=128).contains(&tag.chars().count()) && !tag.contains(unfit) {
        return Ok(());
    }
    Err(Error::invalid("di_tag", format!("'{tag}' can not be a tag")))
}
