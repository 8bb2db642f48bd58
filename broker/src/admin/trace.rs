//! Live traces of messages.

use std::time::{Duration, UNIX_EPOCH};

use hyper::body::Bytes;
use lapwing_protocol::topic;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::request::{ApiRequest, Parameter, ParameterKind};
use super::response::ApiError;
use super::schema::{Schema, object};
use crate::admin::route::{Route, route};
use crate::message::Millis;
use crate::telemetry::outcomes::TraceStream;
use crate::telemetry::trace::{Event, TRACES_MAX, TraceFilter, TraceItem};

/// Seconds that a trace lasts where the query has no number.
const SECONDS_DEFAULT: u64 = 600;
const SECONDS_MAX: u64 = 3_600;
/// Pieces that wait for a slow client; then events are lost, and a line says so.
const PIECES: usize = 2;

pub(super) const ROUTES: &[Route] = &[route!(
    GET "/trace",
    "Follows messages live: accepted or refused, matched, queued, sent, acknowledged, dropped with the reason; never their payload",
    [
        Parameter::text("client", "Only messages from this client or to it."),
        Parameter::text("topic", "Only topics that this filter matches, mount point included."),
        Parameter {
            name: "seconds",
            kind: ParameterKind::Number(1, SECONDS_MAX),
            required: false,
            doc: "Seconds that the trace lasts; 600 by default.",
        }
    ],
    trace => lines of Line
)];

object! {
    /// One step of a message.
    Line {
        /// Time, as in RFC 3339.
        at: String,
        /// Number of the message: the same on each line about it; null: it is older than the trace.
        message: Option<u64>,
        /// Client that published it.
        from: Option<std::sync::Arc<str>>,
        /// The topic name, cut after 512 bytes.
        topic: Option<String>,
        /// The QoS that it was published with.
        qos: Option<u64>,
        /// The size of its payload.
        bytes: Option<u64>,
        /// The subscriber that this line is about.
        client: Option<std::sync::Arc<str>>,
        /// "accepted", "refused", "retained", "matched", "queued", "sent", "acknowledged",
        /// "dropped", "skipped"; of the trace itself "started", "lost" and "ended".
        step: String,
        /// Reason that it goes no further, as in docs/MONITORING.md.
        reason: Option<String>,
        /// Further details in words.
        detail: Option<String>,
        /// Number of events that came faster than they were read, where "lost" stands.
        lost: Option<u64>,
    }
}

async fn trace(call: ApiRequest) -> Result<mpsc::Receiver<Bytes>, ApiError> {
    let filter =
        TraceFilter { client: call.text("client").map(Box::from), topic: call.text("topic").map(Box::from) };
    let wrong = |filter: &&str| topic::check_filter(filter).is_err() || topic::shared(filter).is_some();
    if let Some(wrong) = filter.topic.as_deref().filter(wrong) {
        return Err(ApiError::bad(
            format!("{wrong:?} is not a topic filter"),
            "give one as in SUBSCRIBE, like home/+/temp or home/#; of a shared subscription, what stands behind the share name",
        ));
    }
    let seconds = call.text("seconds").and_then(|value| value.parse().ok()).unwrap_or(SECONDS_DEFAULT);
    let following = call.admin.core.outcomes.follow(filter.clone()).ok_or_else(|| {
        ApiError::unavailable(
            format!("{TRACES_MAX} traces are running, the most that may"),
            "end one of them",
        )
    })?;
    let part = |name: &str, value: &Option<Box<str>>| {
        value.as_ref().map(|value| format!(" {name} {value}")).unwrap_or_default()
    };
    call.audit(&format!("trace{}{}", part("client", &filter.client), part("topic", &filter.topic)));
    let (lines, answer) = mpsc::channel(PIECES);
    let (core, until) = (call.admin.core.clone(), Instant::now() + Duration::from_secs(seconds));
    tokio::spawn(async move {
        let now = || core.now();
        let own = |step: &str, detail: &str| Line::own(now(), step, detail).bytes();
        if lines.send(own("started", &format!("for {seconds} s at most"))).await.is_err() {
            return;
        }
        if follow(following, &lines, until, now).await {
            let _ = lines.send(own("ended", "the time is over")).await;
        }
    });
    Ok(answer)
}

/// Sends events to the client. Returns `true` when the time is over, `false` when the client is
/// gone.
async fn follow(
    mut following: TraceStream,
    lines: &mpsc::Sender<Bytes>,
    until: Instant,
    now: impl Fn() -> Millis,
) -> bool {
    loop {
        let first = tokio::select! {
            () = lines.closed() => return false,
            item = timeout_at(until, following.next()) => match item {
                Ok(item) => item,
                Err(_) => return true,
            },
        };
        let mut piece = Vec::new();
        for item in std::iter::once(first).chain(following.rest()) {
            piece.extend_from_slice(&Line::of(item, &now).bytes());
        }
        if !matches!(timeout_at(until, lines.send(piece.into())).await, Ok(Ok(()))) {
            return false;
        }
    }
}

fn moment(at: Millis) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at)).to_string()
}

impl Line {
    fn own(at: Millis, step: &str, detail: &str) -> Line {
        Line {
            at: moment(at),
            message: None,
            from: None,
            topic: None,
            qos: None,
            bytes: None,
            client: None,
            step: step.to_owned(),
            reason: None,
            detail: (!detail.is_empty()).then(|| detail.to_owned()),
            lost: None,
        }
    }

    fn of(item: TraceItem, now: impl Fn() -> Millis) -> Line {
        match item {
            TraceItem::Lost(lost) => Line {
                lost: Some(lost),
                ..Line::own(now(), "lost", "they came faster than the reader took them")
            },
            TraceItem::Event(event) => {
                let Event { at, message, from, client, topic, qos, bytes, step } = event;
                Line {
                    message,
                    from,
                    client,
                    topic: Some(topic.into()),
                    qos: Some(qos as u64),
                    bytes: Some(bytes as u64),
                    reason: step.reason().map(|reason| reason.name().to_owned()),
                    ..Line::own(at, step.name(), &step.detail())
                }
            }
        }
    }

    fn bytes(self) -> Bytes {
        format!("{}\n", self.json()).into()
    }
}
