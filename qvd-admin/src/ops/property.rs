//! Properties of objects, and selection of objects by them.

use qvd_core::model::Properties;
use qvd_db::Owner;

use super::Admin;
use super::rows::Found;
use crate::error::{Error, Result};
use crate::filter::{Fields, Filter};

/// A row of something that has properties.
pub trait Owned: Fields {
    /// Whose properties they are, to the database.
    fn owner(&self) -> Owner;

    /// What it is called where its properties are listed.
    fn label(&self) -> &str;
}

/// Longest key of a property, in characters.
const LONGEST_KEY: usize = 1024;
/// Longest value of a property, in characters.
const LONGEST_VALUE: usize = 32768;

impl Admin {
    /// The rows that a filter selects, in their order. Properties are loaded only when the filter asks for one.
    pub(super) async fn select<T: Owned>(&self, rows: Vec<T>, filter: &Filter) -> Result<Vec<Found<T>>> {
        let mut selected = Vec::new();
        for row in rows {
            let properties = match filter.asks_for_properties() {
                true => self.properties(row.owner()).await?,
                false => Properties::new(),
            };
            let found = Found { row, properties };
            if filter.matches(&found) {
                selected.push(found);
            }
        }
        Ok(selected)
    }

    /// The properties of one object.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn properties(&self, owner: Owner) -> Result<Properties> {
        Ok(self.db.properties().get(owner).await?)
    }

    /// Sets each property on each object.
    ///
    /// # Errors
    ///
    /// A key or value that is too long; then nothing is set.
    pub async fn set_properties(&self, owners: &[Owner], pairs: &Properties) -> Result<()> {
        for (key, value) in pairs {
            if key.is_empty() || key.chars().count() > LONGEST_KEY {
                let message = format!("property keys have 1 to {LONGEST_KEY} characters");
                return Err(Error::Invalid { field: None, message });
            }
            if value.chars().count() > LONGEST_VALUE {
                let message =
                    format!("the value of property '{key}' is longer than {LONGEST_VALUE} characters");
                return Err(Error::Invalid { field: None, message });
            }
        }
        Ok(self.db.properties().set_all(owners, pairs).await?)
    }

    /// Deletes these properties of each object; all of them when no key is given.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn delete_properties(&self, owners: &[Owner], keys: &[String]) -> Result<()> {
        // Gone already is as good as deleted.
        self.db.properties().delete_all(owners, keys).await?;
        Ok(())
    }
}
