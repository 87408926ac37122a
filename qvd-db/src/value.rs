//! Parameters of statements: every kind of value that a column holds, with its typed null.

use std::time::{Duration, SystemTime};

use qvd_core::state::{HostCommand, HostState, UserCommand, UserState, VmCommand, VmPhase, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{DiId, HostId, OsfId, RunId, SessionId, TenantId, UserId, VmId};
use uuid::Uuid;

/// A parameter. A null keeps its type: PostgreSQL wants to know it.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Integer(Option<i64>),
    Real(Option<f64>),
    Boolean(Option<bool>),
    Text(Option<String>),
    Uuid(Option<Uuid>),
    Time(Option<SystemTime>),
    /// A length of time, to be added to a time.
    Span(Duration),
}

/// What can be a parameter.
pub(crate) trait Parameter {
    /// The parameter of a missing value.
    const NULL: Value;
    /// The parameter of this one.
    fn into_value(self) -> Value;
}

/// A list of parameters: `params![vm_id, "text", None::<i64>]`.
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::value::Parameter::into_value($value)),*] };
}
pub(crate) use params;

impl<T: Parameter> Parameter for Option<T> {
    const NULL: Value = T::NULL;

    fn into_value(self) -> Value {
        self.map_or(Self::NULL, T::into_value)
    }
}

macro_rules! parameters {
    ($($kind:ident: $($type:ty => |$name:ident| $into:expr),+;)*) => {$($(
        impl Parameter for $type {
            const NULL: Value = Value::$kind(None);

            fn into_value(self) -> Value {
                let $name = self;
                Value::$kind(Some($into))
            }
        }
    )+)*};
}

parameters! {
    Integer:
        i64 => |n| n,
        u32 => |n| i64::from(n),
        u16 => |n| i64::from(n),
        // A size beyond 2^63 does not exist; the largest integer stands for it.
        u64 => |n| i64::try_from(n).unwrap_or(i64::MAX),
        Mebibytes => |n| i64::try_from(n.0).unwrap_or(i64::MAX),
        TenantId => |id| id.get(),
        UserId => |id| id.get(),
        VmId => |id| id.get(),
        HostId => |id| id.get(),
        OsfId => |id| id.get(),
        DiId => |id| id.get(),
        RunId => |id| id.get();
    Real:
        f64 => |n| n;
    Boolean:
        bool => |b| b;
    Text:
        String => |s| s,
        &str => |s| s.to_owned(),
        &String => |s| s.clone(),
        VmState => |s| s.as_str().to_owned(),
        VmPhase => |s| s.as_str().to_owned(),
        VmCommand => |s| s.as_str().to_owned(),
        UserState => |s| s.as_str().to_owned(),
        UserCommand => |s| s.as_str().to_owned(),
        HostState => |s| s.as_str().to_owned(),
        HostCommand => |s| s.as_str().to_owned();
    Uuid:
        Uuid => |u| u,
        SessionId => |id| Uuid::from_u128(id.as_u128());
    Time:
        SystemTime => |t| t;
}

impl Parameter for Duration {
    // A span is never null: the zero span adds nothing.
    const NULL: Value = Value::Span(Duration::ZERO);

    fn into_value(self) -> Value {
        Value::Span(self)
    }
}
