//! A row of either database, read by column name.

use std::str::FromStr;
use std::time::SystemTime;

use qvd_core::SessionId;
use qvd_core::state::UnknownValue;
use qvd_core::units::Mebibytes;
use sqlx::Row as _;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::moment::{Moment, from_micros};

/// A row and the operation that loaded it.
#[derive(Debug)]
pub(crate) struct Row {
    operation: &'static str,
    columns: Columns,
}

#[derive(Debug)]
enum Columns {
    Postgres(sqlx::postgres::PgRow),
    Sqlite(sqlx::sqlite::SqliteRow),
}

impl Row {
    pub(crate) fn postgres(operation: &'static str, row: sqlx::postgres::PgRow) -> Self {
        Self { operation, columns: Columns::Postgres(row) }
    }

    pub(crate) fn sqlite(operation: &'static str, row: sqlx::sqlite::SqliteRow) -> Self {
        Self { operation, columns: Columns::Sqlite(row) }
    }

    /// A column that is never null.
    pub(crate) fn get<T: Column>(&self, name: &'static str) -> Result<T> {
        self.find(name)?.ok_or_else(|| {
            self.broken(sqlx::Error::ColumnDecode { index: name.to_owned(), source: "is null".into() })
        })
    }

    /// A column that may be null.
    pub(crate) fn find<T: Column>(&self, name: &'static str) -> Result<Option<T>> {
        let raw = match &self.columns {
            Columns::Postgres(row) => T::Raw::postgres(row, name),
            Columns::Sqlite(row) => T::Raw::sqlite(row, name),
        };
        let raw = raw.map_err(|e| self.broken(e))?;
        raw.map(T::read)
            .transpose()
            .map_err(|source| self.broken(sqlx::Error::ColumnDecode { index: name.to_owned(), source }))
    }

    fn broken(&self, source: sqlx::Error) -> Error {
        Error::Broken { operation: self.operation, source }
    }
}

/// What a column holds, and how it is made of what the driver yields.
pub(crate) trait Column: Sized {
    type Raw: Raw;
    fn read(raw: Self::Raw) -> Result<Self, sqlx::error::BoxDynError>;
}

/// What a driver yields.
pub(crate) trait Raw: Sized {
    fn postgres(row: &sqlx::postgres::PgRow, name: &str) -> sqlx::Result<Option<Self>>;
    fn sqlite(row: &sqlx::sqlite::SqliteRow, name: &str) -> sqlx::Result<Option<Self>>;
}

macro_rules! raw {
    ($($type:ty),*) => {$(
        impl Raw for $type {
            fn postgres(row: &sqlx::postgres::PgRow, name: &str) -> sqlx::Result<Option<Self>> {
                row.try_get(name)
            }
            fn sqlite(row: &sqlx::sqlite::SqliteRow, name: &str) -> sqlx::Result<Option<Self>> {
                row.try_get(name)
            }
        }
        impl Column for $type {
            type Raw = $type;
            fn read(raw: $type) -> Result<Self, sqlx::error::BoxDynError> {
                Ok(raw)
            }
        }
    )*};
}
raw!(i64, f64, bool, String, Vec<u8>);

impl Raw for Uuid {
    fn postgres(row: &sqlx::postgres::PgRow, name: &str) -> sqlx::Result<Option<Self>> {
        row.try_get(name)
    }

    fn sqlite(row: &sqlx::sqlite::SqliteRow, name: &str) -> sqlx::Result<Option<Self>> {
        Ok(row.try_get::<Option<uuid::fmt::Hyphenated>, _>(name)?.map(uuid::fmt::Hyphenated::into_uuid))
    }
}

impl Raw for SystemTime {
    fn postgres(row: &sqlx::postgres::PgRow, name: &str) -> sqlx::Result<Option<Self>> {
        Ok(row.try_get::<Option<Moment>, _>(name)?.map(|moment| moment.0))
    }

    fn sqlite(row: &sqlx::sqlite::SqliteRow, name: &str) -> sqlx::Result<Option<Self>> {
        Ok(row.try_get::<Option<i64>, _>(name)?.map(from_micros))
    }
}

macro_rules! columns {
    ($($type:ty: $raw:ty => |$name:ident| $read:expr;)*) => {$(
        impl Column for $type {
            type Raw = $raw;
            fn read($name: $raw) -> Result<Self, sqlx::error::BoxDynError> {
                $read
            }
        }
    )*};
}

columns! {
    Uuid: Uuid => |u| Ok(u);
    SystemTime: SystemTime => |t| Ok(t);
    SessionId: Uuid => |u| Ok(SessionId::from_u128(u.as_u128()));
    u16: i64 => |n| Ok(n.try_into()?);
    u32: i64 => |n| Ok(n.try_into()?);
    u64: i64 => |n| Ok(n.try_into()?);
    Mebibytes: i64 => |n| Ok(Mebibytes(n.try_into()?));
    qvd_core::TenantId: i64 => |n| Ok(Self::new(n));
    qvd_core::UserId: i64 => |n| Ok(Self::new(n));
    qvd_core::VmId: i64 => |n| Ok(Self::new(n));
    qvd_core::HostId: i64 => |n| Ok(Self::new(n));
    qvd_core::OsfId: i64 => |n| Ok(Self::new(n));
    qvd_core::DiId: i64 => |n| Ok(Self::new(n));
    qvd_core::RunId: i64 => |n| Ok(Self::new(n));
    qvd_core::state::VmState: String => |s| parse(&s);
    qvd_core::state::VmPhase: String => |s| parse(&s);
    qvd_core::state::VmCommand: String => |s| parse(&s);
    qvd_core::state::UserState: String => |s| parse(&s);
    qvd_core::state::UserCommand: String => |s| parse(&s);
    qvd_core::state::HostState: String => |s| parse(&s);
    qvd_core::state::HostCommand: String => |s| parse(&s);
}

fn parse<T: FromStr<Err = UnknownValue>>(text: &str) -> Result<T, sqlx::error::BoxDynError> {
    Ok(text.parse()?)
}
