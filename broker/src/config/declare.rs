//! Parts of a key's declaration: its type, its range, and how it is parsed, shown and set.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::value::{self, Given, Unit};
use crate::config::Secret;

/// Declaration of a key; `T` is the section or listener that holds it.
pub struct ConfigKey<T> {
    /// Section of the key.
    pub section: &'static str,
    /// Name of the key.
    pub name: &'static str,
    /// Documentation of the key.
    pub doc: &'static str,
    /// Default value, as text.
    pub default: fn() -> String,
    /// Allowed values, as text.
    pub range: &'static str,
    /// Time at which a change takes effect.
    pub reload: Reload,
    /// Sets the key; the error says which values are expected.
    pub(super) set: fn(&mut T, &Given) -> Result<(), String>,
    /// Value in TOML; [`NONE`] when the key is not set.
    pub(super) show: fn(&T) -> String,
    /// Copies the value of another.
    pub(super) copy: fn(&mut T, &T),
}

/// Text for a key that is not set.
pub(super) const NONE: &str = "none";

/// Time at which a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// As soon as the configuration is reloaded.
    Now,
    /// For new connections: existing clients were told the old value.
    Connect,
    /// At the next start.
    Restart,
}

impl Reload {
    /// Text for the reference.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Reload::Now => "at once",
            Reload::Connect => "new connections",
            Reload::Restart => "restart",
        }
    }
}

/// A type that a key can have.
pub(super) trait Parse: Sized {
    fn parse(given: &Given, name: &str, range: RangeInclusive<u64>) -> Result<Self, String>;
    fn show(&self) -> String;
}

/// Range of keys that are not numbers.
pub(super) const ANY: RangeInclusive<u64> = 0..=u64::MAX;

macro_rules! parse_numbers {
    ($($t:ty),+) => { $(impl Parse for $t {
        fn parse(given: &Given, name: &str, range: RangeInclusive<u64>) -> Result<Self, String> {
            let number = value::number(given, Unit::of(name))?;
            if !range.contains(&number) {
                return Err(format!("{} to {}", range.start(), range.end()));
            }
            <$t>::try_from(number).map_err(|_| format!("at most {}", <$t>::MAX))
        }
        fn show(&self) -> String {
            self.to_string()
        }
    })+ };
}

parse_numbers!(u8, u16, u32, u64);

impl Parse for bool {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        value::boolean(given)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Parse for String {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        value::text(given)
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

impl Parse for PathBuf {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        value::text(given).map(PathBuf::from)
    }
    fn show(&self) -> String {
        quoted(&self.display().to_string())
    }
}

impl Parse for Secret {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        value::text(given).map(|text| Secret::new(text.as_bytes()))
    }
    /// For a file; [`print`](super::print) hides it in output for people.
    fn show(&self) -> String {
        quoted(&String::from_utf8_lossy(self.reveal()))
    }
}

impl<T: Parse> Parse for Option<T> {
    fn parse(given: &Given, name: &str, range: RangeInclusive<u64>) -> Result<Self, String> {
        match given {
            Given::Text(text) if text.is_empty() => Ok(None),
            given => T::parse(given, name, range).map(Some),
        }
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| NONE.to_owned(), T::show)
    }
}

impl Parse for Vec<String> {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        value::list(given).map(|mut list| {
            list.retain(|item| !item.is_empty());
            list
        })
    }
    fn show(&self) -> String {
        listed(self)
    }
}

/// Quotes a string for TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Formats a list of strings for TOML.
pub(super) fn listed(texts: &[impl AsRef<str>]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

/// Declares the words of an enum.
macro_rules! words {
    ($name:ident { $($variant:ident = $text:literal,)+ }) => {
        impl Parse for $name {
            fn parse(given: &Given, _: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
                $crate::config::value::choice(given, &[$(($text, $name::$variant)),+])
            }
            fn show(&self) -> String {
                match self { $($name::$variant => concat!("\"", $text, "\"").to_owned(),)+ }
            }
        }
    };
}
pub(super) use words;

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        $crate::config::declare::words! { $name { $($variant = $text,)+ } }
    };
}
pub(super) use choices;

/// Reload behavior of a declaration; the default is at once.
macro_rules! reload {
    () => {
        $crate::config::declare::Reload::Now
    };
    ($reload:ident) => {
        $crate::config::declare::Reload::$reload
    };
}
pub(super) use reload;

/// Declares one key, in `$target.$($field).+`.
macro_rules! key {
    ($Target:ty, $section:expr, [$($field:ident).+], $name:ident: $t:ty = $default:expr, $range:expr, [$($reload:ident)?], $doc:expr) => {
        $crate::config::declare::ConfigKey::<$Target> {
            section: $section,
            name: stringify!($name),
            doc: $doc,
            default: || { let default: $t = $default; default.show() },
            range: stringify!($range),
            reload: $crate::config::declare::reload!($($reload)?),
            set: |target, given| {
                target.$($field).+ = <$t as Parse>::parse(given, stringify!($name), $range)?;
                Ok(())
            },
            show: |target| target.$($field).+.show(),
            copy: |target, from| target.$($field).+ = from.$($field).+.clone(),
        }
    };
}
pub(super) use key;
