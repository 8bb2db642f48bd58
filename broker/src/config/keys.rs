//! Declarations of all keys, except those of listeners ([`listener`](super::listener)).
//!
//! A key is a row of `sections!`: name, type, default, range, and the word for when a reload takes
//! effect (`Connect`, `Restart`; at once without a word).

use lapwing_protocol::topic;

use super::Config;
use super::declare::{ANY, ConfigKey, Parse, choices, key, words};
use super::value::Given;
use crate::config::Secret;
use crate::message::Durability;

words! { Durability { Always = "always", Interval = "interval", None = "none", } }
choices! {
    /// Reaction to a damaged file.
    OnCorruption {
        /// Do not start.
        #[default]
        Refuse = "refuse",
        /// Set the file aside and start with the sound part.
        Quarantine = "quarantine",
    }
}

choices! {
    /// Reaction to a message for a session whose queue is full.
    QueuePolicy {
        /// Drop the new message.
        #[default]
        DropNewest = "drop_newest",
        /// Drop the oldest message of the queue.
        DropOldest = "drop_oldest",
        /// Refuse the message: MQTT 5 publishers get 0x97.
        Refuse = "refuse",
        /// Drop the message and disconnect the slow client (MQTT 5: 0x97).
        Disconnect = "disconnect",
    }
}

choices! {
    /// Reaction to a subscription that is wider than the rules allow.
    WideSubscriptions {
        /// Refuse it with 0x87.
        #[default]
        Refuse = "refuse",
        /// Accept it if the rules allow a part of it, and deliver only that part.
        Filter = "filter",
    }
}

choices! {
    /// Reaction to a forbidden PUBLISH from an MQTT 3 client.
    DeniedPublish {
        /// Acknowledge and drop it: MQTT 3 has no negative answer.
        #[default]
        Acknowledge = "acknowledge",
        /// Close the connection.
        Close = "close",
    }
}

choices! {
    /// Format of a log line.
    LogFormat {
        /// For people.
        #[default]
        Text = "text",
        /// For programs.
        Json = "json",
    }
}

macro_rules! sections {
    ($($(#[$section_doc:meta])* $Section:ident $section:ident {
        $($(#[doc = $doc:literal])+ $name:ident: $t:ty = $default:expr, $range:expr $(, $reload:ident)?;)+
    })+) => {
        $($(#[$section_doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Section { $($(#[doc = $doc])+ pub $name: $t,)+ }

        impl Default for $Section {
            fn default() -> Self {
                $Section { $($name: $default,)+ }
            }
        })+

        /// All keys, section by section.
        pub(super) const KEYS: &[ConfigKey<Config>] = &[$($(
            key!(Config, stringify!($section), [$section.$name], $name: $t = $default, $range, [$($reload)?], concat!($($doc),+)),
        )+)+];

        /// Names of the sections.
        pub(super) const SECTIONS: &[&str] = &[$(stringify!($section)),+];
    };
}

sections! {
    /// Features that the broker offers.
    Mqtt mqtt {
        /// Highest QoS; told to MQTT 5 clients.
        qos_max: u8 = 2, 0..=2, Connect;
        /// Allow retained messages; told to MQTT 5 clients.
        retain_available: bool = true, ANY, Connect;
        /// Check that a payload with payload format indicator 1 is UTF-8 text, and refuse it with
        /// 0x99 if it is not.
        payload_format_checked: bool = false, ANY;
        /// Response Information for clients that request it.
        response_information: Option<String> = None, ANY;
        /// Reference to another server. If set, every CONNECT is answered with 0x9C (use another
        /// server) and this text.
        server_reference: Option<String> = None, ANY;
        /// With server_reference: answer 0x9D (server moved) instead.
        server_moved: bool = false, ANY;
        /// Interval between publications of the $SYS topics, in seconds; 0 turns them off.
        sys_interval_s: u32 = 10, 0..=86_400;
    }
    /// Limits. None is unlimited by default.
    Limits limits {
        /// Time from accept to CONNECT, including TLS and WebSocket handshakes, in seconds. It is
        /// spread by up to a tenth more, so that a burst of connections does not time out at once.
        connect_timeout_s: u32 = 10, 1..=3_600;
        /// Largest packet before CONNECT is accepted, in bytes.
        packet_bytes_before_connect: u64 = 65_536, 128..=16_777_216;
        /// Largest packet, in bytes; told to MQTT 5 clients.
        packet_bytes_max: u32 = 16_777_216, 128..=268_435_460, Connect;
        /// Maximum number of levels of a topic name or filter.
        topic_levels_max: u32 = 128, 1..=65_535;
        /// Longest topic name or filter, in bytes.
        topic_bytes_max: u32 = 65_535, 1..=65_535;
        /// Longest client identifier, in bytes.
        client_id_bytes_max: u32 = 256, 23..=65_535;
        /// Maximum number of user properties in one packet.
        user_properties_max: u32 = 64, 0..=65_535;
        /// Maximum total size of names and values of user properties in one packet, in bytes.
        user_property_bytes_max: u64 = 8_192, 0..=16_777_216;
        /// Maximum number of unacknowledged QoS 1 and 2 messages from a client. Told to MQTT 5
        /// clients; more are refused with 0x93.
        receive_maximum: u16 = 64, 1..=65_535, Connect;
        /// Maximum number of unacknowledged QoS 1 and 2 messages sent to a client, or its own
        /// Receive Maximum if that is lower.
        in_flight_max: u16 = 64, 1..=65_535, Connect;
        /// Maximum number of messages in a session queue.
        queued_messages_max: u32 = 1_000, 1..=100_000_000;
        /// Maximum size of a session queue, in bytes.
        queued_bytes_max: u64 = 1_048_576, 1_024..=1_099_511_627_776;
        /// Reaction to a full session queue.
        queue_policy: QueuePolicy = QueuePolicy::DropNewest, ANY;
        /// Queue QoS 0 messages for offline sessions.
        queue_qos0: bool = false, ANY;
        /// Bytes that may wait to be written to a client; above it nothing more is read from that
        /// client.
        write_buffer_bytes_max: u64 = 262_144, 4_096..=1_073_741_824;
        /// Time without progress in writing after which a client is disconnected, in seconds.
        write_stall_timeout_s: u32 = 20, 1..=3_600;
        /// Number of topic aliases that a client may use; told to MQTT 5 clients.
        topic_aliases_in_max: u16 = 16, 0..=65_535, Connect;
        /// Number of topic aliases that the broker uses towards a client that allows them.
        topic_aliases_out_max: u16 = 16, 0..=65_535, Connect;
        /// Maximum number of subscriptions of a session.
        subscriptions_max: u32 = 50_000, 1..=10_000_000;
        /// Maximum number of retained messages.
        retained_messages_max: u32 = 100_000, 0..=100_000_000;
        /// Maximum total size of retained messages, in bytes.
        retained_bytes_max: u64 = 1_073_741_824, 0..=1_099_511_627_776;
        /// Maximum number of sessions, connected or offline.
        sessions_max: u32 = 1_000_000, 1..=100_000_000;
        /// Maximum time that a session outlives its connection, in seconds. Told to MQTT 5 clients
        /// that ask for more; MQTT 3 sessions get this value.
        session_expiry_max_s: u32 = 2_592_000, 0..=4_294_967_295, Connect;
        /// Longest keep-alive, in seconds; 0: no limit. A limit also applies to clients without
        /// keep-alive.
        keep_alive_max_s: u32 = 0, 0..=65_535, Connect;
        /// Longest will delay, in seconds.
        will_delay_max_s: u32 = 86_400, 0..=4_294_967_295, Connect;
        /// Maximum time that a message waits in a queue, in seconds, or its own expiry if that is
        /// shorter.
        message_expiry_max_s: u32 = 604_800, 1..=4_294_967_295, Connect;
        /// Maximum number of connections; 0: nine tenths of the limit of open files.
        connections_max: u32 = 0, 0..=100_000_000;
        /// Maximum number of connections from one address; loopback is exempt.
        connections_per_address_max: u32 = 10_000, 1..=100_000_000;
        /// Maximum number of connections that have not sent CONNECT; more wait in the kernel's
        /// queue.
        handshakes_max: u32 = 500, 1..=1_000_000;
        /// Maximum connects per second from one address; loopback is exempt.
        connects_per_address_per_s: u32 = 1_000, 1..=1_000_000;
        /// Maximum number of connections from one address that have not sent CONNECT, enforced when
        /// nine tenths of handshakes_max are in use; loopback is exempt.
        handshakes_per_address_max: u32 = 100, 1..=1_000_000;
        /// Maximum messages per second from one client; 0: no limit. The broker reads more only
        /// when the rate allows it.
        publishes_per_client_per_s: u32 = 0, 0..=10_000_000;
        /// Maximum bytes of PUBLISH packets per second from one client; 0: no limit. More wait.
        publish_bytes_per_client_per_s: u64 = 0, 0..=1_099_511_627_776;
        /// Maximum messages per second from all clients of a user; 0: no limit. More wait.
        publishes_per_user_per_s: u32 = 0, 0..=10_000_000;
        /// Maximum bytes of PUBLISH packets per second from all clients of a user; 0: no limit.
        /// More wait.
        publish_bytes_per_user_per_s: u64 = 0, 0..=1_099_511_627_776;
        /// Maximum connects of a client identifier within flapping_window_s; one more bans it for
        /// flapping_ban_s. 0: no limit.
        flapping_connects_max: u32 = 0, 0..=1_000_000;
        /// Window of flapping_connects_max, in seconds.
        flapping_window_s: u32 = 60, 1..=86_400;
        /// Duration of the ban by flapping_connects_max, in seconds.
        flapping_ban_s: u32 = 300, 1..=31_536_000;
        /// Slow down two clients that disconnect each other by the same client identifier: each
        /// takeover within ten seconds of the last waits longer, up to 5 s.
        takeovers_damped: bool = true, ANY;
        /// Memory of the process at which new clients are refused, in bytes; 0: 80 % of the memory
        /// of the machine or control group.
        memory_budget_bytes: u64 = 0, 0..=1_099_511_627_776;
        /// Percentage of memory_budget_bytes at which PUBLISH packets wait.
        memory_pause_percent: u32 = 70, 1..=100;
        /// Maximum time that a stop waits for clients that do not read, in seconds.
        shutdown_timeout_s: u32 = 10, 0..=3_600;
    }
    /// Authentication and access rules (docs/SECURITY.md). Without any of these keys every client
    /// may do everything.
    Auth auth {
        /// Accept clients without credentials beside those with. Without any authentication all
        /// clients are accepted. Also for each listener.
        allow_anonymous: bool = false, ANY;
        /// Users and their passwords, one a line; written by `lapwing user add`. Files of
        /// mosquitto_passwd work unchanged.
        password_file: Option<String> = None, ANY;
        /// Rehash passwords of Mosquitto ($6$, $7$) with argon2id, in the file, when their users
        /// log in.
        password_rehash: bool = false, ANY;
        /// Memory of argon2id for a new password, in bytes.
        password_memory_bytes: u64 = 8_388_608, 65_536..=1_073_741_824;
        /// Number of passes of argon2id over that memory for a new password.
        password_passes: u32 = 1, 1..=64;
        /// Maximum number of passwords that are hashed at once; 0: half of the cores.
        password_hashers_max: u32 = 0, 0..=1_024, Restart;
        /// Maximum number of passwords that wait to be hashed; above it clients are refused as
        /// server busy (0x89).
        password_queue_max: u32 = 1_000, 1..=100_000, Restart;
        /// Time for which a correct password needs no hashing again, in seconds; 0: never. The
        /// broker keeps a keyed digest in memory, not the password.
        password_cache_s: u32 = 86_400, 0..=31_536_000, Restart;
        /// Maximum number of cached passwords.
        password_cache_entries_max: u32 = 100_000, 0..=10_000_000, Restart;
        /// Maximum number of wrong passwords from an address (IPv6: a /64 network) in a minute;
        /// more logins are refused with 0x9F for the rest of it. 0: no limit.
        failures_per_address_max: u32 = 10, 0..=1_000_000;
        /// Public keys that verify tokens, PEM: RSA for RS256, EC P-256 for ES256, Ed25519 for
        /// EdDSA. A token (JWT) is sent as password.
        jwt_key_file: Option<String> = None, ANY;
        /// The same as a JWK set.
        jwks_file: Option<String> = None, ANY;
        /// Secret of HS256, at least 32 bytes; only the owner may have access to the file.
        jwt_secret_file: Option<String> = None, ANY;
        /// Required issuer of a token (iss). None: any issuer with a valid key.
        jwt_issuer: Option<String> = None, ANY;
        /// Required audience of a token (aud). None: any.
        jwt_audience: Option<String> = None, ANY;
        /// Require that a token expires (exp). At that time its client is disconnected with 0xA0.
        jwt_expiry_required: bool = true, ANY;
        /// Tolerated clock difference to the issuers of tokens, in seconds.
        jwt_leeway_s: u32 = 30, 0..=3_600;
        /// Claim that holds the user name.
        jwt_user_claim: String = "sub".to_owned(), ANY;
        /// Claim that holds the only client identifier that the token is valid for. None, or a
        /// token without it: any.
        jwt_client_id_claim: Option<String> = None, ANY;
        /// Claim that lists groups.
        jwt_groups_claim: String = "groups".to_owned(), ANY;
        /// Claim that holds access rules: {"publish": ["a/#"], "subscribe": ["b/+"], "all": [],
        /// "deny": []}. They add to those of acl_file.
        jwt_acl_claim: String = "acl".to_owned(), ANY;
        /// URL of a JWK set, like https://…/jwks.json (needs a build with the feature http).
        jwks_url: Option<String> = None, ANY;
        /// Interval between two downloads of jwks_url, in seconds.
        jwks_refresh_s: u32 = 3_600, 10..=604_800;
        /// Authentication service that gets a POST for each CONNECT (needs a build with the feature
        /// http; docs/SECURITY.md).
        http_url: Option<String> = None, ANY;
        /// Maximum response time of http_url and jwks_url, in milliseconds; after it the client is
        /// refused.
        http_timeout_ms: u32 = 2_000, 10..=60_000;
        /// Time for which accepted credentials are not sent to http_url again, in seconds; 0: they
        /// always are.
        http_cache_s: u32 = 60, 0..=86_400;
        /// Certificate authorities for http_url and jwks_url, PEM. None: those of the Web.
        http_ca_file: Option<String> = None, ANY;
        /// Mosquitto's psk_file. Pre-shared keys are not supported, since rustls has none; use
        /// client certificates.
        psk_file: Option<String> = None, ANY;
        /// Client identifier that a user must have; %u is the user name, a final * matches
        /// anything. None: any.
        client_id_template: Option<String> = None, ANY;
        /// Access rules: TOML if the name ends in .toml, else Mosquitto's format. Without it
        /// accepted clients may do everything; with it only what a rule allows.
        acl_file: Option<String> = None, ANY;
        /// Banned clients, users and addresses; written by `lapwing ban add`. A missing file bans
        /// nobody.
        ban_file: Option<String> = None, ANY;
        /// Reaction to a subscription that is wider than the rules allow, like # where a/# is
        /// allowed: "refuse" it, or "filter" its messages.
        wide_subscriptions: WideSubscriptions = WideSubscriptions::Refuse, ANY;
        /// Deliver a retained message only while its publisher may publish to its topic.
        retained_source_checked: bool = true, ANY;
        /// Reaction to a forbidden PUBLISH from an MQTT 3 client: "acknowledge" and drop, or
        /// "close" the connection. MQTT 5 clients get 0x87.
        denied_publish: DeniedPublish = DeniedPublish::Acknowledge, ANY;
        /// Let only the user that created a session resume it or take it over; others with the same
        /// client identifier are refused with 0x85.
        sessions_belong_to_users: bool = true, ANY;
        /// Disconnect a client (0x87) when its right to one of its subscriptions is revoked,
        /// instead of only removing the subscription.
        revoked_disconnects: bool = false, ANY;
        /// End offline sessions, with their queued messages, when a reload finds that their user
        /// was removed. Otherwise they last until they expire, and nobody can resume them.
        removed_users_end_sessions: bool = false, ANY;
    }
    /// Location and durability of the state (docs/PROMISES.md).
    Store store {
        /// Folder of the state; created if it is missing. Also `--data-dir`.
        data_dir: String = "lapwing-data".to_owned(), ANY, Restart;
        /// Keep everything in memory only: a restart loses it. Also `--in-memory`.
        in_memory: bool = false, ANY, Restart;
        /// Guarantee behind an acknowledgement of a stored message: "always" - it is on disk;
        /// "interval" - it is written, and synced by a timer; "none" - it will be written soon.
        /// Also for each listener.
        durability: Durability = Durability::Always, ANY;
        /// Topic filters of messages with durability "always", whatever the listener's durability.
        topics_always: Vec<String> = Vec::new(), ANY;
        /// Topic filters of messages with durability "interval".
        topics_interval: Vec<String> = Vec::new(), ANY;
        /// Topic filters of messages with durability "none".
        topics_none: Vec<String> = Vec::new(), ANY;
        /// Maximum time that data which nobody waits for stays unsynced, in milliseconds: that of
        /// durability "interval", and acknowledgements by clients.
        sync_interval_ms: u32 = 1_000, 1..=3_600_000, Restart;
        /// Minimum time between two syncs, in milliseconds. 10 to 20 reduces wear of an SD card,
        /// but acknowledgements are slower.
        min_sync_interval_ms: u32 = 0, 0..=60_000, Restart;
        /// Reaction to a damaged file at the start: "refuse" to start, or "quarantine" it and use
        /// the sound part.
        on_corruption: OnCorruption = OnCorruption::Refuse, ANY, Restart;
        /// Maximum size of a session queue on disk, beyond its part in memory, in bytes; then
        /// limits.queue_policy applies.
        queue_bytes_max: u64 = 268_435_456, 0..=1_099_511_627_776;
        /// Maximum number of messages in a session queue on disk.
        queue_messages_max: u32 = 100_000_000, 1..=100_000_000;
        /// Maximum size of all session queues on disk, in bytes.
        queues_bytes_max: u64 = 2_147_483_648, 0..=1_099_511_627_776;
        /// Memory for retained messages, in bytes; others are read from disk when a client needs
        /// them.
        retained_cache_bytes: u64 = 16_777_216, 0..=1_099_511_627_776;
        /// Write a checkpoint after this many bytes of log, or of index memory. Up to 4 times as
        /// much while the disk is slow.
        window_bytes: u64 = 33_554_432, 65_536..=1_073_741_824, Restart;
        /// Cache memory of the checkpoint, in bytes.
        cache_bytes: u64 = 8_388_608, 1_048_576..=1_073_741_824, Restart;
    }
    /// HTTP endpoint for operators: metrics and health (docs/MONITORING.md), API (docs/ADMIN.md).
    Admin admin {
        /// Address to listen on, like 127.0.0.1:9883. Metrics, health and version are readable by
        /// anyone who can connect; the API needs a token. None: no endpoint.
        address: Option<String> = None, ANY, Restart;
        /// Serve metrics and version without a token at an address that other machines can reach.
        open: bool = false, ANY, Restart;
        /// Token that a request to /api must send ("Authorization: Bearer TOKEN"), at least 16
        /// characters.
        token: Option<Secret> = None, ANY;
        /// File that holds the token, in place of token; only the owner may have access.
        token_file: Option<String> = None, ANY;
        /// Unix socket of `lapwing ctl`, for root and the user that runs the broker (mode 600).
        /// None: lapwing.sock in store.data_dir, and no socket with store.in_memory. "off": no
        /// socket.
        socket: Option<String> = None, ANY, Restart;
    }
    /// Export of message traces to OpenTelemetry (needs a build with the feature otlp;
    /// docs/MONITORING.md).
    Telemetry telemetry {
        /// URL of the collector, OTLP over HTTP, like http://127.0.0.1:4318; /v1/traces is
        /// appended. None: no export.
        otlp_endpoint: Option<String> = None, ANY, Restart;
        /// Additional HTTP headers for the collector, like "authorization=Bearer
        /// TOKEN,other=value".
        otlp_headers: Option<Secret> = None, ANY, Restart;
        /// File that holds the headers, in place of otlp_headers; only the owner may have access.
        otlp_headers_file: Option<String> = None, ANY, Restart;
        /// Maximum response time of the collector, in milliseconds.
        otlp_timeout_ms: u32 = 5_000, 10..=60_000, Restart;
        /// Name of the broker in traces (service.name).
        service_name: String = "lapwing".to_owned(), ANY, Restart;
        /// Export a message with a traceparent only if its publisher
        /// samples it (its flag "sampled").
        sampled_only: bool = true, ANY, Restart;
        /// Number of messages without a traceparent, of a million, that begin a trace of their own.
        untraced_per_million: u32 = 0, 0..=1_000_000, Restart;
        /// Time for which spans are gathered before they are sent, in milliseconds.
        interval_ms: u32 = 1_000, 10..=60_000, Restart;
        /// Maximum number of spans that wait to be sent, and of unfinished deliveries; what does
        /// not fit is counted.
        spans_max: u32 = 8_192, 1..=1_000_000, Restart;
    }
    /// The log.
    Log log {
        /// Level of the log: error, warn, info, debug, trace, or a filter like
        /// "info,lapwing::net=debug".
        level: String = "info".to_owned(), ANY;
        /// Format of a log line.
        format: LogFormat = LogFormat::Text, ANY, Restart;
    }
}

impl Store {
    /// Durability of a message of this topic: by the topic filters, else the listener, else the
    /// store.
    pub fn durability_of(&self, topic: &str, listener: Option<Durability>) -> Durability {
        let matched = |filters: &[String]| filters.iter().any(|filter| topic::matches(filter, topic));
        let of_topic = [
            (&self.topics_always, Durability::Always),
            (&self.topics_interval, Durability::Interval),
            (&self.topics_none, Durability::None),
        ];
        let of_topic =
            of_topic.iter().find(|(filters, _)| matched(filters)).map(|(_, durability)| *durability);
        of_topic.or(listener).unwrap_or(self.durability)
    }
}
