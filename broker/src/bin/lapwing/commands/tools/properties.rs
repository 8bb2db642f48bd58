//! `-D COMMAND NAME VALUE`: properties of MQTT 5 in words.

use lapwing_protocol::property::{Place, Property, PropertyId, encode_block};
use lapwing_protocol::{EncodeError, PacketType};

use super::failure::Failure;

/// Blocks of properties for the packets that a tool sends.
#[derive(Debug, Default)]
pub struct Blocks {
    all: Vec<(Command, Given)>,
}

/// The packet that a property is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Connect,
    Publish,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Will,
}

impl Command {
    fn named(name: &str) -> Option<Command> {
        Some(match name {
            "connect" => Command::Connect,
            "publish" => Command::Publish,
            "subscribe" => Command::Subscribe,
            "unsubscribe" => Command::Unsubscribe,
            "disconnect" => Command::Disconnect,
            "will" => Command::Will,
            _ => return None,
        })
    }

    fn place(self) -> Place {
        Place::Packet(match self {
            Command::Will => return Place::Will,
            Command::Connect => PacketType::Connect,
            Command::Publish => PacketType::Publish,
            Command::Subscribe => PacketType::Subscribe,
            Command::Unsubscribe => PacketType::Unsubscribe,
            Command::Disconnect => PacketType::Disconnect,
        })
    }
}

#[derive(Clone, Debug)]
struct Given {
    id: PropertyId,
    number: u32,
    text: String,
    second: String,
}

impl Given {
    fn property(&self) -> Property<'_> {
        use Property as P;
        let (number, text) = (self.number, self.text.as_str());
        match self.id {
            PropertyId::PayloadFormatIndicator => P::PayloadFormatIndicator(number as u8),
            PropertyId::MessageExpiryInterval => P::MessageExpiryInterval(number),
            PropertyId::ContentType => P::ContentType(text),
            PropertyId::ResponseTopic => P::ResponseTopic(text),
            PropertyId::CorrelationData => P::CorrelationData(text.as_bytes()),
            PropertyId::SubscriptionIdentifier => P::SubscriptionIdentifier(number),
            PropertyId::SessionExpiryInterval => P::SessionExpiryInterval(number),
            PropertyId::AuthenticationMethod => P::AuthenticationMethod(text),
            PropertyId::AuthenticationData => P::AuthenticationData(text.as_bytes()),
            PropertyId::RequestProblemInformation => P::RequestProblemInformation(number as u8),
            PropertyId::WillDelayInterval => P::WillDelayInterval(number),
            PropertyId::RequestResponseInformation => P::RequestResponseInformation(number as u8),
            PropertyId::ReceiveMaximum => P::ReceiveMaximum(number as u16),
            PropertyId::TopicAliasMaximum => P::TopicAliasMaximum(number as u16),
            PropertyId::TopicAlias => P::TopicAlias(number as u16),
            PropertyId::MaximumPacketSize => P::MaximumPacketSize(number),
            PropertyId::ReasonString => P::ReasonString(text),
            _ => P::UserProperty((text, &self.second)),
        }
    }
}

/// Properties that a client may set, with their names in the standard, and the highest value of
/// numbers.
const NAMES: [(&str, PropertyId, Option<u32>); 18] = [
    ("payload-format-indicator", PropertyId::PayloadFormatIndicator, Some(1)),
    ("message-expiry-interval", PropertyId::MessageExpiryInterval, Some(u32::MAX)),
    ("content-type", PropertyId::ContentType, None),
    ("response-topic", PropertyId::ResponseTopic, None),
    ("correlation-data", PropertyId::CorrelationData, None),
    ("subscription-identifier", PropertyId::SubscriptionIdentifier, Some(268_435_455)),
    ("session-expiry-interval", PropertyId::SessionExpiryInterval, Some(u32::MAX)),
    ("authentication-method", PropertyId::AuthenticationMethod, None),
    ("authentication-data", PropertyId::AuthenticationData, None),
    ("request-problem-information", PropertyId::RequestProblemInformation, Some(1)),
    ("will-delay-interval", PropertyId::WillDelayInterval, Some(u32::MAX)),
    ("request-response-information", PropertyId::RequestResponseInformation, Some(1)),
    ("receive-maximum", PropertyId::ReceiveMaximum, Some(65_535)),
    ("topic-alias-maximum", PropertyId::TopicAliasMaximum, Some(65_535)),
    ("topic-alias", PropertyId::TopicAlias, Some(65_535)),
    ("maximum-packet-size", PropertyId::MaximumPacketSize, Some(u32::MAX)),
    ("reason-string", PropertyId::ReasonString, None),
    ("user-property", PropertyId::UserProperty, None),
];

/// Returns the name of a property.
pub fn name_of(id: PropertyId) -> &'static str {
    NAMES.iter().find(|(_, known, _)| *known == id).map_or("", |(name, ..)| name)
}

impl Blocks {
    /// Parses the words behind one `-D`.
    pub fn add(&mut self, words: &[String]) -> Result<(), Failure> {
        let wrong = |why: String| Failure::of(format_args!("-D {}", words.join(" ")), why);
        let [command, name, rest @ ..] = words else {
            return Err(wrong("COMMAND NAME VALUE, or COMMAND user-property NAME VALUE".to_owned()));
        };
        let command = Command::named(command).ok_or_else(|| {
            wrong(format!(
                "'{command}' is none of connect, publish, subscribe, unsubscribe, disconnect, will"
            ))
        })?;
        let known = NAMES.iter().find(|(known, ..)| known == name);
        let (_, id, most) = known.ok_or_else(|| {
            wrong(format!(
                "there is no property '{name}' for a client: {}",
                NAMES.map(|(name, ..)| name).join(", ")
            ))
        })?;
        let (text, second) = match (id, rest) {
            (PropertyId::UserProperty, [name, value]) => (name.clone(), value.clone()),
            (PropertyId::UserProperty, _) => {
                return Err(wrong("user-property takes a name and a value".to_owned()));
            }
            (_, [value]) => (value.clone(), String::new()),
            _ => return Err(wrong(format!("{name} takes one value"))),
        };
        let number = match most {
            None => 0,
            Some(most) => text
                .parse()
                .ok()
                .filter(|number| number <= most)
                .ok_or_else(|| wrong(format!("{name} is a number from 0 to {most}")))?,
        };
        self.push(command, Given { id: *id, number, text, second }).map_err(wrong)
    }

    /// Adds a property that another flag stands for, unless `-D` has it.
    pub fn default_number(&mut self, command: Command, id: PropertyId, number: u32) -> Result<(), Failure> {
        self.default(command, Given { id, number, text: String::new(), second: String::new() })
    }

    /// Adds a text as [`default_number`](Self::default_number) adds a number.
    pub fn default_text(&mut self, command: Command, id: PropertyId, text: &str) -> Result<(), Failure> {
        self.default(command, Given { id, number: 0, text: text.to_owned(), second: String::new() })
    }

    fn default(&mut self, command: Command, given: Given) -> Result<(), Failure> {
        if self.all.iter().any(|(packet, one)| *packet == command && one.id == given.id) {
            return Ok(());
        }
        self.push(command, given).map_err(Failure::new)
    }

    fn push(&mut self, command: Command, given: Given) -> Result<(), String> {
        self.all.push((command, given));
        match self.encode(command) {
            Ok(_) => Ok(()),
            Err(_) => Err("the property is invalid there, with that value or twice".to_owned()),
        }
    }

    /// Returns `true` when there is no property.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns the block for a packet.
    pub fn bytes(&self, command: Command) -> Vec<u8> {
        // Invalid properties were refused when they were added.
        self.encode(command).unwrap_or_default()
    }

    fn encode(&self, command: Command) -> Result<Vec<u8>, EncodeError> {
        let own = || self.all.iter().filter(|(packet, _)| *packet == command).map(|(_, given)| given);
        let list: Vec<Property<'_>> = own().map(Given::property).collect();
        // No property takes more bytes beside its text.
        let room = own().map(|given| 16 + given.text.len() + given.second.len()).sum();
        let mut bytes = vec![0; room];
        let len = encode_block(&list, command.place(), &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }
}
