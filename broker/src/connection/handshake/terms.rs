//! Terms that CONNECT asks for, judged by the limits: the rules that need no identity.

use std::sync::Arc;

use lapwing_protocol::packet::{Connect, Will as WillFields};
use lapwing_protocol::{QoS, ReasonCode, Version, limits};

use super::{ConnectError, ConnectRequest};
use crate::config::mount;
use crate::connection::negotiated::{AnnouncedLimits, Negotiated};
use crate::connection::refusals::refusal;
use crate::core::publish_rules::{self, user_properties_fit};
use crate::net::endpoint::Endpoint;
use crate::session::{Terms, Will};

/// Checks CONNECT by the rules that need no identity.
pub(super) fn check(endpoint: &Endpoint, connect: &Connect<'_>) -> Result<ConnectRequest, ConnectError> {
    let (config, version) = (endpoint, connect.version);
    let refuse = |reason, text: String| Err(ConnectError::new(version, reason, text));
    if let Some(server) = &config.mqtt.server_reference {
        let reason =
            if config.mqtt.server_moved { ReasonCode::ServerMoved } else { ReasonCode::UseAnotherServer };
        let mut refuse = ConnectError::new(version, reason, format!("mqtt.server_reference: use {server}"));
        refuse.server_reference = Some(server.clone());
        return Err(refuse);
    }
    if connect.client_id.len() > config.limits.client_id_bytes_max as usize {
        let text = format!(
            "a client identifier of {} bytes, limits.client_id_bytes_max is {}",
            connect.client_id.len(),
            config.limits.client_id_bytes_max
        );
        return refuse(ReasonCode::ClientIdentifierNotValid, text);
    }
    // `[MQTT-3.1.3-8]` of 3.1.1; MQTT 3.1 has no empty client identifiers.
    let empty = connect.client_id.is_empty();
    if empty && (version == Version::V31 || (version == Version::V311 && !connect.clean_start)) {
        let text = "an empty client identifier needs clean session and MQTT 3.1.1 or later".to_owned();
        return refuse(ReasonCode::ClientIdentifierNotValid, text);
    }
    if !user_properties_fit(&connect.properties, &config.limits)
        || connect.will.is_some_and(|will| !user_properties_fit(&will.properties, &config.limits))
    {
        return refuse(
            ReasonCode::QuotaExceeded,
            "more user properties than limits.user_properties_max".to_owned(),
        );
    }
    if let Some(will) = &connect.will {
        check_will(endpoint, version, will)?;
    }
    let limits = &config.limits;
    let p = &connect.properties;
    let asked_expiry_s = match version {
        _ if version.has_properties() => p.session_expiry_interval_s().unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => limits.session_expiry_max_s,
    };
    let keep_alive_max = u16::try_from(limits.keep_alive_max_s).unwrap_or(u16::MAX);
    let keep_alive_set =
        keep_alive_max > 0 && (connect.keep_alive_s == 0 || connect.keep_alive_s > keep_alive_max);
    // MQTT 3 has no Receive Maximum: such a client may have all identifiers open. Each takes two
    // bytes or a bit (`ReceivedIds`).
    let receive_maximum = if version.has_properties() { limits.receive_maximum } else { u16::MAX };
    Ok(ConnectRequest {
        client_id: if empty { assigned_client_id(version)? } else { connect.client_id.into() },
        assigned: empty,
        clean_start: connect.clean_start,
        terms: Terms {
            receive_maximum,
            in_flight_max: p
                .receive_maximum()
                .unwrap_or(limits::RECEIVE_MAXIMUM_DEFAULT)
                .min(limits.in_flight_max),
            expiry_s: asked_expiry_s.min(limits.session_expiry_max_s),
            message_expiry_max_s: limits.message_expiry_max_s,
        },
        expiry_capped: asked_expiry_s > limits.session_expiry_max_s,
        negotiated: Negotiated {
            version,
            packet_bytes_max: p.maximum_packet_size().unwrap_or(limits::PACKET_BYTES_MAX),
            problem_information: p.request_problem_information() != Some(0),
            topic_alias_max: p.topic_alias_maximum().unwrap_or(0).min(limits.topic_aliases_out_max),
            keep_alive_s: if keep_alive_set { keep_alive_max } else { connect.keep_alive_s },
            auth_method: None,
            announced: AnnouncedLimits {
                packet_bytes_max: limits.packet_bytes_max,
                topic_aliases_max: limits.topic_aliases_in_max,
                qos_max: config.mqtt.qos_max,
                retain_available: config.mqtt.retain_available,
            },
        },
        keep_alive_set,
        response_information: p.request_response_information() == Some(1),
        will: connect.will.map(|will| {
            let topic = mount::name(endpoint.listener.mount_point.as_ref(), will.topic);
            Will::new(&WillFields { topic: &topic, ..will }, limits.will_delay_max_s)
        }),
        auth_data: None,
    })
}

fn check_will(config: &Endpoint, version: Version, will: &WillFields<'_>) -> Result<(), ConnectError> {
    let refuse = |reason, text: &str| Err(ConnectError::new(version, reason, format!("the will: {text}")));
    if will.qos > QoS::from_u8(config.mqtt.qos_max).unwrap_or_default() {
        return refuse(ReasonCode::QoSNotSupported, "a QoS above mqtt.qos_max");
    }
    if will.retain && !config.mqtt.retain_available {
        return refuse(ReasonCode::RetainNotSupported, "mqtt.retain_available is false");
    }
    publish_rules::check(will.topic, &will.properties, will.payload, &config.limits, &config.mqtt).or_else(
        |reason| {
            let rejection = refusal(reason);
            refuse(rejection.reason, rejection.text)
        },
    )
}

/// Makes a client identifier that cannot be guessed (`[MQTT-3.1.3-6]`, `[MQTT-3.1.3-7]`): 128
/// random bits.
fn assigned_client_id(version: Version) -> Result<Arc<str>, ConnectError> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| {
        ConnectError::new(version, ReasonCode::ServerUnavailable, format!("no randomness: {error}"))
    })?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("auto-{hex}").into())
}
