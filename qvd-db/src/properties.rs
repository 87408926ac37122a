//! Key/value pairs of hosts, flavours, images, users and virtual machines.

use qvd_core::model::{Properties, VmRuntime};
use qvd_core::{DiId, HostId, OsfId, UserId, VmId};

use crate::db::{Db, transaction};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::sql::{Sql, sql};
use crate::value::params;

/// What properties belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A host.
    Host(HostId),
    /// An operating system flavour.
    Osf(OsfId),
    /// A disk image.
    Di(DiId),
    /// A user.
    User(UserId),
    /// A virtual machine.
    Vm(VmId),
}

/// Properties of a database.
#[derive(Clone, Copy, Debug)]
pub struct PropertyTables<'db> {
    db: &'db Db,
}

impl Db {
    /// Properties.
    pub fn properties(&self) -> PropertyTables<'_> {
        PropertyTables { db: self }
    }
}

/// The statements of one of the five tables.
struct Table {
    load: Sql,
    set: Sql,
    delete: Sql,
    clear: Sql,
}

macro_rules! table {
    ($table:literal, $owner:literal) => {
        Table {
            load: sql!("load properties": "select key, value from " $table " where " $owner " = $1"),
            set: sql!("set a property":
                "insert into " $table " (" $owner ", key, value) values ($1, $2, $3)
                 on conflict (" $owner ", key) do update set value = excluded.value"),
            delete: sql!("delete a property":
                "delete from " $table " where " $owner " = $1 and key = $2 returning key"),
            clear: sql!("delete properties": "delete from " $table " where " $owner " = $1 returning key"),
        }
    };
}

static HOST: Table = table!("host_properties", "host_id");
static OSF: Table = table!("osf_properties", "osf_id");
static DI: Table = table!("di_properties", "di_id");
static USER: Table = table!("user_properties", "user_id");
static VM: Table = table!("vm_properties", "vm_id");

impl Owner {
    fn table(self) -> (&'static Table, i64) {
        match self {
            Self::Host(id) => (&HOST, id.get()),
            Self::Osf(id) => (&OSF, id.get()),
            Self::Di(id) => (&DI, id.get()),
            Self::User(id) => (&USER, id.get()),
            Self::Vm(id) => (&VM, id.get()),
        }
    }

    fn subject(self) -> String {
        match self {
            Self::Host(id) => format!("host {id}"),
            Self::Osf(id) => format!("OSF {id}"),
            Self::Di(id) => format!("DI {id}"),
            Self::User(id) => format!("user {id}"),
            Self::Vm(id) => format!("VM {id}"),
        }
    }
}

impl PropertyTables<'_> {
    /// All properties of an owner; none for one that is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn get(self, owner: Owner) -> Result<Properties> {
        let (table, id) = owner.table();
        let rows = self.db.read(&table.load, params![id]).await?;
        rows.iter().map(|row| Ok((row.get("key")?, row.get("value")?))).collect()
    }

    /// Sets a property, new or not.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] owner; [`Error::Invalid`] for a key or value that is too long.
    pub async fn set(self, owner: Owner, key: &str, value: &str) -> Result<()> {
        let (table, id) = owner.table();
        let written = self.db.write(&table.set, params![id, key, value]).await;
        written.map(drop).map_err(|e| refine(e, owner))
    }

    /// Sets each of these properties on each owner, all or none.
    ///
    /// # Errors
    ///
    /// As [`PropertyTables::set`].
    pub async fn set_all(self, owners: &[Owner], pairs: &Properties) -> Result<()> {
        transaction!(self.db, |tx| {
            for owner in owners {
                let (table, id) = owner.table();
                for (key, value) in pairs {
                    let written = tx.rows(&table.set, params![id, key, value]).await;
                    written.map_err(|e| refine(e, *owner))?;
                }
            }
            Ok(())
        })
    }

    /// Deletes a property.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn delete(self, owner: Owner, key: &str) -> Result<Guard<()>> {
        let (table, id) = owner.table();
        let rows = self.db.write(&table.delete, params![id, key]).await?;
        Ok(if rows.is_empty() { Guard::NotFound } else { Guard::Updated(()) })
    }

    /// Deletes these properties of each owner, all of an owner's when no key is given; tells how many there were.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn delete_all(self, owners: &[Owner], keys: &[String]) -> Result<u64> {
        transaction!(self.db, |tx| {
            let mut deleted = 0;
            for owner in owners {
                let (table, id) = owner.table();
                if keys.is_empty() {
                    deleted += tx.rows(&table.clear, params![id]).await?.len() as u64;
                }
                for key in keys {
                    deleted += tx.rows(&table.delete, params![id, key]).await?.len() as u64;
                }
            }
            Ok(deleted)
        })
    }

    /// What a virtual machine's agent is told: flavour, then the image it runs from, then its owner, then the
    /// machine itself; later wins. What begins with `l7r.` is the router's own, secrets of authenticators among it, and
    /// is told to nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn merged_for_vm(self, runtime: &VmRuntime) -> Result<Properties> {
        const MERGED: Sql = sql!("load the properties of a VM":
            "select 1 as rank, p.key, p.value from osf_properties p join vms v on v.osf_id = p.osf_id where v.id = $1
             union all select 2, key, value from di_properties where di_id = $2
             union all select 3, p.key, p.value from user_properties p join vms v on v.user_id = p.user_id
                       where v.id = $1
             union all select 4, key, value from vm_properties where vm_id = $1
             order by 1");
        let rows = self.db.read(&MERGED, params![runtime.vm_id, runtime.current_di_id]).await?;
        let pairs = rows.iter().map(|row| Ok((row.get::<String>("key")?, row.get("value")?)));
        pairs.filter(|pair| !pair.as_ref().is_ok_and(|(key, _)| key.starts_with("l7r."))).collect()
    }
}

fn refine(error: Error, owner: Owner) -> Error {
    error
        .or_referenced(|| Error::missing(owner.subject()))
        .or_invalid("a property has a key of 1 to 1024 and a value of at most 32768 characters")
}
