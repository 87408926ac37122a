//! The filter language of the 3.5 command line: `KEY=PATTERN{,KEY=PATTERN}`.
//!
//! A comma joins terms by AND. `*` stands for any run of characters, `?` for exactly one; without them a term asks
//! for equality. `\,` `\*` `\?` `\\` take away the special meaning. Matching is case-sensitive and every blank counts.
//!
//! Pure: a filter is parsed against the [`Keys`] of one kind of object and asked about rows in memory.

mod keys;
mod pattern;

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use keys::{
    Column, DI_KEYS, HOST_COUNTER_KEYS, HOST_EXPLANATION_KEYS, HOST_KEYS, Keys, Kind, OSF_KEYS, TOKEN_KEYS,
    USER_KEYS, VM_COUNTER_KEYS, VM_KEYS,
};
use pattern::Pattern;

/// What a row holds under a key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Nothing; no pattern matches it.
    Null,
    /// A text.
    Text(Cow<'a, str>),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// A moment.
    Time(Timestamp),
    /// Several values (the tags of an image): a term is satisfied when one of them satisfies it.
    AnyOf(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    /// A text, or nothing.
    pub fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }

    /// A whole number, or nothing.
    pub fn integer(number: Option<i64>) -> Self {
        number.map_or(Self::Null, Self::Integer)
    }

    /// The text that a pattern sees; none for nothing and for several values.
    fn as_pattern_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Null | Self::AnyOf(_) => None,
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Integer(number) => Some(number.to_string().into()),
            Self::Number(number) => Some(number.to_string().into()),
            Self::Flag(flag) => Some(if *flag { "1" } else { "0" }.into()),
            Self::Time(time) => {
                Some(time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string().into())
            }
        }
    }
}

/// A row that can be filtered.
pub trait Fields {
    /// The keys that its kind of object has.
    fn keys() -> &'static Keys
    where
        Self: Sized;

    /// The value under a canonical key (a [`Column::name`]); [`Value::Null`] for any other.
    fn field(&self, key: &str) -> Value<'_>;

    /// The value of a property.
    fn property(&self, key: &str) -> Option<&str>;
}

/// Why a text is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A term has no `=`.
    #[error("Syntax error: undefined value for key: '{0}'")]
    NoValue(String),
    /// The kind of object has no such key.
    #[error("unknown filter key '{key}' for {object} (valid keys: {valid})")]
    UnknownKey {
        /// The key.
        key: String,
        /// The kind of object.
        object: &'static str,
        /// The keys that it has.
        valid: String,
    },
    /// The value is not of the key's type.
    #[error("invalid value '{value}' for filter key '{key}': {expected} expected")]
    WrongType {
        /// The value.
        value: String,
        /// The key.
        key: String,
        /// The type.
        expected: &'static str,
    },
}

/// Which objects a command is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    subject: Subject,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Subject {
    Column(&'static str),
    Property(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Integer(i64),
    Number(f64),
    Flag(bool),
    Matches(Pattern),
    /// An empty value on a key that is no text: `tag=$unset` must select nothing rather than everything.
    Never,
}

impl Filter {
    /// Every object.
    pub const fn all() -> Self {
        Self { terms: Vec::new() }
    }

    /// Reads a filter. An empty text is [`Filter::all`].
    ///
    /// # Errors
    ///
    /// A term without `=`, an unknown key, a value of the wrong type.
    ///
    /// ```
    /// use qvd_admin::filter::{Filter, VM_KEYS};
    /// assert!(Filter::parse("user=al*,state=running", &VM_KEYS).is_ok());
    /// let e = Filter::parse("id=x", &VM_KEYS).unwrap_err();
    /// assert_eq!(e.to_string(), "invalid value 'x' for filter key 'id': integer expected");
    /// ```
    pub fn parse(text: &str, keys: &Keys) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::all());
        }
        let terms = pattern::split_at_commas(text).into_iter().map(|term| Term::parse(term, keys));
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// Only the object with this id.
    pub fn id(id: i64) -> Self {
        Self { terms: vec![Term { subject: Subject::Column("id"), test: Test::Integer(id) }] }
    }

    /// Whether no condition was given, which is not the same as a condition that every object meets.
    pub fn is_all(&self) -> bool {
        self.terms.is_empty()
    }

    /// Objects that meet both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        self
    }

    /// Whether a term asks for a property, so that rows must bring theirs.
    pub fn asks_for_properties(&self) -> bool {
        self.terms.iter().any(|term| matches!(term.subject, Subject::Property(_)))
    }

    /// Whether the row meets every term.
    pub fn matches(&self, row: &impl Fields) -> bool {
        self.terms.iter().all(|term| match &term.subject {
            Subject::Column(name) => term.test.accepts(&row.field(name)),
            Subject::Property(key) => term.test.accepts(&Value::text(row.property(key))),
        })
    }
}

impl Term {
    fn parse(text: &str, keys: &Keys) -> Result<Self, FilterError> {
        let (key, value) = text.split_once('=').ok_or_else(|| FilterError::NoValue(text.to_owned()))?;
        if let Some(property) = key.strip_prefix("property.") {
            let test = Test::Matches(Pattern::parse(value));
            return Ok(Self { subject: Subject::Property(property.to_owned()), test });
        }
        let column = keys.find(key).ok_or_else(|| FilterError::UnknownKey {
            key: key.to_owned(),
            object: keys.object,
            valid: keys.names().collect::<Vec<_>>().join(", "),
        })?;
        let wrong =
            |expected| FilterError::WrongType { value: value.to_owned(), key: key.to_owned(), expected };
        Ok(Self {
            subject: Subject::Column(column.name),
            test: Test::parse(value, column.kind).map_err(wrong)?,
        })
    }
}

impl Test {
    fn parse(value: &str, kind: Kind) -> Result<Self, &'static str> {
        let pattern = Pattern::parse(value);
        if pattern.has_wildcard() {
            return Ok(Self::Matches(pattern));
        }
        match kind {
            Kind::Text | Kind::Time => Ok(Self::Matches(pattern)),
            Kind::Tag if value.is_empty() => Ok(Self::Never),
            Kind::Tag => Ok(Self::Matches(pattern)),
            Kind::Integer | Kind::Number | Kind::Flag if value.is_empty() => Ok(Self::Never),
            Kind::Integer => value.parse().map(Self::Integer).map_err(|_| "integer"),
            Kind::Number => value.parse().map(Self::Number).map_err(|_| "number"),
            Kind::Flag => boolean(value).map(Self::Flag).ok_or("boolean"),
        }
    }

    fn accepts(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (_, Value::AnyOf(values)) => values.iter().any(|value| self.accepts(value)),
            (Self::Never, _) | (_, Value::Null) => false,
            (Self::Integer(wanted), Value::Integer(number)) => wanted == number,
            (Self::Integer(wanted), Value::Time(time)) => *wanted == time.as_second(),
            (Self::Number(wanted), Value::Number(number)) => wanted == number,
            (Self::Number(wanted), Value::Integer(number)) => *wanted == *number as f64,
            (Self::Flag(wanted), Value::Flag(flag)) => wanted == flag,
            (Self::Matches(pattern), value) => {
                value.as_pattern_text().is_some_and(|text| pattern.matches(&text))
            }
            (Self::Integer(_) | Self::Number(_) | Self::Flag(_), _) => false,
        }
    }
}

/// Whether a name matches a pattern with `*` and `?`.
pub(crate) fn matches_wildcards(pattern: &str, name: &str) -> bool {
    Pattern::parse(pattern).matches(name)
}

/// A truth value in any of the spellings of the 3.5 tools, in any case.
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Some(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
