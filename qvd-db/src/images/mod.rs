//! Disk images: rows, versions and the way from a file to a usable image.
//!
//! ```text
//! file copied and synced under a temporary name
//!   └─ stage    version chosen, row `staging`, final name known
//!        └─ file renamed, directory synced
//!             └─ publish   `ready`, tags set, expirations set
//! ```
//!
//! A crash in between leaves a `staging` row or a temporary file, which nobody uses and a sweep by age removes.

mod tags;
mod versions;

use std::collections::HashMap;
use std::time::SystemTime;

use qvd_core::model::{DiTag, DiskImage};
use qvd_core::{DiId, OsfId};

pub use tags::Expirations;

use crate::db::{Db, Tx, transaction};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::hosts::only;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// An image to be added.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// The flavour it belongs to.
    pub osf_id: OsfId,
    /// Base name of the file; the image is stored as `<id>-<file name>`.
    pub file_name: String,
    /// `qcow2`, `raw`, `tar`, `tar.gz`, `tar.bz2`, `tar.xz`, `tar.zst`, or `none`.
    pub format: String,
    /// Version; none: today's date and the first free number.
    pub version: Option<String>,
    /// Size of the file in bytes.
    pub size: Option<u64>,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: Option<String>,
}

/// A published image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The image, tags included.
    pub image: DiskImage,
    /// How many virtual machines had their expiration dates set.
    pub expiring_vms: u64,
}

/// Disk images of a database.
#[derive(Clone, Copy, Debug)]
pub struct Images<'db> {
    db: &'db Db,
}

impl Db {
    /// Disk images.
    pub fn images(&self) -> Images<'_> {
        Images { db: self }
    }
}

impl Images<'_> {
    /// Stages and publishes at once, for an image whose file (if it has one) is in its place already.
    ///
    /// # Errors
    ///
    /// As [`Images::stage`].
    pub async fn add(self, image: NewImage) -> Result<DiskImage> {
        let staged = self.stage(image).await?;
        match self.publish(staged.id, Expirations::default()).await? {
            Guard::Updated(published) => Ok(published.image),
            Guard::Unchanged(_) | Guard::NotFound => {
                Err(Error::refused(format!("DI {} was taken away while it was added", staged.id)))
            }
        }
    }

    /// Makes the row of an image whose file is not in its place yet: chooses the version and the final file name
    /// (`path`). Nobody starts from it before it is published.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] flavour; [`Error::Refused`] when it has an image of that version, or no number is left
    /// today; [`Error::Invalid`] file name or format.
    pub async fn stage(self, image: NewImage) -> Result<DiskImage> {
        self.stage_on(image, versions::today()).await
    }

    /// As [`Images::stage`], on a given day (`YYYY-MM-DD`).
    pub(crate) async fn stage_on(self, image: NewImage, day: String) -> Result<DiskImage> {
        const TAKEN: Sql = sql!("list the versions of an OSF":
            "select version as name from dis where osf_id = $1 union select tag from di_tags where osf_id = $1");
        const INSERT: Sql = sql!("add a DI":
            "insert into dis (osf_id, path, version, format, sha256, size) values ($1, '', $2, $3, $4, $5) returning id");
        const NAME: Sql = sql!("name a DI": "update dis set path = $2 where id = $1");
        let NewImage { osf_id, file_name, format, version, size, sha256 } = &image;
        transaction!(self.db, |tx| {
            lock_osf(tx, *osf_id).await?;
            let version = match version {
                Some(version) => version.clone(),
                None => {
                    let rows = tx.rows(&TAKEN, params![*osf_id]).await?;
                    let taken = rows.iter().map(|row| row.get("name")).collect::<Result<_>>()?;
                    versions::first_free(&day, &taken).ok_or_else(|| {
                        Error::refused(format!("OSF {osf_id} has no free version left for {day} (give one)"))
                    })?
                }
            };
            let params = params![*osf_id, &version, format, sha256.as_deref(), *size];
            let inserted = tx.rows(&INSERT, params).await.map_err(|e| {
                if e.is_duplicate_of(("dis", "osf_id_version")) {
                    return Error::refused(format!("OSF {osf_id} already has a DI with version {version}"));
                }
                e.or_invalid(format!(
                    "a DI has a version of 1 to 64 characters and a known format, not '{format}'"
                ))
            })?;
            let id: DiId = only(inserted)?.get("id")?;
            let path = format!("{id}-{file_name}");
            let named = tx.rows(&NAME, params![id, &path]).await;
            named.map_err(|e| e.or_invalid(format!("'{file_name}' is not a file name")))?;
            Ok(DiskImage {
                id,
                osf_id: *osf_id,
                path,
                version,
                format: format.clone(),
                tags: Vec::new(),
                blocked: false,
            })
        })
    }

    /// The file is in its place: the image becomes usable, gets its version as a fixed tag, `head`, and `default` if
    /// the flavour has none. Limits are set for virtual machines that run from `head`.
    ///
    /// `Unchanged`: it was published before.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn publish(self, id: DiId, expirations: Expirations) -> Result<Guard<Published>> {
        const OSF_OF: Sql = sql!("look at a DI": "select osf_id from dis where id = $1");
        const READY: Sql = sql!("publish a DI":
            "update dis set state = 'ready', updated_at = " NOW ", row_version = row_version + 1
             where id = $1 and state = 'staging' returning version");
        let written = transaction!(self.db, |tx| {
            let Some(row) = tx.row(&OSF_OF, params![id]).await? else { return Ok(None) };
            let osf: OsfId = row.get("osf_id")?;
            lock_osf(tx, osf).await?;
            let Some(row) = tx.row(&READY, params![id]).await? else { return Ok(None) };
            let version: String = row.get("version")?;
            tags::give(tx, osf, id, &version, true).await?;
            tags::give(tx, osf, id, HEAD, false).await?;
            tags::give_if_free(tx, osf, id, DEFAULT).await?;
            tags::expire_runs_of(tx, osf, HEAD, expirations).await.map(Some)
        })?;
        let Some(image) = self.load(id).await? else { return Ok(Guard::NotFound) };
        Ok(match written {
            Some(expiring_vms) => Guard::Updated(Published { image, expiring_vms }),
            None => Guard::Unchanged(Published { image, expiring_vms: 0 }),
        })
    }

    /// Removes the row of an image that was staged and never published.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn discard(self, id: DiId) -> Result<Guard<()>> {
        const DISCARD: Sql =
            sql!("discard a DI": "delete from dis where id = $1 and state = 'staging' returning id");
        if !self.db.write(&DISCARD, params![id]).await?.is_empty() {
            return Ok(Guard::Updated(()));
        }
        Ok(self.load(id).await?.map_or(Guard::NotFound, |_| Guard::Unchanged(())))
    }

    /// Images that were staged before a time and never published: what a crash left.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn staged_before(self, time: SystemTime) -> Result<Vec<DiskImage>> {
        const STAGED: Sql = sql!("look for abandoned DIs":
            "select " DI " from dis d where d.state = 'staging' and d.created_at < $1 order by d.id");
        self.db.read(&STAGED, params![time]).await?.iter().map(|row| image(row, Vec::new())).collect()
    }

    /// All published images with their tags, by id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn list(self) -> Result<Vec<DiskImage>> {
        const LIST: Sql =
            sql!("list DIs": "select " DI " from dis d where d.state <> 'staging' order by d.id");
        const TAGS: Sql = sql!("list DI tags": "select di_id, tag, fixed from di_tags order by tag");
        let mut tags: HashMap<DiId, Vec<DiTag>> = HashMap::new();
        for row in self.db.read(&TAGS, params![]).await? {
            tags.entry(row.get("di_id")?).or_default().push(tag(&row)?);
        }
        let rows = self.db.read(&LIST, params![]).await?;
        rows.iter().map(|row| image(row, tags.remove(&row.get("id")?).unwrap_or_default())).collect()
    }

    /// The image of that id, in whatever state, with its tags.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn load(self, id: DiId) -> Result<Option<DiskImage>> {
        const LOAD: Sql = sql!("load a DI": "select " DI " from dis d where d.id = $1");
        let Some(row) = self.db.read_one(&LOAD, params![id]).await? else { return Ok(None) };
        Ok(Some(image(&row, self.tags_of(id).await?)?))
    }

    /// The image to start from: has the tag, is published and not blocked.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn resolve(self, osf: OsfId, tag: &str) -> Result<Option<DiskImage>> {
        const RESOLVE: Sql = sql!("find the DI of a tag":
            "select " DI " from dis d join di_tags t on t.di_id = d.id
             where t.osf_id = $1 and t.tag = $2 and d.state = 'ready' and not d.blocked");
        let Some(row) = self.db.read_one(&RESOLVE, params![osf, tag]).await? else { return Ok(None) };
        let tags = self.tags_of(row.get("id")?).await?;
        Ok(Some(image(&row, tags)?))
    }

    /// Blocks an image (no start takes it) or unblocks it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_blocked(self, id: DiId, blocked: bool) -> Result<Guard<()>> {
        const SET: Sql = sql!("block a DI":
            "update dis set blocked = $2, updated_at = " NOW ", row_version = row_version + 1 where id = $1 returning id");
        let rows = self.db.write(&SET, params![id, blocked]).await?;
        Ok(if rows.is_empty() { Guard::NotFound } else { Guard::Updated(()) })
    }

    /// Deletes an image that nothing runs from. Its `default` and `head` go to the latest other image of the flavour
    /// that is not blocked, or the latest at all; the file stays.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] while a virtual machine runs from it.
    pub async fn delete(self, id: DiId) -> Result<Guard<()>> {
        const LOOK: Sql = sql!("look at a DI":
            "select osf_id, (select count(*) from vm_runtimes where current_di_id = $1) as runs from dis where id = $1");
        // One that is blocked only when there is no other: its tag would name nothing to start from.
        const HEIR: Sql = sql!("find the latest DI":
            "select id from dis where osf_id = $1 and id <> $2 and state = 'ready' order by blocked, id desc limit 1");
        const HELD: Sql = sql!("look at the tags of a DI":
            "select tag from di_tags where di_id = $1 and tag in ('default', 'head') and not fixed");
        const DELETE: Sql = sql!("delete a DI": "delete from dis where id = $1");
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOOK, params![id]).await? else { return Ok(Guard::NotFound) };
            let runs: i64 = row.get("runs")?;
            if runs > 0 {
                let relation = format!("is in use by {runs} VMs");
                return Err(Error::InUse { subject: format!("DI {id}"), relation });
            }
            let osf: OsfId = row.get("osf_id")?;
            lock_osf(tx, osf).await?;
            if let Some(heir) = tx.row(&HEIR, params![osf, id]).await? {
                let heir: DiId = heir.get("id")?;
                for row in tx.rows(&HELD, params![id]).await? {
                    tags::give(tx, osf, heir, &row.get::<String>("tag")?, false).await?;
                }
            }
            let used = || Error::InUse { subject: format!("DI {id}"), relation: "is in use".to_owned() };
            tx.rows(&DELETE, params![id]).await.map_err(|e| e.or_referenced(used))?;
            Ok(Guard::Updated(()))
        })
    }

    async fn tags_of(self, id: DiId) -> Result<Vec<DiTag>> {
        const TAGS: Sql =
            sql!("load the tags of a DI": "select tag, fixed from di_tags where di_id = $1 order by tag");
        self.db.read(&TAGS, params![id]).await?.iter().map(tag).collect()
    }
}

/// The tag that new images take over.
const HEAD: &str = "head";

/// The tag that virtual machines have unless told otherwise; the first image keeps it.
const DEFAULT: &str = "default";

/// Changes of an image family happen one after the other.
async fn lock_osf(tx: &mut Tx, osf: OsfId) -> Result<()> {
    const LOCK: Sql = sql!("look at an OSF": "select id from osfs where id = $1" FOR_UPDATE);
    let row = tx.row(&LOCK, params![osf]).await?;
    row.map(drop).ok_or_else(|| Error::missing(format!("OSF {osf}")))
}

fn image(row: &Row, tags: Vec<DiTag>) -> Result<DiskImage> {
    Ok(DiskImage {
        id: row.get("id")?,
        osf_id: row.get("osf_id")?,
        path: row.get("path")?,
        version: row.get("version")?,
        format: row.get("format")?,
        tags,
        blocked: row.get("blocked")?,
    })
}

fn tag(row: &Row) -> Result<DiTag> {
    Ok(DiTag { tag: row.get("tag")?, fixed: row.get("fixed")? })
}
