//! Tags of images, and the limits that a change of tag sets for virtual machines that run from another image.

use std::time::SystemTime;

use qvd_core::{DiId, HostId, OsfId};

use super::{Images, lock_osf};
use crate::db::{Tx, transaction};
use crate::error::{Error, Result};
use crate::notify::Channel;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// When virtual machines that run from an outdated image must end. A limit that is none leaves what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expirations {
    /// When the user is asked to leave.
    pub soft: Option<SystemTime>,
    /// When the virtual machine is stopped.
    pub hard: Option<SystemTime>,
}

impl Images<'_> {
    /// Gives a tag to an image, taking it from the one that has it. Virtual machines with that tag which run from
    /// another image get the limits; tells how many.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] image; [`Error::Refused`] when the tag is fixed somewhere in the flavour;
    /// [`Error::Invalid`] tag.
    pub async fn tag(self, id: DiId, tag: &str, expirations: Expirations) -> Result<u64> {
        const FIXED: Sql = sql!("look for a fixed tag":
            "select di_id from di_tags where osf_id = $1 and tag = $2 and fixed");
        check(tag)?;
        transaction!(self.db, |tx| {
            let osf = osf_of(tx, id).await?;
            lock_osf(tx, osf).await?;
            if tx.row(&FIXED, params![osf, tag]).await?.is_some() {
                return Err(Error::refused(format!("There is a DI with the tag {tag} fixed")));
            }
            give(tx, osf, id, tag, false).await?;
            expire_runs_not_from(tx, osf, tag, id, expirations).await
        })
    }

    /// Takes a tag from an image. Virtual machines with that tag which run from it get the limits; tells how many.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] image or tag; [`Error::Refused`] when the tag is fixed.
    pub async fn untag(self, id: DiId, tag: &str, expirations: Expirations) -> Result<u64> {
        const LOOK: Sql = sql!("look at a tag": "select fixed from di_tags where di_id = $1 and tag = $2");
        const DELETE: Sql =
            sql!("take a tag": "delete from di_tags where di_id = $1 and tag = $2 and not fixed");
        transaction!(self.db, |tx| {
            let osf = osf_of(tx, id).await?;
            lock_osf(tx, osf).await?;
            let Some(row) = tx.row(&LOOK, params![id, tag]).await? else {
                return Err(Error::refused(format!("DI {id} is not tagged as {tag}")));
            };
            if row.get::<bool>("fixed")? {
                return Err(Error::refused(format!("DI {id} tag {tag} is fixed")));
            }
            tx.rows(&DELETE, params![id, tag]).await?;
            expire_runs_from(tx, osf, tag, id, expirations).await
        })
    }
}

/// Gives a tag, unless another image of the flavour has it fixed.
pub(super) async fn give(tx: &mut Tx, osf: OsfId, di: DiId, tag: &str, fixed: bool) -> Result<()> {
    const GIVE: Sql = sql!("tag a DI":
        "insert into di_tags (osf_id, di_id, tag, fixed) values ($1, $2, $3, $4)
         on conflict (osf_id, tag) do update set di_id = excluded.di_id, fixed = excluded.fixed
         where not di_tags.fixed");
    tx.rows(&GIVE, params![osf, di, tag, fixed]).await.map(drop)
}

/// Gives a tag that no image of the flavour has.
pub(super) async fn give_if_free(tx: &mut Tx, osf: OsfId, di: DiId, tag: &str) -> Result<()> {
    const GIVE: Sql = sql!("tag a DI":
        "insert into di_tags (osf_id, di_id, tag, fixed) values ($1, $2, $3, false) on conflict (osf_id, tag) do nothing");
    tx.rows(&GIVE, params![osf, di, tag]).await.map(drop)
}

/// Sets limits for everything that runs with this tag. What starts and has no image yet will get the new one: a start
/// resolves its tag and records the image in one write.
pub(super) async fn expire_runs_of(
    tx: &mut Tx,
    osf: OsfId,
    tag: &str,
    Expirations { soft, hard }: Expirations,
) -> Result<u64> {
    const EXPIRE: Sql = sql!("set expiration dates":
        "update vm_runtimes
         set vm_expiration_soft = coalesce($3, vm_expiration_soft),
             vm_expiration_hard = coalesce($4, vm_expiration_hard), expire_alerted_at = null, version = version + 1
         where vm_state <> 'stopped' and (vm_state <> 'starting' or current_di_id is not null)
           and vm_id in (select id from vms where osf_id = $1 and di_tag = $2)
         returning host_id");
    if (soft, hard) == (None, None) {
        return Ok(0);
    }
    let rows = tx.rows(&EXPIRE, params![osf, tag, soft, hard]).await?;
    wake_hosts(tx, &rows)
}

/// Sets limits for what runs with this tag from a known image that is not this one.
async fn expire_runs_not_from(
    tx: &mut Tx,
    osf: OsfId,
    tag: &str,
    di: DiId,
    Expirations { soft, hard }: Expirations,
) -> Result<u64> {
    const EXPIRE: Sql = sql!("set expiration dates":
        "update vm_runtimes
         set vm_expiration_soft = coalesce($4, vm_expiration_soft),
             vm_expiration_hard = coalesce($5, vm_expiration_hard), expire_alerted_at = null, version = version + 1
         where vm_state <> 'stopped' and current_di_id <> $3
           and vm_id in (select id from vms where osf_id = $1 and di_tag = $2)
         returning host_id");
    if (soft, hard) == (None, None) {
        return Ok(0);
    }
    let rows = tx.rows(&EXPIRE, params![osf, tag, di, soft, hard]).await?;
    wake_hosts(tx, &rows)
}

/// Sets limits for what runs with this tag from this image.
async fn expire_runs_from(
    tx: &mut Tx,
    osf: OsfId,
    tag: &str,
    di: DiId,
    Expirations { soft, hard }: Expirations,
) -> Result<u64> {
    const EXPIRE: Sql = sql!("set expiration dates":
        "update vm_runtimes
         set vm_expiration_soft = coalesce($4, vm_expiration_soft),
             vm_expiration_hard = coalesce($5, vm_expiration_hard), expire_alerted_at = null, version = version + 1
         where vm_state <> 'stopped' and current_di_id = $3
           and vm_id in (select id from vms where osf_id = $1 and di_tag = $2)
         returning host_id");
    if (soft, hard) == (None, None) {
        return Ok(0);
    }
    let rows = tx.rows(&EXPIRE, params![osf, tag, di, soft, hard]).await?;
    wake_hosts(tx, &rows)
}

/// Tells the hosts of changed rows, and how many rows there are.
fn wake_hosts(tx: &mut Tx, rows: &[Row]) -> Result<u64> {
    for row in rows {
        if let Some(host) = row.find::<HostId>("host_id")? {
            tx.notify(Channel::VmCommands(host), String::new());
        }
    }
    Ok(rows.len() as u64)
}

async fn osf_of(tx: &mut Tx, di: DiId) -> Result<OsfId> {
    const OSF_OF: Sql = sql!("look at a DI": "select osf_id from dis where id = $1");
    match tx.row(&OSF_OF, params![di]).await? {
        Some(row) => row.get("osf_id"),
        None => Err(Error::missing(format!("DI {di}"))),
    }
}

/// 1 to 128 characters, none of which means something in a filter or a list.
fn check(tag: &str) -> Result<()> {
    let unfit = |c: char| c.is_whitespace() || c.is_control() || ",=*?".contains(c);
    if (1..=128).contains(&tag.chars().count()) && !tag.contains(unfit) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "'{tag}' cannot be a tag (1 to 128 characters, no blank, comma, equals sign, asterisk, question mark)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_hold_nothing_that_means_something_elsewhere() {
        for good in ["head", "2013-08-05-000", "für-alle", &"x".repeat(128)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a,b", "a=b", "a*", "a?", "a b", "a\tb", "a\0", &"x".repeat(129)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
