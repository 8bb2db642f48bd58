//! The collector: OTLP over HTTP, in JSON.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::recorder::{End, Span, SpanKind};
use crate::config::{self, Secret, text_of, why_not_secret};

/// Path of the traces endpoint.
const PATH: &str = "/v1/traces";
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 65_536;

/// Reason why a batch was not accepted.
#[derive(Debug)]
pub(super) enum ExportError {
    /// Temporary failure: worth a retry.
    ForNow(String),
    /// Permanent failure.
    Final(String),
}

/// Client of the collector of `telemetry.otlp_endpoint`.
pub(crate) struct Collector {
    url: String,
    agent: ureq::Agent,
    headers: Vec<(HeaderName, HeaderValue)>,
    service: String,
}

impl Collector {
    /// Creates a client for the configured collector, if there is one; sends nothing yet.
    ///
    /// # Errors
    /// The problem, without secrets.
    pub fn new(config: &config::Telemetry) -> Result<Option<Collector>, String> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let (key, headers) = match &config.otlp_headers_file {
            None => ("telemetry.otlp_headers".to_owned(), config.otlp_headers.clone()),
            Some(path) => {
                let key = "telemetry.otlp_headers_file";
                if let Some(error) = why_not_secret(key, Path::new(path)) {
                    return Err(error);
                }
                let text = Zeroizing::new(text_of(key, Path::new(path))?);
                (format!("{key} {path}"), Some(Secret::new(text.trim().as_bytes())))
            }
        };
        let headers = headers.map(|secret| parse(&secret)).transpose();
        let headers = headers.map_err(|why| format!("{key}: {why}"))?;
        let endpoint = endpoint.trim_end_matches('/');
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(config.otlp_timeout_ms.into())))
            .max_redirects(0)
            .http_status_as_error(false);
        Ok(Some(Collector {
            url: format!("{}{PATH}", endpoint.strip_suffix(PATH).unwrap_or(endpoint)),
            agent: agent.build().into(),
            headers: headers.unwrap_or_default(),
            service: config.service_name.clone(),
        }))
    }

    /// A batch in the form in which it is sent.
    pub(super) fn write(&self, spans: &[Span]) -> String {
        let resource = json!({ "attributes": [
            text("service.name", &self.service),
            text("service.version", crate::VERSION),
        ] });
        let scope = json!({ "name": "lapwing", "version": crate::VERSION });
        let spans: Vec<Value> = spans.iter().map(span).collect();
        let scopes = json!([{ "scope": scope, "spans": spans }]);
        json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": scopes }] }).to_string()
    }

    /// Sends a batch; returns the number of spans that the collector rejected.
    pub(super) fn send(&self, body: &str) -> Result<u64, ExportError> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = request.send(body).map_err(|error| ExportError::ForNow(error.to_string()))?;
        let status = response.status().as_u16();
        match status {
            200..=299 => {
                let answer = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
                let answer: Value = serde_json::from_slice(&answer.unwrap_or_default()).unwrap_or_default();
                // JSON of protocol buffers writes numbers of 64 bits as strings.
                let rejected = &answer["partialSuccess"]["rejectedSpans"];
                let as_text = rejected.as_str().and_then(|text| text.parse().ok());
                Ok(rejected.as_u64().or(as_text).unwrap_or(0))
            }
            // Statuses that the OTLP standard asks to retry.
            429 | 502..=504 => Err(ExportError::ForNow(format!("status {status}"))),
            _ => Err(ExportError::Final(format!("status {status}"))),
        }
    }
}

/// Parses `name=value,name=value`. Errors do not contain the text.
fn parse(secret: &Secret) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let wrong = || "expected HTTP headers as name=value,name=value".to_owned();
    let text = std::str::from_utf8(secret.reveal()).map_err(|_| wrong())?;
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let mut value = HeaderValue::from_str(value.trim()).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
    };
    pairs.map(|pair| header(pair).ok_or_else(wrong)).collect()
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A span in the semantic conventions for messaging. The topic is not part of the name: each device
/// may have its own.
fn span(span: &Span) -> Value {
    const PRODUCER: u8 = 4;
    const CONSUMER: u8 = 5;
    const ERROR: u8 = 2;
    let (name, kind, operation) = match span.what {
        SpanKind::Route => ("route", CONSUMER, "process"),
        SpanKind::Deliver => ("deliver", PRODUCER, "send"),
    };
    let mut attributes = vec![
        text("messaging.system", "mqtt"),
        text("messaging.operation.name", name),
        text("messaging.operation.type", operation),
        text("messaging.destination.name", &span.topic),
        number("messaging.message.body.size", span.bytes as u64),
        number("mqtt.qos", span.qos as u64),
    ];
    attributes.extend(span.client.as_ref().map(|client| text("messaging.client.id", client)));
    let error = |message: &str| json!({ "code": ERROR, "message": message });
    let status = match &span.end {
        End::Well => json!({}),
        End::Skipped(reason) => {
            attributes.push(text("lapwing.skipped", reason.name()));
            json!({})
        }
        End::Dropped(reason) => {
            attributes.push(text("error.type", reason.name()));
            error(reason.text())
        }
        End::Declined(code) => {
            let code = format!("0x{code:02x}");
            attributes.push(text("error.type", &code));
            error(&format!("the client acknowledged it with reason code {code}"))
        }
    };
    let mut object = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "flags": u32::from(span.flags),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": span.since.to_string(),
        "endTimeUnixNano": span.until.to_string(),
        "attributes": attributes,
        "status": status,
    });
    if let Some(parent) = &span.parent {
        object["parentSpanId"] = hex(parent).into();
    }
    object
}
