//! Requests to a route: their operator, path and parameters.

use std::net::SocketAddr;

use serde_json::Value;

use super::Admin;
use super::response::ApiError;
use super::schema::Schema;
use crate::auth::audit;

/// The operator behind a request, for the audit log.
#[derive(Clone, Debug)]
pub(super) enum Operator {
    /// A process at the Unix socket.
    Socket { user_id: u32, process_id: Option<i32> },
    /// A client with the token.
    Token(SocketAddr),
}

impl std::fmt::Display for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Operator::Socket { user_id, process_id: Some(process) } => {
                write!(f, "user id {user_id} (process {process})")
            }
            Operator::Socket { user_id, process_id: None } => write!(f, "user id {user_id}"),
            Operator::Token(from) => write!(f, "token from {from}"),
        }
    }
}

/// A parameter of a query.
#[derive(Clone, Copy)]
pub(super) struct Parameter {
    pub name: &'static str,
    pub kind: ParameterKind,
    pub required: bool,
    pub doc: &'static str,
}

/// Values that a parameter may have.
#[derive(Clone, Copy)]
pub(super) enum ParameterKind {
    Text,
    /// A number between the two, inclusive.
    Number(u64, u64),
    Choice(&'static [&'static str]),
}

impl Parameter {
    pub const fn text(name: &'static str, doc: &'static str) -> Parameter {
        Parameter { name, kind: ParameterKind::Text, required: false, doc }
    }

    pub const fn choice(name: &'static str, words: &'static [&'static str], doc: &'static str) -> Parameter {
        Parameter { name, kind: ParameterKind::Choice(words), required: false, doc }
    }

    pub const fn required(self) -> Parameter {
        Parameter { required: true, ..self }
    }

    fn check(&self, value: &str) -> Result<(), ApiError> {
        let wrong = |expected: String| {
            Err(ApiError::bad(
                format!("{} = {value:?} is not allowed", self.name),
                format!("give {expected}"),
            ))
        };
        match self.kind {
            ParameterKind::Text => Ok(()),
            ParameterKind::Number(least, most) => match value.parse::<u64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(()),
                _ => wrong(format!("a number from {least} to {most}")),
            },
            ParameterKind::Choice(words) if words.contains(&value) => Ok(()),
            ParameterKind::Choice(words) => wrong(words.join(" or ")),
        }
    }
}

/// Items on a page where the query has no limit.
const LIMIT_DEFAULT: usize = 100;
/// Items on the longest page.
pub(super) const LIMIT_MAX: u64 = 1_000;
/// The parameters of every list.
pub(super) const LIMIT: Parameter = Parameter {
    name: "limit",
    kind: ParameterKind::Number(1, LIMIT_MAX),
    required: false,
    doc: "The most items of a page; 100 by default.",
};
pub(super) const CURSOR: Parameter = Parameter::text(
    "cursor",
    "Position behind which the page begins: `next` of the previous page. A page may hold fewer items than `limit`, or none, and not be the last.",
);

/// A request to a route of the API.
pub(super) struct ApiRequest {
    pub admin: Admin,
    pub who: Operator,
    /// Parts of the path in place of the route's {…}, in order.
    pub path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl ApiRequest {
    pub fn new(
        admin: Admin,
        who: Operator,
        path: Vec<String>,
        query: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> ApiRequest {
        ApiRequest { admin, who, path, query, body }
    }

    /// Writes a line into the audit log: the action with its subject.
    pub fn audit(&self, action: &str) {
        audit::operator(&self.who, action);
    }

    /// Returns the first variable part of the path.
    pub fn name(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }

    /// Returns a parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the number of items on a page.
    pub fn limit(&self) -> usize {
        self.text(LIMIT.name).and_then(|value| value.parse().ok()).unwrap_or(LIMIT_DEFAULT)
    }

    /// Returns the position behind which the page begins.
    pub fn cursor(&self) -> Option<&str> {
        self.text(CURSOR.name)
    }

    /// Parses the body.
    ///
    /// # Errors
    /// Returns the mistake in it.
    pub fn read<T: Schema>(&self) -> Result<T, ApiError> {
        let remedy = "GET /api/v1/openapi.json describes it";
        let value: Value = serde_json::from_slice(&self.body)
            .map_err(|error| ApiError::bad(format!("the body is not JSON: {error}"), remedy))?;
        T::read(&value).map_err(|error| ApiError::bad(format!("the body: {error}"), remedy))
    }
}

/// Parses the parameters of a query that the route knows.
///
/// # Errors
/// Returns the mistake in one.
pub(super) fn query(
    text: &str,
    known: &'static [Parameter],
) -> Result<Vec<(&'static str, String)>, ApiError> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
            let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
            let remedy = match names.is_empty() {
                true => "there is none here".to_owned(),
                false => format!("there is {}", names.join(", ")),
            };
            return Err(ApiError::bad(format!("the parameter {name:?} is not known"), remedy));
        };
        if found.iter().any(|(known, _)| *known == parameter.name) {
            return Err(ApiError::bad(format!("{} is given twice", parameter.name), "give it once"));
        }
        parameter.check(&value)?;
        found.push((parameter.name, value));
    }
    for parameter in known.iter().filter(|parameter| parameter.required) {
        if !found.iter().any(|(name, _)| *name == parameter.name) {
            return Err(ApiError::bad(
                format!("{} is missing", parameter.name),
                format!("give it: {}", parameter.doc),
            ));
        }
    }
    Ok(found)
}

/// Decodes a part of a path or query. A `+` is refused: it is a space to some programs, itself to
/// others, and a wildcard of MQTT.
///
/// # Errors
/// Returns the part that is ambiguous or malformed.
pub(super) fn decode(text: &str) -> Result<String, ApiError> {
    if text.contains('+') {
        return Err(ApiError::bad(
            "a '+' in a URL may mean a space or itself",
            "write %20 for a space, and %2B for a +",
        ));
    }
    let wrong = || ApiError::bad(format!("{text:?} is not URL-encoded"), "write %25 for a %, and UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = behind;
            continue;
        }
        let (hex, behind) = behind.split_at_checked(2).ok_or_else(wrong)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = match *hex {
            [high, low] => digit(high).zip(digit(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        bytes.push(byte.and_then(|byte| u8::try_from(byte).ok()).ok_or_else(wrong)?);
        rest = behind;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_url_is_decoded_or_refused() {
        assert_eq!(decode("a%2Fb%20%c3%A4").unwrap(), "a/b ä");
        for wrong in ["a+b", "%", "%2", "%zz", "%ff", "%+1"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parameters_are_known_allowed_and_given_once() {
        const KNOWN: &[Parameter] = &[LIMIT, Parameter::choice("state", &["on", "off"], "")];
        assert_eq!(
            query("limit=5&state=on", KNOWN).unwrap(),
            [("limit", "5".to_owned()), ("state", "on".to_owned())]
        );
        for wrong in
            ["limit=0", "limit=1001", "limit=x", "limit=", "state=up", "colour=red", "limit=1&limit=2"]
        {
            assert!(query(wrong, KNOWN).is_err(), "{wrong}");
        }
        const NEEDED: &[Parameter] = &[Parameter::text("filter", "").required()];
        assert!(query("", NEEDED).is_err() && query("filter=a", NEEDED).is_ok());
    }
}
