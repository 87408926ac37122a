//! JSON output. Field names are the filter keys; nothing is `null`, times are RFC 3339.

use serde_json::{Map, Value as Json, json};

use crate::error::Error;
use crate::filter::{Fields, Value};

/// An array of objects, one per line.
pub(super) fn rows<T: Fields>(rows: &[T]) -> String {
    let objects: Vec<String> = rows.iter().map(|row| format!("  {}", object(row))).collect();
    if objects.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", objects.join(",\n")) }
}

/// `{"error":{"code":…,"message":…,"field":…}}`.
pub(super) fn error(error: &Error) -> String {
    let message = super::session::sentence(error);
    json!({"error": {"code": error.code(), "message": message, "field": error.field()}}).to_string()
}

fn object<T: Fields>(row: &T) -> Json {
    let fields =
        T::keys().columns.iter().map(|column| (column.name.to_owned(), value(&row.field(column.name))));
    Json::Object(fields.collect::<Map<_, _>>())
}

fn value(value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Text(text) => json!(text),
        Value::Integer(number) => json!(number),
        Value::Number(number) => json!(number),
        Value::Flag(flag) => json!(flag),
        Value::Time(time) => json!(time.to_string()),
        Value::AnyOf(values) => Json::Array(values.iter().map(self::value).collect()),
    }
}
