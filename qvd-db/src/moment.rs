//! Times as the two databases keep them: `timestamptz` there, microseconds since the epoch here.

use std::time::{Duration, SystemTime};

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef, Postgres};
use sqlx::{Decode, Encode, Type};

/// A time on its way to or from PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) SystemTime);

/// Microseconds since 1970; times out of range become the nearest that can be told.
pub(crate) fn to_micros(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => span_micros(after),
        Err(before) => -span_micros(before.duration()),
    }
}

/// The time that lies so many microseconds after 1970 (before it when negative).
pub(crate) fn from_micros(micros: i64) -> SystemTime {
    let span = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { SystemTime::UNIX_EPOCH - span } else { SystemTime::UNIX_EPOCH + span }
}

/// A length of time in microseconds, at most the largest integer.
pub(crate) fn span_micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Object id of `timestamptz`, the same in every PostgreSQL.
const TIMESTAMPTZ: Oid = Oid(1184);

/// Microseconds from 1970 to 2000, where PostgreSQL begins to count.
const POSTGRES_EPOCH: i64 = 946_684_800 * 1_000_000;

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend(&to_micros(self.0).saturating_sub(POSTGRES_EPOCH).to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Moment {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        Ok(Self(from_micros(i64::from_be_bytes(bytes).saturating_add(POSTGRES_EPOCH))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_go_there_and_back() {
        for micros in [0, 1, -1, 1_700_000_000_123_456, -5_000_000] {
            assert_eq!(to_micros(from_micros(micros)), micros);
        }
        assert_eq!(span_micros(Duration::MAX), i64::MAX);
    }
}
