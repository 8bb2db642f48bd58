//! A small independent codec of MQTT 3.1, 3.1.1 and 5.0: packets as named fields, written from and
//! compared with text.

use std::collections::BTreeMap;

/// A protocol version by its name: `3.1`, `3.1.1`, `5.0`.
pub type Version = &'static str;

/// A packet as fields. Property `x` is field `p.x`, a will property `wp.x`; a repeated field joins
/// its values with `|`.
pub type Fields = BTreeMap<String, String>;

/// Name, identifier and kind of each property.
const PROPERTIES: &[(&str, u8, char)] = &[
    ("payload_format", 0x01, 'b'),
    ("expiry", 0x02, 'l'),
    ("content_type", 0x03, 's'),
    ("response_topic", 0x08, 's'),
    ("correlation", 0x09, 'd'),
    ("sub_id", 0x0b, 'v'),
    ("session_expiry", 0x11, 'l'),
    ("assigned_id", 0x12, 's'),
    ("server_keep_alive", 0x13, 'w'),
    ("auth_method", 0x15, 's'),
    ("auth_data", 0x16, 'd'),
    ("problem_info", 0x17, 'b'),
    ("will_delay", 0x18, 'l'),
    ("request_response_info", 0x19, 'b'),
    ("response_info", 0x1a, 's'),
    ("server_reference", 0x1c, 's'),
    ("reason_string", 0x1f, 's'),
    ("receive_max", 0x21, 'w'),
    ("alias_max", 0x22, 'w'),
    ("alias", 0x23, 'w'),
    ("qos_max", 0x24, 'b'),
    ("retain_available", 0x25, 'b'),
    ("user", 0x26, 'p'),
    ("packet_max", 0x27, 'l'),
    ("wildcard_available", 0x28, 'b'),
    ("sub_id_available", 0x29, 'b'),
    ("shared_available", 0x2a, 'b'),
];

const NAMES: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

/// A number in decimal or as `0x…`.
pub fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// Text as bytes: `hex:…` for any bytes, `rep:N` for N times `x`, else the text itself.
pub fn bytes_of(text: &str) -> Vec<u8> {
    if let Some(hex) = text.strip_prefix("hex:") {
        (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hex")).collect()
    } else if let Some(n) = text.strip_prefix("rep:") {
        vec![b'x'; number(n) as usize]
    } else {
        text.as_bytes().to_vec()
    }
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

fn properties(fields: &Fields, prefix: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, values) in
        fields.iter().filter_map(|(key, value)| key.strip_prefix(prefix).map(|name| (name, value)))
    {
        let (_, id, kind) =
            PROPERTIES.iter().find(|(n, ..)| *n == name).unwrap_or_else(|| panic!("property {name}"));
        for value in values.split('|') {
            block.push(*id);
            match kind {
                'b' => block.push(number(value) as u8),
                'w' => block.extend((number(value) as u16).to_be_bytes()),
                'l' => block.extend((number(value) as u32).to_be_bytes()),
                'v' => block.extend(varint(number(value) as usize)),
                'p' => {
                    let (key, value) = value.split_once(':').expect("user property KEY:VALUE");
                    field(&mut block, key.as_bytes());
                    field(&mut block, value.as_bytes());
                }
                _ => field(&mut block, &bytes_of(value)),
            }
        }
    }
    let mut out = varint(block.len());
    out.extend(block);
    out
}

/// Writes a packet.
pub fn encode(name: &str, fields: &Fields, version: &str) -> Vec<u8> {
    let v5 = version == "5.0";
    let get = |key: &str| fields.get(key).map(String::as_str);
    let num = |key: &str, default: u64| get(key).map_or(default, number);
    let kind = NAMES.iter().position(|n| *n == name).unwrap_or_else(|| panic!("packet {name}")) as u8;
    let mut flags = match name {
        "pubrel" | "subscribe" | "unsubscribe" => 2,
        _ => 0,
    };
    let mut body = Vec::new();
    let id = |body: &mut Vec<u8>| body.extend((num("id", 1) as u16).to_be_bytes());
    let props = |body: &mut Vec<u8>, prefix: &str| {
        if v5 {
            body.extend(properties(fields, prefix));
        }
    };
    match name {
        "connect" => {
            let (protocol, level) = match version {
                "3.1" => ("MQIsdp", 3),
                "3.1.1" => ("MQTT", 4),
                _ => ("MQTT", 5),
            };
            field(&mut body, protocol.as_bytes());
            body.push(level);
            let will = get("will");
            body.push(
                num("clean", 1) as u8 * 2
                    + u8::from(will.is_some()) * 4
                    + num("will_qos", 0) as u8 * 8
                    + num("will_retain", 0) as u8 * 32
                    + u8::from(get("password").is_some()) * 64
                    + u8::from(get("user").is_some()) * 128,
            );
            body.extend((num("ka", 0) as u16).to_be_bytes());
            props(&mut body, "p.");
            field(&mut body, get("id").unwrap_or("").as_bytes());
            if let Some(topic) = will {
                props(&mut body, "wp.");
                field(&mut body, topic.as_bytes());
                field(&mut body, &bytes_of(get("will_payload").unwrap_or("gone")));
            }
            get("user").into_iter().chain(get("password")).for_each(|text| field(&mut body, &bytes_of(text)));
        }
        "publish" => {
            let qos = num("qos", 0) as u8;
            flags = (num("dup", 0) * 8) as u8 | qos << 1 | num("retain", 0) as u8;
            field(&mut body, &bytes_of(get("topic").unwrap_or("")));
            if qos > 0 {
                id(&mut body);
            }
            props(&mut body, "p.");
            body.extend(bytes_of(get("payload").unwrap_or("")));
        }
        "puback" | "pubrec" | "pubrel" | "pubcomp" => {
            id(&mut body);
            if v5 && (get("reason").is_some() || fields.keys().any(|key| key.starts_with("p."))) {
                body.push(num("reason", 0) as u8);
                props(&mut body, "p.");
            }
        }
        "subscribe" => {
            id(&mut body);
            props(&mut body, "p.");
            for filter in get("filters").unwrap_or("").split('|').filter(|filter| !filter.is_empty()) {
                let (filter, options) = filter.rsplit_once('@').unwrap_or((filter, "0"));
                field(&mut body, filter.as_bytes());
                body.push(number(options) as u8);
            }
        }
        "unsubscribe" => {
            id(&mut body);
            props(&mut body, "p.");
            get("filters").unwrap_or("").split('|').for_each(|filter| field(&mut body, filter.as_bytes()));
        }
        "disconnect" | "auth" if v5 && !fields.is_empty() => {
            body.push(num("reason", 0) as u8);
            props(&mut body, "p.");
        }
        _ => {}
    }
    if let Some(forced) = get("flags") {
        flags = number(forced) as u8;
    }
    let mut out = vec![kind << 4 | flags];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

/// Finds a whole packet at the front: its length.
pub fn packet_len(bytes: &[u8]) -> Option<usize> {
    let mut value = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let len = index + 2 + value;
            return (bytes.len() >= len).then_some(len);
        }
    }
    None
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn number(&mut self, n: usize) -> u64 {
        self.take(n).iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn varint(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.number(1);
            value |= (byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    fn text(&mut self) -> String {
        let n = self.number(2) as usize;
        show(self.take(n))
    }
}

/// Bytes as they are written in a script.
pub fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() > 200 && bytes.iter().all(|byte| *byte == b'x') => {
            format!("rep:{}", text.len())
        }
        Ok(text) => text.to_owned(),
        Err(_) => format!("hex:{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// Reads a whole packet that a server may send.
///
/// # Panics
/// On bytes that are no such packet, which fails the test.
pub fn decode(bytes: &[u8], version: &str) -> (&'static str, Fields) {
    let v5 = version == "5.0";
    let name = NAMES[usize::from(bytes[0] >> 4)];
    let flags = bytes[0] & 15;
    let mut r = Reader(&bytes[1..]);
    let len = r.varint() as usize;
    assert_eq!(len, r.0.len(), "a whole packet");
    let mut fields = Fields::new();
    let mut set = |key: &str, value: String| {
        fields.entry(key.to_owned()).and_modify(|all| *all = format!("{all}|{value}")).or_insert(value);
    };
    let block = |r: &mut Reader<'_>, set: &mut dyn FnMut(&str, String)| {
        if !v5 || r.0.is_empty() {
            return;
        }
        let n = r.varint() as usize;
        let mut r = Reader(r.take(n));
        while !r.0.is_empty() {
            let id = r.number(1) as u8;
            let (name, _, kind) =
                PROPERTIES.iter().find(|(_, n, _)| *n == id).unwrap_or_else(|| panic!("property {id}"));
            let value = match kind {
                'b' => r.number(1).to_string(),
                'w' => r.number(2).to_string(),
                'l' => r.number(4).to_string(),
                'v' => r.varint().to_string(),
                'p' => format!("{}:{}", r.text(), r.text()),
                _ => r.text(),
            };
            set(&format!("p.{name}"), value);
        }
    };
    if name != "publish" {
        let expected = if name == "pubrel" { 2 } else { 0 };
        assert_eq!(flags, expected, "the flags of {name}");
    }
    match name {
        "connack" => {
            let present = r.number(1);
            assert!(present <= 1, "connect acknowledge flags");
            set("sp", present.to_string());
            set(if v5 { "reason" } else { "code" }, r.number(1).to_string());
            block(&mut r, &mut set);
        }
        "publish" => {
            let qos = flags >> 1 & 3;
            set("dup", (flags >> 3).to_string());
            set("qos", qos.to_string());
            set("retain", (flags & 1).to_string());
            set("topic", r.text());
            if qos > 0 {
                set("id", r.number(2).to_string());
            }
            block(&mut r, &mut set);
            set("payload", show(r.0));
            r.0 = &[];
        }
        "puback" | "pubrec" | "pubrel" | "pubcomp" => {
            set("id", r.number(2).to_string());
            if v5 {
                let reason = if r.0.is_empty() { 0 } else { r.number(1) };
                set("reason", reason.to_string());
                block(&mut r, &mut set);
            }
        }
        "suback" | "unsuback" => {
            set("id", r.number(2).to_string());
            block(&mut r, &mut set);
            while !r.0.is_empty() {
                set("codes", r.number(1).to_string());
            }
        }
        "disconnect" | "auth" => {
            assert!(v5, "{name} from a server before MQTT 5");
            let reason = if r.0.is_empty() { 0 } else { r.number(1) };
            set("reason", reason.to_string());
            block(&mut r, &mut set);
        }
        "pingresp" => {}
        other => panic!("a server does not send {other}"),
    }
    assert!(r.0.is_empty(), "{name}: bytes are left over");
    (name, fields)
}

/// Reads the packet once more by `mqttbytes`, where that is sound: its 5.0 DISCONNECT and AUTH, and
/// several subscription identifiers, are not (`docs/decisions/0049`).
pub fn second_opinion(bytes: &[u8], version: &str) {
    let mut copy = bytes::BytesMut::from(bytes);
    match version {
        "5.0" => {
            let (name, fields) = decode(bytes, version);
            let several = fields.get("p.sub_id").is_some_and(|ids| ids.contains('|'));
            if matches!(name, "disconnect" | "auth") || several {
                return;
            }
            if let Err(error) = mqttbytes::v5::read(&mut copy, usize::MAX) {
                panic!("mqttbytes refuses this {name} of 5.0: {error:?}: {bytes:02x?}");
            }
        }
        _ => {
            if let Err(error) = mqttbytes::v4::read(&mut copy, usize::MAX) {
                panic!("mqttbytes refuses this packet of {version}: {error:?}: {bytes:02x?}");
            }
        }
    }
}
