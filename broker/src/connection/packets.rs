//! What each packet of a client does.

use lapwing_protocol::alias::{self, AliasError};
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{Ack, Packet, Publish};
use lapwing_protocol::property::{Properties, Property, PropertyId, PropertyWriter};
use lapwing_protocol::{DecodeError, PacketType, QoS, ReasonCode, Version, topic};
use tracing::{debug, warn};

use super::{AliasedTopic, Connection, Exit, State};
use crate::auth::{Action, audit};
use crate::config::{DeniedPublish, mount};
use crate::core::publish::published_by;
use crate::message::{Durability, Message, MessageParts, Millis, TraceId, forwarded};
use crate::router::BatchResult;
use crate::session::{Acknowledgement, Effect, Violation};
use crate::store::publish_record::PublishRecord;
use crate::store::{FlightStep, Record, Ticket};
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::trace::{Step, TraceSubject};

/// What the rules say no to.
const DENIED_PUBLISH: Violation = Violation::new(ReasonCode::NotAuthorized, Reason::DeniedPublish.text());
pub(super) const DENIED_SUBSCRIBE: Violation =
    Violation::new(ReasonCode::NotAuthorized, "this client may not subscribe to this filter");
const DENIED_DELIVERY: Violation = Violation::new(ReasonCode::NotAuthorized, Reason::DeniedDelivery.text());
const DENIED_SOURCE: Violation = Violation::new(ReasonCode::NotAuthorized, Reason::DeniedSource.text());
/// How often a client's refusals are worth a line in the log.
const COMPLAIN_EVERY_MS: Millis = 1_000;
/// The longest reason string that the broker writes, in bytes.
pub(super) const REASON_STRING_MAX: usize = 512;

impl From<Violation> for Exit {
    fn from(violation: Violation) -> Exit {
        Exit::Violation(violation.reason, violation.text.to_owned())
    }
}

impl Connection {
    /// Handles the whole packets at the front of `bytes` and returns how many bytes they took.
    pub(super) fn packets(&mut self, bytes: &[u8], now: Millis) -> Result<usize, Exit> {
        let packet_bytes_max = self.negotiated.told.packet_bytes_max;
        let output_max = self.endpoint.limits.write_buffer_bytes_max as usize;
        let version = self.negotiated.version;
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let (frame, len) = match frame::split(rest, version, packet_bytes_max) {
                Ok(Split::Frame { frame, len }) => (frame, len),
                Ok(Split::Incomplete { .. }) => break,
                Err(error) => return Err(self.malformed(error, rest)),
            };
            let publish = frame.packet_type == PacketType::Publish;
            let barred = self.state.turn.is_over() || self.output.len() >= output_max;
            if barred || publish && (self.state.store_full || self.pauses(now) || self.over_rate(len, now)) {
                self.state.has_buffered_packets = true;
                break;
            }
            // MQTT 5 can refuse one topic filter of many; before it, a bad one ends the connection.
            let packet = match version {
                Version::V5 => Packet::decode_reporting_filters(frame, version),
                _ => Packet::decode(frame, version),
            };
            let packet = packet.map_err(|error| self.malformed(error, rest))?;
            self.state.counters.packets_received += 1;
            self.state.turn.spend(1);
            self.keep_alive.heard(now as u32);
            used += len;
            if !self.user_properties_allowed(&packet) {
                let text =
                    "more user properties than limits.user_properties_max or limits.user_property_bytes_max";
                return Err(Violation::new(ReasonCode::QuotaExceeded, text).into());
            }
            if !publish && self.core.outcomes.traces.is_on() {
                self.tell_acknowledged(&packet);
            }
            let effect = self.owned.session.handle(packet).inspect_err(|_| {
                if publish {
                    self.core.outcomes.drops.add(Reason::Violation, 1);
                }
            })?;
            let level = self.level();
            let recorded = self.records.append_outcomes(&mut self.owned.session, level);
            self.carry_out(effect, recorded, now)?;
        }
        Ok(used)
    }

    /// The client, or its user, has published more than it may for now: this PUBLISH waits.
    fn over_rate(&mut self, len: usize, now: Millis) -> bool {
        let free_at = self.state.rates.take(len, now).err();
        if free_at.is_some() {
            self.state.paused_until = free_at;
        }
        free_at.is_some()
    }

    /// PUBLISH is refused alone; there is no such answer to the others.
    fn user_properties_allowed(&self, packet: &Packet<'_>) -> bool {
        let properties = match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                &ack.properties
            }
            Packet::Subscribe(subscribe) => &subscribe.properties,
            Packet::Unsubscribe(unsubscribe) => &unsubscribe.properties,
            Packet::Disconnect(disconnect) => &disconnect.properties,
            Packet::Auth(auth) => &auth.properties,
            _ => return true,
        };
        user_properties_fit(properties, &self.endpoint.limits)
    }

    /// What `bytes` break, with the figures where a limit is the cause.
    #[cold]
    fn malformed(&self, error: DecodeError, bytes: &[u8]) -> Exit {
        if bytes.first().is_some_and(|first| first >> 4 == PacketType::Publish as u8) {
            self.core.outcomes.drops.add(Reason::Violation, 1);
        }
        let text = match (error, frame::header(bytes, self.negotiated.version)) {
            (DecodeError::PacketTooLarge, Ok(Some(header))) => format!(
                "a packet of {} bytes, limits.packet_bytes_max is {}",
                header.header_len + header.remaining_len,
                self.negotiated.told.packet_bytes_max
            ),
            _ => error.text().to_owned(),
        };
        Exit::Violation(error.reason(), text)
    }

    /// How safely the state of the session is kept.
    pub(super) fn level(&self) -> Durability {
        self.endpoint.listener.durability.unwrap_or(self.snapshot.config.store.durability)
    }

    /// A step of a QoS 2 flow leaves once it is on record: PUBREL with `recorded`.
    fn step(&mut self, reply: &Acknowledgement, recorded: Ticket) -> Ticket {
        let session = self.owned.session.number;
        let record = match (reply.packet_type, reply.reason) {
            _ if !self.owned.outbox.is_stored() => return Ticket::default(),
            (PacketType::PubComp, ReasonCode::Success) => {
                FlightStep::Released { session, packet_id: reply.packet_id }.into()
            }
            // The record of the message itself may still be on its way.
            (PacketType::PubRec, _) => Record::Nothing,
            _ => return recorded,
        };
        self.records.append(record, self.level())
    }

    fn carry_out(&mut self, effect: Effect<'_>, recorded: Ticket, now: Millis) -> Result<(), Exit> {
        match effect {
            Effect::Nothing => {}
            Effect::Reply(reply) => {
                let ticket = self.step(&reply, recorded);
                self.reply(reply, None, ticket);
            }
            Effect::Publish(publish) => self.publish(&publish, now)?,
            Effect::Subscribe(subscribe) => self.subscribe(&subscribe)?,
            Effect::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Effect::Pong => self.send(&Packet::PingResp, Ticket::default(), false),
            Effect::Disconnect(_) => {
                let expiry_max_s = self.endpoint.limits.session_expiry_max_s;
                let session = &mut self.owned.session;
                session.expiry_s = session.expiry_s.min(expiry_max_s);
                return Err(Exit::Disconnected);
            }
            Effect::Auth(auth) => self.reauthenticate(&auth)?,
        }
        Ok(())
    }

    /// Takes a message in: checks it, passes it on, acknowledges it.
    fn publish(&mut self, publish: &Publish<'_>, now: Millis) -> Result<(), Exit> {
        self.state.counters.publish_received += 1;
        self.state.counters.publish_bytes_received += publish.payload.len() as u64;
        // Taken out, so that the topic name may borrow from it beside `self`.
        let mut aliases = std::mem::take(&mut self.state.aliases_in);
        let topic = self.as_agreed(publish).and_then(|()| self.topic_name(publish, &mut aliases));
        let outcome = topic.map(|topic| self.take_message(publish, topic, now));
        self.state.aliases_in = aliases;
        let outcome = outcome.inspect_err(|_| self.core.outcomes.drops.add(Reason::Violation, 1))?;
        let (reason, ticket, text) = match outcome {
            Ok((reason, ticket)) => (reason, ticket, None),
            Err(reason) => {
                // MQTT 3 has no word for either but silence; what cannot be stored is kept by the client, which comes again.
                let closes = (reason == Reason::StoreRefused && publish.packet_id.is_some())
                    || (reason == Reason::DeniedPublish
                        && self.snapshot.config.auth.denied_publish == DeniedPublish::Close);
                let refusal = refusal(reason);
                if closes && !self.negotiated.version.has_properties() {
                    return Err(refusal.into());
                }
                (refusal.reason, Ticket::default(), Some(refusal.text))
            }
        };
        if let Some(reply) = self.owned.session.acknowledge(publish.qos, publish.packet_id, reason) {
            self.reply(reply, text, ticket);
        }
        Ok(())
    }

    /// What the client was told in CONNACK.
    fn as_agreed(&self, publish: &Publish<'_>) -> Result<(), Exit> {
        if publish.qos as u8 > self.negotiated.told.qos_max {
            return Err(Violation::new(ReasonCode::QoSNotSupported, "a QoS above mqtt.qos_max").into());
        }
        if publish.retain && !self.negotiated.told.retain_available {
            return Err(
                Violation::new(ReasonCode::RetainNotSupported, "mqtt.retain_available is false").into()
            );
        }
        Ok(())
    }

    /// Takes a message in, or says to all who want to know why not.
    fn take_message(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        now: Millis,
    ) -> Result<(ReasonCode, Ticket), Reason> {
        if self.core.outcomes.traces.is_on() {
            return self.take_followed(publish, topic, now);
        }
        let outcome = self.route(publish, topic, now, None);
        if let Err(reason) = outcome {
            self.not_taken(publish, topic, reason, (None, now));
        }
        outcome
    }

    #[cold]
    pub(super) fn not_taken(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        reason: Reason,
        followed: (Option<TraceId>, Millis),
    ) {
        self.log_refusal("PUBLISH", topic, &refusal(reason));
        let topic = &*mount::name(self.endpoint.listener.mount_point.as_ref(), topic);
        let rule = (reason == Reason::DeniedPublish && self.core.outcomes.traces.is_followed())
            .then(|| self.rule(Action::Publish, topic));
        let text = rule.as_deref().unwrap_or(reason.text());
        let subject = self.subject(publish, topic, followed);
        self.core.outcomes.refused(reason, text, &subject, Some(self.owned.outbox.recipient()));
    }

    /// One line a second for each client says what was refused; how many lines were held back stands on the next.
    pub(super) fn log_refusal(&mut self, packet: &str, topic: &str, refusal: &Violation) {
        let asked = match *refusal {
            DENIED_PUBLISH => Some(Action::Publish),
            DENIED_SUBSCRIBE => Some(Action::Subscribe),
            DENIED_DELIVERY => Some(Action::Receive),
            DENIED_SOURCE => None,
            _ => return self.complain_of_limit(packet, topic, refusal),
        };
        self.core.metrics.denied.add(1);
        let Some(more_before) = self.may_complain() else { return };
        let (client_id, identity) = (&self.owned.session.client_id, &self.owned.identity);
        let rule = asked.map_or_else(
            || refusal.text.to_owned(),
            |action| {
                let mount = self.endpoint.listener.mount_point.as_ref().filter(|_| action != Action::Receive);
                let topic = topic::shared(topic).map_or(topic, |(_, inner)| inner);
                self.rule(action, &mount::name(mount, topic))
            },
        );
        audit::denied(packet, client_id, identity, topic, &rule, more_before);
    }

    /// How many lines were held back, if it is time for one.
    fn may_complain(&mut self) -> Option<u64> {
        let now = self.core.now();
        let state = &mut self.state;
        if state.last_refusal_log.is_some_and(|at| now < at + COMPLAIN_EVERY_MS) {
            state.suppressed += 1;
            return None;
        }
        state.last_refusal_log = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }

    fn complain_of_limit(&mut self, packet: &str, topic: &str, refusal: &Violation) {
        let Some(hushed) = self.may_complain() else { return };
        warn!(client = %self.owned.session.client_id, peer = %self.handle.peer.address, user = ?self.owned.identity.user, topic,
            reason = %refusal.reason, more_before = hushed, "{packet} refused: {}", refusal.text);
    }

    /// The topic name that a PUBLISH means (`3.3.2.3.4`).
    fn topic_name<'a>(
        &self,
        publish: &Publish<'a>,
        aliases: &'a mut Vec<AliasedTopic>,
    ) -> Result<&'a str, Exit> {
        let Some(alias) = publish.properties.topic_alias() else { return Ok(publish.topic) };
        if aliases.is_empty() {
            aliases.resize_with(usize::from(self.negotiated.told.topic_aliases_max), AliasedTopic::default);
        }
        let violation = match alias::resolve(aliases, alias, publish.topic.as_bytes()) {
            Ok(topic) => return Ok(std::str::from_utf8(topic).unwrap_or("")),
            Err(AliasError::OutOfRange) => Violation::new(
                ReasonCode::TopicAliasInvalid,
                "a topic alias above limits.topic_aliases_in_max",
            ),
            Err(AliasError::Unknown | AliasError::TopicTooLong) => {
                Violation::new(ReasonCode::ProtocolError, "a topic alias that was never introduced")
            }
        };
        Err(violation.into())
    }

    /// Checks a message and passes it on; the reason code for its acknowledgement, or why it is not taken.
    pub(super) fn route(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        now: Millis,
        trace: Option<TraceId>,
    ) -> Result<(ReasonCode, Ticket), Reason> {
        let (limits, config) = (&self.endpoint.limits, &self.snapshot.config);
        if topic.len() > limits.topic_bytes_max as usize
            || topic::level_count(topic) > limits.topic_levels_max as usize
        {
            return Err(Reason::TopicLimit);
        }
        if topic.starts_with('$') {
            return Err(Reason::BrokerTopic);
        }
        if !user_properties_fit(&publish.properties, limits) {
            return Err(Reason::UserProperties);
        }
        if config.mqtt.payload_format_checked
            && publish.properties.payload_format_indicator() == Some(1)
            && std::str::from_utf8(publish.payload).is_err()
        {
            return Err(Reason::PayloadFormat);
        }
        let topic = &*mount::name(self.endpoint.listener.mount_point.as_ref(), topic);
        let session = &self.owned.session;
        if !self.snapshot.auth.policy.allows(&self.owned.identity, &session.client_id, Action::Publish, topic)
        {
            return Err(Reason::DeniedPublish);
        }
        if trace.is_some() {
            self.tell_accepted(publish, topic, (trace, now));
        }
        let expires_at = publish.properties.message_expiry_interval_s().map(|s| now + u64::from(s) * 1000);
        let source =
            published_by(config, &self.owned.identity, &session.client_id).filter(|_| publish.retain);
        let content = MessageParts {
            topic,
            properties: forwarded(&publish.properties, &mut self.state.scratch),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            publisher: session.number,
            published_at: now,
            expires_at,
        };
        let mut message = Message::from_source(&content, source);
        if let Some(id) = trace {
            message = message.with_trace(id);
        }
        // Nobody is told what becomes of it.
        if publish.qos == QoS::AtMostOnce && !publish.retain && trace.is_none() {
            self.gather_message(message);
            return Ok((ReasonCode::Success, Ticket::default()));
        }
        let durability = config.store.durability_of(topic, self.endpoint.listener.durability);
        let received =
            publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce && self.owned.outbox.is_stored());
        let received = received.map(|packet_id| (session.number, packet_id));
        self.pass_on_batch();
        let core = &self.core;
        let (cache, wakers) = (&mut self.state.cache, &mut self.state.wakers);
        let record = PublishRecord::in_batch(&mut self.records, durability);
        let published = core.publish(&message, record, received, cache, wakers);
        self.state.turn.spend(u32::try_from(published.routed.matched).unwrap_or(u32::MAX));
        self.state.counters.no_local += published.routed.no_local as u64;
        if let Some(reason) = published.refused() {
            return Err(reason);
        }
        if published.routed.matched > 0 {
            message.recycle();
            return Ok((ReasonCode::Success, published.ticket));
        }
        if published.found_nobody(&message) {
            self.state.counters.no_subscriber += 1;
            if trace.is_some() {
                self.core.outcomes.traces.record(
                    &TraceSubject::of(&message),
                    None,
                    Step::Dropped(Reason::NoSubscriber),
                );
            }
        }
        Ok((ReasonCode::NoMatchingSubscribers, published.ticket))
    }

    fn gather_message(&mut self, message: Message) {
        let State { cache, batch, .. } = &mut self.state;
        if let Err(message) = self.core.router.gather(message, cache, batch) {
            self.pass_on_batch();
            let State { cache, batch, .. } = &mut self.state;
            // Whatever it is for: the batch is empty.
            let _ = self.core.router.gather(message, cache, batch);
        }
    }

    /// Passes on what was gathered.
    pub(super) fn pass_on_batch(&mut self) {
        let state = &mut self.state;
        if state.batch.is_empty() {
            return;
        }
        let BatchResult { messages, routed, refused } = self.core.flush(&mut state.batch, &mut state.wakers);
        state.turn.spend(u32::try_from(routed.matched).unwrap_or(u32::MAX));
        state.counters.no_local += routed.no_local as u64;
        if routed.matched + routed.no_local == 0 {
            state.counters.no_subscriber += messages as u64;
        }
        for message in refused.into_values() {
            let reason = Reason::QueueRefused;
            self.log_refusal("PUBLISH", message.topic_str(), &refusal(reason));
            let subject =
                TraceSubject { from: Some(&self.owned.session.client_id), ..TraceSubject::of(&message) };
            self.core.outcomes.refused(reason, reason.text(), &subject, Some(self.owned.outbox.recipient()));
        }
    }

    /// A reason string, where there is one and the client wants such (`[MQTT-3.1.2-29]`).
    pub(super) fn words<'b>(&self, text: Option<&str>, buffer: &'b mut [u8]) -> Properties<'b> {
        let mut properties = PropertyWriter::new(buffer);
        if let Some(text) = text.filter(|_| self.negotiated.problem_information) {
            // A text that does not fit is left out: it is for people only.
            let _ = properties.push(Property::ReasonString(text));
        }
        properties.finish()
    }

    /// Answers a PUBLISH or a step of its flow, with words where the client wants them (`[MQTT-3.4.2-2]`).
    fn reply(&mut self, reply: Acknowledgement, text: Option<&str>, ticket: Ticket) {
        let Acknowledgement { packet_type, packet_id, reason } = reply;
        if text.is_none()
            && let Some(bytes) = Ack::new(packet_id, reason).short(packet_type, self.negotiated.version)
            && self.negotiated.packet_bytes_max as usize >= bytes.len()
        {
            return self.send_short(&bytes, ticket, packet_type == PacketType::PubAck);
        }
        let mut buffer = [0; REASON_STRING_MAX];
        let ack = Ack { packet_id, reason, properties: self.words(text, &mut buffer) };
        let packet = match packet_type {
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            _ => Packet::PubComp(ack),
        };
        self.send(&packet, ticket, packet_type == PacketType::PubAck);
    }

    /// Sends an acknowledgement of four bytes, which most are, as [`send`](Self::send) does.
    fn send_short(&mut self, bytes: &[u8], ticket: Ticket, is_puback: bool) {
        self.state.counters.packets_sent += 1;
        if !ticket.is_free() || !self.state.held_acks.is_empty() {
            return self.state.hold(bytes, ticket, is_puback);
        }
        if is_puback {
            self.owned.session.puback_sent();
        }
        self.output.extend(bytes);
    }

    /// Sends a packet once its ticket is good, behind the acknowledgements that wait already.
    pub(super) fn send(&mut self, packet: &Packet<'_>, ticket: Ticket, is_puback: bool) {
        let (version, most) = (self.negotiated.version, self.negotiated.packet_bytes_max);
        self.state.counters.packets_sent += 1;
        let written = packet.encoded_len(version, most).and_then(|len| {
            if ticket.is_free() && self.state.held_acks.is_empty() {
                if is_puback {
                    self.owned.session.puback_sent();
                }
                return self.output.append(len, |out| packet.encode(version, most, out));
            }
            let mut bytes = std::mem::take(&mut self.state.scratch);
            bytes.clear();
            bytes.resize(len, 0);
            let encoded = packet.encode(version, most, &mut bytes);
            if encoded.is_ok() {
                self.state.hold(&bytes, ticket, is_puback);
            }
            self.state.scratch = bytes;
            encoded.map(drop)
        });
        if let Err(error) = written {
            // A client that takes no packet of five bytes gets no answer (`[MQTT-3.1.2-25]`).
            debug!(client = %self.owned.session.client_id, packet = %packet.packet_type(), %error, "not sent");
        }
    }
}

/// What a client is told of a message that is not taken, or not given to it.
pub(super) const fn refusal(reason: Reason) -> Violation {
    let code = match reason {
        Reason::TopicLimit => ReasonCode::TopicNameInvalid,
        Reason::PayloadFormat => ReasonCode::PayloadFormatInvalid,
        Reason::UserProperties | Reason::RetainedFull | Reason::StoreRefused | Reason::QueueRefused => {
            ReasonCode::QuotaExceeded
        }
        _ => ReasonCode::NotAuthorized,
    };
    Violation::new(code, reason.text())
}

/// Whether a packet's user properties are within the bounds.
pub(crate) fn user_properties_fit(properties: &Properties<'_>, limits: &crate::config::Limits) -> bool {
    if !properties.has(PropertyId::UserProperty) {
        return true;
    }
    let (count, bytes) = properties
        .user_properties()
        .fold((0, 0), |(count, bytes), (name, value)| (count + 1, bytes + name.len() + value.len()));
    count <= limits.user_properties_max as usize && bytes <= limits.user_property_bytes_max as usize
}
