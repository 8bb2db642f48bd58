//! Rules for what a client may publish, in a PUBLISH and in a will alike. The policy is asked
//! apart.

use lapwing_protocol::property::{Properties, PropertyId};
use lapwing_protocol::topic;

use crate::config::{Limits, Mqtt};
use crate::telemetry::drop_reason::Reason;

/// Checks a topic name, the properties and the payload against the limits of an endpoint.
///
/// # Errors
/// The first rule that is broken.
pub(crate) fn check(
    topic: &str,
    properties: &Properties<'_>,
    payload: &[u8],
    limits: &Limits,
    mqtt: &Mqtt,
) -> Result<(), Reason> {
    if topic.len() > limits.topic_bytes_max as usize
        || topic::level_count(topic) > limits.topic_levels_max as usize
    {
        return Err(Reason::TopicLimit);
    }
    if topic.starts_with('$') {
        return Err(Reason::BrokerTopic);
    }
    if !user_properties_fit(properties, limits) {
        return Err(Reason::UserProperties);
    }
    if mqtt.payload_format_checked
        && properties.payload_format_indicator() == Some(1)
        && std::str::from_utf8(payload).is_err()
    {
        return Err(Reason::PayloadFormat);
    }
    Ok(())
}

/// Returns `true` when the user properties of a packet are within the limits.
pub(crate) fn user_properties_fit(properties: &Properties<'_>, limits: &Limits) -> bool {
    if !properties.has(PropertyId::UserProperty) {
        return true;
    }
    let (count, bytes) = properties
        .user_properties()
        .fold((0, 0), |(count, bytes), (name, value)| (count + 1, bytes + name.len() + value.len()));
    count <= limits.user_properties_max as usize && bytes <= limits.user_property_bytes_max as usize
}
