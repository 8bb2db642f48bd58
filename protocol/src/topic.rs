//! Topic names and topic filters (`4.7`), shared subscriptions (`4.8.2`), and matching.
//!
//! All functions work on levels split at `/`, without recursion and without a copy.

use crate::text;

/// Prefix of a shared subscription.
pub const SHARE_PREFIX: &str = "$share/";

/// Error of a topic name or topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TopicError {
    /// `[MQTT-4.7.3-1]`: the topic has no characters.
    Empty,
    /// `[MQTT-4.7.3-2]`: the topic contains U+0000.
    Nul,
    /// `[MQTT-4.7.3-3]`: the topic has more than 65,535 bytes.
    TooLong,
    /// `[MQTT-4.7.0-1]`: a topic name contains a wildcard.
    Wildcard,
    /// `[MQTT-4.7.1-1]`: `#` is not alone in the last level.
    MultiLevelPlace,
    /// `[MQTT-4.7.1-2]`: `+` is not alone in its level.
    SingleLevelPlace,
    /// `[MQTT-4.8.2-1]`, `[MQTT-4.8.2-2]`: `$share/` lacks a valid share name or a topic filter.
    Share,
}

/// Returns true if a string contains `+` or `#`.
#[inline]
pub fn has_wildcard(topic: &str) -> bool {
    has_wildcard_byte(topic.as_bytes())
}

/// Returns true if bytes of a string contain `+` or `#`.
#[inline]
pub(crate) fn has_wildcard_byte(topic: &[u8]) -> bool {
    // Without an OS one byte at a time: the scan by words takes 64 more bytes of flash.
    if cfg!(target_os = "none") {
        topic.iter().any(|byte| matches!(byte, b'+' | b'#'))
    } else {
        text::has_either(topic, (b'+', b'#'))
    }
}

/// Returns true if [`check_name`] would accept the topic name. Takes little code.
pub fn is_name(topic: &str) -> bool {
    let forbidden = |byte| matches!(byte, 0 | b'+' | b'#');
    !topic.is_empty() && topic.len() <= crate::limits::STRING_BYTES_MAX && !topic.bytes().any(forbidden)
}

/// Checks a topic name.
///
/// # Errors
/// The rule that the name breaks.
pub fn check_name(topic: &str) -> Result<(), TopicError> {
    check_text(topic)?;
    if has_wildcard(topic) { Err(TopicError::Wildcard) } else { Ok(()) }
}

/// Checks a topic filter, shared or not.
///
/// # Errors
/// The rule that the filter breaks.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_text(filter)?;
    if filter == "$share" {
        return Err(TopicError::Share);
    }
    match filter.strip_prefix(SHARE_PREFIX) {
        None => check_levels(filter),
        Some(rest) => {
            let (name, inner) = rest.split_once('/').ok_or(TopicError::Share)?;
            if name.is_empty() || has_wildcard(name) || inner.is_empty() {
                return Err(TopicError::Share);
            }
            check_levels(inner)
        }
    }
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        Err(TopicError::Empty)
    } else if text.len() > crate::limits::STRING_BYTES_MAX {
        Err(TopicError::TooLong)
    } else if text.bytes().any(|byte| byte == 0) {
        Err(TopicError::Nul)
    } else {
        Ok(())
    }
}

fn check_levels(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        if level.contains('#') && !(level == "#" && last) {
            return Err(TopicError::MultiLevelPlace);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::SingleLevelPlace);
        }
    }
    Ok(())
}

/// Returns share name and topic filter of `$share/NAME/FILTER`; `None` for any other filter.
pub fn shared(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix(SHARE_PREFIX)?.split_once('/')
}

/// Number of levels.
pub fn level_count(topic: &str) -> usize {
    topic.bytes().filter(|byte| *byte == b'/').count() + 1
}

/// Returns true if a valid topic filter, without `$share/NAME/`, matches a topic name.
///
/// A wildcard in the first level does not match a topic that begins with `$` (`[MQTT-4.7.2-1]`).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        match (level, names.next()) {
            // `a/#` matches its parent `a` too (`4.7.1.2`).
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_seen_wherever_it_stands() {
        for len in 0..30 {
            // Neighbours of both wildcards, and bytes that differ from them in one bit.
            let plain: std::vec::Vec<u8> = b"*,\"$\xab\xa3k".iter().copied().cycle().take(len).collect();
            assert!(!has_wildcard_byte(&plain));
            for (at, byte) in (0..len).flat_map(|at| [(at, b'+'), (at, b'#')]) {
                let mut bytes = plain.clone();
                bytes[at] = byte;
                assert!(has_wildcard_byte(&bytes), "{byte:#x} at {at} of {len}");
            }
        }
    }

    // 3.1.1: [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-1] [MQTT-4.7.3-2]
    // 5.0: [MQTT-4.7.0-1] [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.7.3-2]
    #[test]
    fn filters_are_judged_by_the_place_of_their_wildcards() {
        for good in
            ["#", "+", "/", "a", "a/#", "a/+/b", "+/+", "/+", "+/", "//#", "$SYS/#", "a b", "$share/g/#"]
        {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", TopicError::Empty),
            ("a/#/b", TopicError::MultiLevelPlace),
            ("a#", TopicError::MultiLevelPlace),
            ("#a", TopicError::MultiLevelPlace),
            ("##", TopicError::MultiLevelPlace),
            ("a+", TopicError::SingleLevelPlace),
            ("++/a", TopicError::SingleLevelPlace),
            ("a\0", TopicError::Nul),
        ] {
            assert_eq!(check_filter(bad), Err(why), "{bad}");
        }
        assert_eq!(check_name("a/+"), Err(TopicError::Wildcard));
        assert_eq!(check_name("a/$b"), Ok(()));
        for name in ["", "a", "a/b", "a/+", "#", "a\0", "ä"] {
            assert_eq!(is_name(name), check_name(name).is_ok(), "{name}");
        }
    }

    // 5.0: [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    #[test]
    fn a_share_needs_a_name_without_wildcards_and_a_filter() {
        for bad in ["$share", "$share/", "$share/g", "$share/g/", "$share//t", "$share/+/t", "$share/a#/t"] {
            assert_eq!(check_filter(bad), Err(TopicError::Share), "{bad}");
        }
        assert_eq!(shared("$share/g//t"), Some(("g", "/t")));
        assert_eq!(shared("$shared/g/t"), None);
        assert_eq!(check_filter("$share/g/a/#/b"), Err(TopicError::MultiLevelPlace));
    }

    // 3.1.1: [MQTT-4.7.2-1] [MQTT-4.7.3-4]  5.0: [MQTT-4.7.2-1] [MQTT-4.7.3-4]
    #[test]
    fn matching_follows_the_examples_of_the_standard() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("#", "a/b"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("sport/+", "sport/"),
            ("$SYS/#", "$SYS/broker"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a/b", "a/b"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/broker"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("a/b", "A/b"),
            ("a/b", "a/b/"),
            ("a/b", "a"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }
}
