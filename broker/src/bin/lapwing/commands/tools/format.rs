//! Formats of messages: `-v`, `-F FORMAT` with the letters of mosquitto_sub, JSON.

use std::fmt::Write as _;
use std::str::Chars;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapwing_protocol::packet::Publish;
use lapwing_protocol::property::Property;
use serde_json::{Map, Value, json};

use super::connection::Message;
use super::failure::Failure;
use super::properties::name_of;

/// Format of printed messages.
#[derive(Debug)]
pub enum Format {
    /// The payload.
    Payload,
    /// Topic and payload.
    Verbose,
    /// A line of JSON.
    Json,
    /// Pieces of `-F`.
    Pieces(Vec<Piece>),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Text(Vec<u8>),
    /// A `%` with its letter.
    Field {
        letter: char,
        width: usize,
        precision: Option<usize>,
        left: bool,
        zeros: bool,
    },
    /// An `@` with its letter.
    Time(char),
}

const FIELDS: &str = "ACDEFIJjlmPpqRrStUXx";
const TIMES: &str = "YmdHMSFTsNz";

/// Parses a field behind its `%`; `None` stands for `%%`.
fn parse_field(letters: &mut Chars<'_>) -> Result<Option<Piece>, String> {
    let (mut left, mut zeros, mut width, mut precision) = (false, false, 0, None);
    let mut next = letters.next();
    while let Some(flag @ ('-' | '0')) = next {
        left |= flag == '-';
        zeros |= flag == '0';
        next = letters.next();
    }
    let mut number = |next: &mut Option<char>| {
        let mut number = 0;
        while let Some(digit) = next.and_then(|letter| letter.to_digit(10)) {
            number = (number * 10 + digit as usize).min(10_000);
            *next = letters.next();
        }
        number
    };
    if next.is_some_and(|letter| letter.is_ascii_digit()) {
        width = number(&mut next);
    }
    if next == Some('.') {
        next = Some('0');
        precision = Some(number(&mut next));
    }
    match next {
        Some('%') => Ok(None),
        Some(letter) if FIELDS.contains(letter) => {
            Ok(Some(Piece::Field { letter, width, precision, left, zeros }))
        }
        other => Err(format!("%{} is not one of {FIELDS}", other.map_or(String::new(), String::from))),
    }
}

/// Returns the byte of an escape, by the letter behind its backslash.
fn escape(letter: Option<char>) -> Result<u8, String> {
    match letter {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('a') => Ok(7),
        Some('e') => Ok(0x1b),
        Some('\\') => Ok(b'\\'),
        other => Err(format!(
            "\\{} is not one of \\n \\t \\r \\0 \\a \\e \\\\",
            other.map_or(String::new(), String::from)
        )),
    }
}

impl Format {
    /// Parses the text of `-F`.
    pub fn parse(text: &str) -> Result<Format, Failure> {
        let wrong = |what: String| Failure::of(format_args!("-F {text}"), what);
        let (mut pieces, mut plain) = (Vec::new(), Vec::new());
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let piece = match letter {
                '%' => match parse_field(&mut letters).map_err(wrong)? {
                    Some(field) => field,
                    None => {
                        plain.push(b'%');
                        continue;
                    }
                },
                '@' => match letters.next() {
                    Some('@') => {
                        plain.push(b'@');
                        continue;
                    }
                    Some(letter) if TIMES.contains(letter) => Piece::Time(letter),
                    other => {
                        return Err(wrong(format!(
                            "@{} is not one of {TIMES}",
                            other.map_or(String::new(), String::from)
                        )));
                    }
                },
                '\\' => {
                    plain.push(escape(letters.next()).map_err(wrong)?);
                    continue;
                }
                letter => {
                    plain.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Format::Pieces(pieces))
    }

    /// Appends the formatted message, without the end of the line. An error is returned in place of
    /// it.
    pub fn print(&self, message: &Message, out: &mut Vec<u8>) -> Result<(), Failure> {
        let publish = message.publish();
        let now = SystemTime::now();
        match self {
            Format::Payload => out.extend_from_slice(publish.payload),
            Format::Verbose => {
                out.extend_from_slice(message.topic.as_bytes());
                out.push(b' ');
                out.extend_from_slice(if publish.payload.is_empty() { b"(null)" } else { publish.payload });
            }
            Format::Json => json_line(&message.topic, &publish, now, false, out)?,
            Format::Pieces(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => out.extend_from_slice(text),
                        Piece::Time(letter) => out.extend_from_slice(time(*letter, now).as_bytes()),
                        Piece::Field { letter, width, precision, left, zeros } => {
                            let mut text = field(*letter, &message.topic, &publish, now)?;
                            if let Some(precision) = precision {
                                text.truncate(*precision);
                            }
                            let fill = width.saturating_sub(text.len());
                            let with = if *zeros && !left { b'0' } else { b' ' };
                            let padding = std::iter::repeat_n(with, fill);
                            if *left {
                                out.extend_from_slice(&text);
                                out.extend(padding);
                            } else {
                                out.extend(padding);
                                out.extend_from_slice(&text);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn field(letter: char, topic: &str, publish: &Publish<'_>, now: SystemTime) -> Result<Vec<u8>, Failure> {
    let properties = &publish.properties;
    let number = |number: Option<u32>| number.map_or(String::new(), |number| number.to_string());
    let hexadecimal = |upper: bool| {
        publish.payload.iter().fold(String::new(), |mut text, byte| {
            let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
            text
        })
    };
    Ok(match letter {
        'A' => number(properties.topic_alias().map(u32::from)).into_bytes(),
        'C' => properties.content_type().unwrap_or_default().as_bytes().to_vec(),
        'D' => properties.correlation_data().unwrap_or_default().to_vec(),
        'E' => number(properties.message_expiry_interval_s()).into_bytes(),
        'F' => number(properties.payload_format_indicator().map(u32::from)).into_bytes(),
        'I' => time('I', now).into_bytes(),
        'j' | 'J' => {
            let mut line = Vec::new();
            json_line(topic, publish, now, letter == 'J', &mut line)?;
            line
        }
        'l' => publish.payload.len().to_string().into_bytes(),
        'm' => publish.packet_id.map_or(0, std::num::NonZero::get).to_string().into_bytes(),
        'P' => {
            let pairs: Vec<_> =
                properties.user_properties().map(|(name, value)| format!("{name}:{value}")).collect();
            pairs.join(" ").into_bytes()
        }
        'p' => publish.payload.to_vec(),
        'q' => (publish.qos as u8).to_string().into_bytes(),
        'R' => properties.response_topic().unwrap_or_default().as_bytes().to_vec(),
        'r' => u8::from(publish.retain).to_string().into_bytes(),
        'S' => {
            let ids: Vec<_> = properties.subscription_identifiers().map(|id| id.to_string()).collect();
            ids.join(" ").into_bytes()
        }
        't' => topic.as_bytes().to_vec(),
        'U' => {
            let since = since_1970(now);
            format!("{}.{:09}", since.as_secs(), since.subsec_nanos()).into_bytes()
        }
        'X' => hexadecimal(true).into_bytes(),
        _ => hexadecimal(false).into_bytes(),
    })
}

fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Formats a part of the time, UTC.
fn time(letter: char, now: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(now).to_string();
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default().to_owned();
    match letter {
        'Y' => part(0..4),
        'm' => part(5..7),
        'd' => part(8..10),
        'H' => part(11..13),
        'M' => part(14..16),
        'S' => part(17..19),
        'F' => part(0..10),
        'T' => part(11..19),
        's' => since_1970(now).as_secs().to_string(),
        'N' => format!("{:09}", since_1970(now).subsec_nanos()),
        'I' => format!("{}+0000", part(0..19)),
        _ => "+0000".to_owned(),
    }
}

fn json_line(
    topic: &str,
    publish: &Publish<'_>,
    now: SystemTime,
    payload_is_json: bool,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let mut line = Map::new();
    line.insert("tst".into(), json!(humantime::format_rfc3339_micros(now).to_string()));
    line.insert("topic".into(), json!(topic));
    line.insert("qos".into(), json!(publish.qos as u8));
    line.insert("retain".into(), json!(u8::from(publish.retain)));
    line.insert("payloadlen".into(), json!(publish.payload.len()));
    if let Some(id) = publish.packet_id {
        line.insert("mid".into(), json!(id));
    }
    let properties = properties(publish);
    if !properties.is_empty() {
        line.insert("properties".into(), Value::Object(properties));
    }
    if payload_is_json {
        let payload = serde_json::from_slice(publish.payload)
            .map_err(|error| Failure::of(format_args!("the payload on '{topic}' is not JSON"), error))?;
        line.insert("payload".into(), payload);
    } else {
        match std::str::from_utf8(publish.payload) {
            Ok(text) => line.insert("payload".into(), json!(text)),
            Err(_) => line.insert("payload_base64".into(), json!(STANDARD.encode(publish.payload))),
        };
    }
    // A map of such values can always be written.
    let _ = serde_json::to_writer(out, &line);
    Ok(())
}

fn properties(publish: &Publish<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    for property in publish.properties.iter() {
        let value = match property {
            Property::UserProperty(_) => continue,
            Property::PayloadFormatIndicator(value) => json!(value),
            Property::MessageExpiryInterval(value) => json!(value),
            Property::ContentType(text) | Property::ResponseTopic(text) => json!(text),
            Property::CorrelationData(bytes) => {
                json!(std::str::from_utf8(bytes).map_or_else(|_| STANDARD.encode(bytes), str::to_owned))
            }
            Property::SubscriptionIdentifier(value) => json!(value),
            Property::TopicAlias(value) => json!(value),
            _ => continue,
        };
        all.insert(name_of(property.id()).to_owned(), value);
    }
    let pairs: Vec<_> =
        publish.properties.user_properties().map(|(name, value)| json!([name, value])).collect();
    if !pairs.is_empty() {
        all.insert("user-properties".to_owned(), Value::Array(pairs));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_parsed_or_refused_with_its_mistake() {
        let Ok(Format::Pieces(pieces)) = Format::parse(r"a%%\t%-08.3t@Y") else { panic!("a format") };
        let field = Piece::Field { letter: 't', width: 8, precision: Some(3), left: true, zeros: true };
        assert_eq!(pieces, [Piece::Text(b"a%\t".to_vec()), field, Piece::Time('Y')]);
        for wrong in ["%", "%y", "@", "@q", "\\", "\\q"] {
            assert!(Format::parse(wrong).is_err(), "{wrong}");
        }
    }
}
