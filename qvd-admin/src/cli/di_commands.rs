//! `qa di …`

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use qvd_core::DiId;

use super::session::{Ending, Failure, Session};
use super::table::Table;
use super::vm_commands::flavour;
use crate::error::Error;
use crate::ops::{Expirations, ImageSource, NewImage, Tagging};

pub(super) async fn add(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let source = match (session.argument("format"), session.argument("path")) {
        (Some("none"), None) => ImageSource::None,
        (Some("none"), Some(_)) => {
            return Err(Error::invalid("path", "an image with format=none has no path").into());
        }
        (Some(_), _) => return Err(Error::invalid("format", "format is found by content, or none").into()),
        (None, path) => ImageSource::File(PathBuf::from(path.unwrap_or_default())),
    };
    let new = NewImage {
        osf: flavour(session)?,
        source,
        version: session.argument("version").filter(|text| !text.is_empty()).map(str::to_owned),
        expirations: expirations(session)?,
    };
    let limits = new.expirations;
    let added = session.admin.add_image(new).await?;
    for warning in &added.warnings {
        session.warn(warning);
    }
    tell_expired(session, added.expired, limits);
    session.say(&format!("DI added with id {}", added.id))?;
    Ok(Ending::Complete)
}

pub(super) async fn list(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let images = session.admin.images(&session.invocation.filter).await?;
    session.list(&images, || {
        let mut table = Table::new(&["Id", "OSF", "Version", "Path", "Tags"]);
        for image in images.iter().map(|found| &found.row.image) {
            let mut tags: Vec<_> = image.tags.iter().map(|tag| tag.tag.as_str()).collect();
            tags.sort_unstable();
            table.row([
                image.id.to_string(),
                image.osf_id.to_string(),
                image.version.clone(),
                image.path.clone(),
                tags.join(", "),
            ]);
        }
        table
    })
}

pub(super) async fn tag(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let tagging = tagging(session)?;
    let limits = tagging.expirations;
    let expired = session.admin.tag_image(tagging).await?;
    tell_expired(session, expired, limits);
    session.say("DI tagged")?;
    Ok(Ending::Complete)
}

pub(super) async fn untag(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let tagging = tagging(session)?;
    let limits = tagging.expirations;
    if matches!(tagging.tag.as_str(), "default" | "head") {
        session.warn(format_args!("tag {} is removed; machines that use it can not start", tagging.tag));
    }
    let expired = session.admin.untag_image(tagging).await?;
    tell_expired(session, expired, limits);
    Ok(Ending::Complete)
}

pub(super) async fn del(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    if !session.confirmed("delete all dis")? {
        return Ok(Ending::Partial);
    }
    let images = session.admin.images(&session.invocation.filter).await?;
    session.say(&format!("Deleting {} di(s)", images.len()))?;
    let outcome = session.admin.delete_images(&images, session.invocation.purge).await?;
    session.explain("di", &outcome);
    session.say(&format!("{} DIs deleted.", outcome.done.len()))?;
    Ok(Ending::of(&outcome))
}

fn tagging(session: &Session<'_, '_>) -> Result<Tagging, Failure> {
    let id = session.id("di_id")?.unwrap_or_default();
    Ok(Tagging { image: DiId::new(id), tag: session.mandatory("tag"), expirations: expirations(session)? })
}

fn expirations(session: &Session<'_, '_>) -> Result<Expirations, Failure> {
    let now = session.admin.now();
    let limit = |name| session.argument(name).map(|text| crate::at::parse(text, &now)).transpose();
    Ok(Expirations { soft: limit("expire-soft")?, hard: limit("expire-hard")? })
}

/// On standard error, and not silenced by `-q`: scripts and people have always seen it there.
fn tell_expired(session: &mut Session<'_, '_>, count: u64, limits: Expirations) {
    if count > 0 && !limits.is_none() {
        let text = |limit: Option<Timestamp>| match limit {
            None => "undef".to_owned(),
            Some(time) => time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S").to_string(),
        };
        let (soft, hard) = (text(limits.soft), text(limits.hard));
        session
            .console
            .complain(&format!("{count} VM have had their expiration dates set ({soft}, {hard})!"));
    }
}
