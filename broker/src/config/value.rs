//! Values of keys: from a TOML value or the text of an environment variable, with units.

/// A value as it was given, without a type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    Integer(i64),
    Boolean(bool),
    Text(String),
    List(Vec<String>),
    Other(&'static str),
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Given::Integer(n) => n.fmt(f),
            Given::Boolean(b) => b.fmt(f),
            Given::Text(text) => write!(f, "\"{text}\""),
            Given::List(list) => write!(f, "{list:?}"),
            Given::Other(kind) => f.write_str(kind),
        }
    }
}

/// Unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    Seconds,
    Bytes,
}

impl Unit {
    /// Unit by the name of the key: `…_s` and `…_bytes…`.
    pub(super) fn of(name: &str) -> Unit {
        if name.ends_with("_s") && !name.ends_with("_per_s") && !name.ends_with("per_address_per_s") {
            Unit::Seconds
        } else if name.contains("bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        }
    }

    fn factor(self, suffix: &str) -> Option<u64> {
        let factor = match (self, suffix) {
            (_, "") => 1,
            (Unit::Seconds, "s") => 1,
            (Unit::Seconds, "m" | "min") => 60,
            (Unit::Seconds, "h") => 3_600,
            (Unit::Seconds, "d") => 86_400,
            (Unit::Bytes, "B") => 1,
            (Unit::Bytes, "kB" | "KB") => 1_000,
            (Unit::Bytes, "KiB" | "K" | "k") => 1 << 10,
            (Unit::Bytes, "MB") => 1_000_000,
            (Unit::Bytes, "MiB" | "M") => 1 << 20,
            (Unit::Bytes, "GB") => 1_000_000_000,
            (Unit::Bytes, "GiB" | "G") => 1 << 30,
            _ => return None,
        };
        Some(factor)
    }

    fn example(self) -> &'static str {
        match self {
            Unit::Count => "a number",
            Unit::Seconds => "seconds, or a time like \"30s\", \"10m\", \"2h\", \"7d\"",
            Unit::Bytes => "bytes, or a size like \"64KiB\", \"16MiB\", \"1GiB\"",
        }
    }
}

/// Parses a number with or without a unit; the error says what is expected.
pub(super) fn number(given: &Given, unit: Unit) -> Result<u64, String> {
    let parsed = match given {
        Given::Integer(n) => u64::try_from(*n).ok(),
        Given::Text(text) => {
            let text = text.trim();
            let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
            let (number, suffix) = text.split_at(digits);
            let number: Option<u64> = number.replace('_', "").parse().ok();
            number.zip(unit.factor(suffix.trim())).and_then(|(number, factor)| number.checked_mul(factor))
        }
        _ => None,
    };
    parsed.ok_or_else(|| unit.example().to_owned())
}

pub(super) fn boolean(given: &Given) -> Result<bool, String> {
    match given {
        Given::Boolean(b) => Ok(*b),
        Given::Text(text) if text == "true" => Ok(true),
        Given::Text(text) if text == "false" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

pub(super) fn text(given: &Given) -> Result<String, String> {
    match given {
        Given::Text(text) => Ok(text.clone()),
        _ => Err("a text".to_owned()),
    }
}

pub(super) fn list(given: &Given) -> Result<Vec<String>, String> {
    match given {
        Given::List(list) => Ok(list.clone()),
        Given::Text(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
        _ => Err("a list of texts".to_owned()),
    }
}

/// Parses one of several words.
pub(super) fn choice<T: Copy>(given: &Given, all: &[(&str, T)]) -> Result<T, String> {
    let words = || all.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
    match given {
        Given::Text(text) => {
            all.iter().find(|(word, _)| word == text).map(|(_, value)| *value).ok_or_else(words)
        }
        _ => Err(words()),
    }
}
