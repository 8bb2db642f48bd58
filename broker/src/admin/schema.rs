//! Schemas of the API: values with their JSON form, their parser and their description in the
//! OpenAPI document.
//!
//! A structure is declared once, with [`object`]; so its fields, its JSON and its schema cannot
//! differ.

use std::sync::Arc;

use serde_json::{Map, Value, json};

/// A value of the API with JSON form and schema.
pub(super) trait Schema: Sized {
    /// Returns its JSON Schema for the OpenAPI document.
    fn schema() -> Value;

    /// Returns its JSON form.
    fn json(self) -> Value;

    /// Parses its JSON form; the error says what was expected.
    fn read(value: &Value) -> Result<Self, String>;

    /// Returns the value of a field that is missing, if it may be.
    fn missing() -> Option<Self> {
        None
    }
}

macro_rules! plain {
    ($($t:ty: $schema:expr, $expected:literal, $read:expr;)+) => { $(impl Schema for $t {
        fn schema() -> Value {
            $schema
        }
        fn json(self) -> Value {
            json!(self)
        }
        fn read(value: &Value) -> Result<Self, String> {
            let read: fn(&Value) -> Option<Self> = $read;
            read(value).ok_or_else(|| $expected.to_owned())
        }
    })+ };
}

plain! {
    bool: json!({ "type": "boolean" }), "true or false", Value::as_bool;
    u64: json!({ "type": "integer", "minimum": 0 }), "a number from 0 on", Value::as_u64;
    f64: json!({ "type": "number" }), "a number", Value::as_f64;
    String: json!({ "type": "string" }), "a text", |value| value.as_str().map(str::to_owned);
}

impl Schema for Arc<str> {
    fn schema() -> Value {
        String::schema()
    }
    fn json(self) -> Value {
        Value::from(&*self)
    }
    fn read(value: &Value) -> Result<Self, String> {
        String::read(value).map(Arc::from)
    }
}

impl<T: Schema> Schema for Option<T> {
    fn schema() -> Value {
        let mut schema = T::schema();
        if let Some(kind) = schema.get_mut("type") {
            *kind = json!([kind.take(), "null"]);
        }
        schema
    }
    fn json(self) -> Value {
        self.map_or(Value::Null, T::json)
    }
    fn read(value: &Value) -> Result<Self, String> {
        if value.is_null() { Ok(None) } else { T::read(value).map(Some) }
    }
    fn missing() -> Option<Self> {
        Some(None)
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
    fn json(self) -> Value {
        self.into_iter().map(T::json).collect()
    }
    fn read(value: &Value) -> Result<Self, String> {
        value.as_array().ok_or("a list")?.iter().map(T::read).collect()
    }
}

/// One page of a list.
pub(super) struct ListPage<T> {
    /// Items of the page.
    pub items: Vec<T>,
    /// Value for `cursor` to get the next page; none: this is the last.
    pub next: Option<String>,
}

impl<T: Schema> Schema for ListPage<T> {
    fn schema() -> Value {
        let next = "Value for `cursor` to get the next page; null: this is the last page.";
        json!({
            "type": "object",
            "properties": {
                "items": Vec::<T>::schema(),
                "next": { "type": ["string", "null"], "description": next },
            },
            "required": ["items", "next"],
        })
    }
    fn json(self) -> Value {
        json!({ "items": self.items.json(), "next": self.next })
    }
    fn read(_: &Value) -> Result<Self, String> {
        Err("nothing: a page is not sent here".to_owned())
    }
}

/// Adds a description to the schema of a field.
pub(super) fn described(mut schema: Value, doc: &str) -> Value {
    schema["description"] = doc.trim().into();
    schema
}

/// Takes a field out of a parsed object.
pub(super) fn field<T: Schema>(from: &mut Map<String, Value>, name: &str) -> Result<T, String> {
    match from.remove(name) {
        Some(value) => T::read(&value).map_err(|expected| format!("{name}: expected {expected}")),
        None => T::missing().ok_or_else(|| format!("{name} is missing")),
    }
}

/// Returns an error for fields that are not known.
pub(super) fn no_more(left: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    left.keys()
        .next()
        .map_or(Ok(()), |name| Err(format!("{name} is not known; there is {}", known.join(", "))))
}

/// Declares a structure of the API.
macro_rules! object {
    ($(#[doc = $object_doc:literal])+ $Name:ident { $($(#[doc = $doc:literal])+ $name:ident: $t:ty,)+ }) => {
        $(#[doc = $object_doc])+
        pub(super) struct $Name { $($(#[doc = $doc])+ pub $name: $t,)+ }

        impl $crate::admin::schema::Schema for $Name {
            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                let mut required: Vec<&str> = Vec::new();
                $(
                    let schema = <$t as $crate::admin::schema::Schema>::schema();
                    let doc = concat!($($doc),+);
                    properties.insert(stringify!($name).to_owned(), $crate::admin::schema::described(schema, doc));
                    if <$t as $crate::admin::schema::Schema>::missing().is_none() {
                        required.push(stringify!($name));
                    }
                )+
                serde_json::json!({
                    "type": "object",
                    "title": stringify!($Name),
                    "description": concat!($($object_doc),+).trim(),
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                })
            }
            fn json(self) -> serde_json::Value {
                let mut object = serde_json::Map::new();
                $(object.insert(
                    stringify!($name).to_owned(),
                    <$t as $crate::admin::schema::Schema>::json(self.$name),
                );)+
                object.into()
            }
            fn read(value: &serde_json::Value) -> Result<Self, String> {
                let mut from = value.as_object().cloned().ok_or("an object")?;
                let read = Self { $($name: $crate::admin::schema::field(&mut from, stringify!($name))?,)+ };
                $crate::admin::schema::no_more(&from, &[$(stringify!($name)),+])?;
                Ok(read)
            }
        }
    };
}
pub(super) use object;
