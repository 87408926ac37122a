//! `qa … propset|propget|propdel`, the same for every kind of object.

use qvd_core::model::Properties;
use qvd_db::Owner;

use super::session::{Ending, Failure, Session};
use crate::error::Error;
use crate::ops::{Found, Owned};

/// An object of any kind, as far as its properties go.
struct Subject {
    owner: Owner,
    label: String,
}

/// What objects of a kind are called in messages.
struct Nouns {
    set: &'static str,
    none_set: &'static str,
    prompt: &'static str,
}

pub(super) async fn set(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let nouns = nouns(session);
    let subjects = subjects(session).await?;
    let pairs: Properties = session.invocation.named.clone();
    if subjects.is_empty() || pairs.is_empty() {
        let message =
            format!("No properties were set (filter matched {} {})", subjects.len(), nouns.none_set);
        return Err(Error::Invalid { field: None, message }.into());
    }
    let owners: Vec<_> = subjects.iter().map(|subject| subject.owner).collect();
    session.admin.set_properties(&owners, &pairs).await?;
    session.say(&format!("propset in {} {}.\n", owners.len(), nouns.set))?;
    Ok(Ending::Complete)
}

pub(super) async fn get(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let subjects = subjects(session).await?;
    let mut text = String::new();
    for subject in &subjects {
        for (key, value) in session.admin.properties(subject.owner).await? {
            if session.invocation.words.is_empty() || session.invocation.words.contains(&key) {
                text.push_str(&format!("{}\t{key}={value}\n", subject.label));
            }
        }
    }
    session.print(&text)?;
    Ok(Ending::of_selection(&subjects))
}

pub(super) async fn del(session: &mut Session<'_, '_>) -> Result<Ending, Failure> {
    let what = format!("delete the prop in all {}", nouns(session).prompt);
    if !session.confirmed(&what)? {
        return Ok(Ending::Partial);
    }
    let subjects = subjects(session).await?;
    let owners: Vec<_> = subjects.iter().map(|subject| subject.owner).collect();
    session.admin.delete_properties(&owners, &session.invocation.words).await?;
    Ok(Ending::of_selection(&subjects))
}

async fn subjects(session: &Session<'_, '_>) -> Result<Vec<Subject>, Failure> {
    let (admin, filter) = (&session.admin, &session.invocation.filter);
    Ok(match session.invocation.command.object {
        "host" => of(admin.hosts(filter).await?),
        "osf" => of(admin.osfs(filter).await?),
        "di" => of(admin.images(filter).await?),
        "user" => of(admin.users(filter).await?),
        _ => of(admin.vms(filter).await?),
    })
}

fn of<T: Owned>(found: Vec<Found<T>>) -> Vec<Subject> {
    let subject = |found: Found<T>| Subject { owner: found.row.owner(), label: found.row.label().to_owned() };
    found.into_iter().map(subject).collect()
}

fn nouns(session: &Session<'_, '_>) -> Nouns {
    let same = |noun| Nouns { set: noun, none_set: noun, prompt: noun };
    match session.invocation.command.object {
        "host" => same("hosts"),
        "osf" => same("OSFs"),
        "di" => same("DIs"),
        "user" => same("users"),
        _ => Nouns { set: "virtual machines", none_set: "VMs", prompt: "virtual machines" },
    }
}
