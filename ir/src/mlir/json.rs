//! JSON values as MLIR attributes, so that the run specification in a dump can be read and edited.
//!
//! null ↔ `unit`, numbers ↔ `1 : i64`, `18446744073709551615 : ui64` or `1.0 : f64`, objects ↔ dictionaries. An object
//! with an empty key, which MLIR does not have, makes the whole value a string of JSON text: the reader takes both.

use super::ffi::{Attr, Cx};
use serde_json::{Map, Number, Value};

/// `value` as an attribute.
pub(super) fn to_attribute<'c>(cx: Cx<'c>, value: &Value) -> Attr<'c> {
    convert(cx, value).unwrap_or_else(|| cx.dict(&[cx.named(TEXT, cx.text(&value.to_string()))]))
}

/// Key of the only entry of a dictionary that holds JSON text.
const TEXT: &str = "json";

fn convert<'c>(cx: Cx<'c>, value: &Value) -> Option<Attr<'c>> {
    Some(match value {
        Value::Null => cx.unit(),
        Value::Bool(b) => cx.bool(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => cx.int(i),
            (_, Some(u)) => cx.unsigned(u),
            _ => cx.float(n.as_f64()?),
        },
        Value::String(s) => cx.text(s),
        Value::Array(items) => cx.array(&items.iter().map(|i| convert(cx, i)).collect::<Option<Vec<_>>>()?),
        Value::Object(map) => {
            if map.contains_key("") || (map.len() == 1 && map.contains_key(TEXT)) {
                return None;
            }
            let entry = |(key, value): (&String, &Value)| Some(cx.named(key, convert(cx, value)?));
            cx.dict(&map.iter().map(entry).collect::<Option<Vec<_>>>()?)
        }
    })
}

/// The JSON value that `attribute` stands for; the error says what cannot be one.
pub(super) fn from_attribute<'c>(cx: Cx<'c>, attribute: Attr<'c>) -> Result<Value, String> {
    if let Some(text) = attribute.as_text() {
        return Ok(Value::String(text.to_owned()));
    }
    if let Some(b) = attribute.as_bool() {
        return Ok(Value::Bool(b));
    }
    if let Some(i) = attribute.as_int(cx) {
        return Ok(i.into());
    }
    if let Some(u) = attribute.as_unsigned(cx) {
        return Ok(u.into());
    }
    if let Some(f) = attribute.as_float(cx) {
        return Number::from_f64(f).map(Value::Number).ok_or_else(|| format!("{f} is not a finite number"));
    }
    if attribute.is_unit() {
        return Ok(Value::Null);
    }
    if let Some(items) = attribute.as_array() {
        return items.into_iter().map(|i| from_attribute(cx, i)).collect::<Result<Vec<_>, _>>().map(Value::Array);
    }
    if let Some(entries) = attribute.as_dict() {
        if let [(TEXT, text)] = entries[..]
            && let Some(text) = text.as_text()
        {
            return serde_json::from_str(text).map_err(|e| e.to_string());
        }
        let pair = |(key, value): (&str, _)| Ok((key.to_owned(), from_attribute(cx, value)?));
        return entries.into_iter().map(pair).collect::<Result<Map<_, _>, String>>().map(Value::Object);
    }
    Err("an attribute is neither a string, i64, ui64, f64, bool, unit, array nor dictionary".into())
}
