//! The declarations: every key of every section but the listeners', which are in
//! [`listener`](super::listener).

use lapwing_protocol::topic;

use super::Config;
use super::declare::{ANY, ConfigKey, Parse, choices, key, words};
use super::value::Given;
use crate::config::Secret;
use crate::message::Durability;

words! { Durability { Always = "always", Interval = "interval", None = "none", } }
choices! {
    /// What to do about a damaged file.
    OnCorruption {
        /// Do not start.
        #[default]
        Refuse = "refuse",
        /// Set it aside and start with what is sound.
        Quarantine = "quarantine",
    }
}

choices! {
    /// What happens to a message for a session whose queue is full.
    QueuePolicy {
        /// It is dropped.
        #[default]
        DropNewest = "drop_newest",
        /// The oldest one is dropped in its place.
        DropOldest = "drop_oldest",
        /// The publisher is told: 0x97 in MQTT 5.
        Refuse = "refuse",
        /// It is dropped, and the client that does not keep up is disconnected: 0x97 in MQTT 5.
        Disconnect = "disconnect",
    }
}

choices! {
    /// What happens to a subscription that is wider than what the rules allow.
    WideSubscriptions {
        /// It is refused: 0x87.
        #[default]
        Refuse = "refuse",
        /// It is accepted where some of it is allowed, and brings only that.
        Filter = "filter",
    }
}

choices! {
    /// What an MQTT 3 client is told that publishes what it may not.
    DeniedPublish {
        /// That all is well: there is no other answer, and the message is dropped.
        #[default]
        Acknowledge = "acknowledge",
        /// Its connection is closed.
        Close = "close",
    }
}

choices! {
    /// The form of a log line.
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

        /// Every key, section by section.
        pub(super) const KEYS: &[ConfigKey<Config>] = &[$($(
            key!(Config, stringify!($section), [$section.$name], $name: $t = $default, $range, [$($reload)?], concat!($($doc),+)),
        )+)+];

        /// The sections.
        pub(super) const SECTIONS: &[&str] = &[$(stringify!($section)),+];
    };
}

sections! {
    /// What the broker offers.
    Mqtt mqtt {
        /// The highest QoS that is offered; told to MQTT 5 clients.
        qos_max: u8 = 2, 0..=2, Connect;
        /// Whether messages can be retained; told to MQTT 5 clients.
        retain_available: bool = true, ANY, Connect;
        /// Whether a payload that is said to be UTF-8 text (payload format indicator 1) is checked,
        /// and refused with 0x99 if it is not.
        payload_format_checked: bool = false, ANY;
        /// The Response Information that is given to clients that ask for it.
        response_information: Option<String> = None, ANY;
        /// Another server: every CONNECT is answered with 0x9C (use another server) and this
        /// reference. None: serve.
        server_reference: Option<String> = None, ANY;
        /// With server_reference: answer 0x9D (server moved) instead.
        server_moved: bool = false, ANY;
        /// How often the $SYS topics are published, in seconds; 0 turns them off.
        sys_interval_s: u32 = 10, 0..=86_400;
    }
    /// What is bounded. "Unlimited" is never a default.
    Limits limits {
        /// The time from accept to CONNECT, TLS and WebSocket included, in seconds; up to a tenth
        /// more, so that a crowd is not sent away in one moment.
        connect_timeout_s: u32 = 10, 1..=3_600;
        /// The largest packet before CONNECT is accepted, in bytes.
        packet_bytes_before_connect: u64 = 65_536, 128..=16_777_216;
        /// The largest packet, in bytes; told to MQTT 5 clients.
        packet_bytes_max: u32 = 16_777_216, 128..=268_435_460, Connect;
        /// The most levels of a topic name or filter.
        topic_levels_max: u32 = 128, 1..=65_535;
        /// The longest topic name or filter, in bytes.
        topic_bytes_max: u32 = 65_535, 1..=65_535;
        /// The longest client identifier, in bytes.
        client_id_bytes_max: u32 = 256, 23..=65_535;
        /// The most user properties in one packet.
        user_properties_max: u32 = 64, 0..=65_535;
        /// The most bytes of names and values of user properties in one packet.
        user_property_bytes_max: u64 = 8_192, 0..=16_777_216;
        /// How many QoS 1 and 2 messages a client may have unacknowledged; told to MQTT 5 clients,
        /// and 0x93 above.
        receive_maximum: u16 = 64, 1..=65_535, Connect;
        /// How many QoS 1 and 2 messages are sent to a client before it acknowledges; its own
        /// Receive Maximum if that is less.
        in_flight_max: u16 = 64, 1..=65_535, Connect;
        /// How many messages wait for one session.
        queued_messages_max: u32 = 1_000, 1..=100_000_000;
        /// How many bytes of messages wait for one session.
        queued_bytes_max: u64 = 1_048_576, 1_024..=1_099_511_627_776;
        /// What happens when a queue is full.
        queue_policy: QueuePolicy = QueuePolicy::DropNewest, ANY;
        /// Whether QoS 0 messages wait for a session without a connection.
        queue_qos0: bool = false, ANY;
        /// How much may wait to be written to a client before nothing more is read from it, in
        /// bytes.
        write_buffer_bytes_max: u64 = 262_144, 4_096..=1_073_741_824;
        /// How long a client may not read before it is disconnected, in seconds.
        write_stall_timeout_s: u32 = 20, 1..=3_600;
        /// The topic aliases that a client may use; told to MQTT 5 clients.
        topic_aliases_in_max: u16 = 16, 0..=65_535, Connect;
        /// The topic aliases that the broker uses towards a client that allows them.
        topic_aliases_out_max: u16 = 16, 0..=65_535, Connect;
        /// How many subscriptions a session may have.
        subscriptions_max: u32 = 50_000, 1..=10_000_000;
        /// How many messages are retained.
        retained_messages_max: u32 = 100_000, 0..=100_000_000;
        /// How many bytes of messages are retained.
        retained_bytes_max: u64 = 1_073_741_824, 0..=1_099_511_627_776;
        /// How many sessions there are, connected or not.
        sessions_max: u32 = 1_000_000, 1..=100_000_000;
        /// How long a session may outlive its connection, in seconds; told to MQTT 5 clients that
        /// ask for more, and what MQTT 3 sessions get.
        session_expiry_max_s: u32 = 2_592_000, 0..=4_294_967_295, Connect;
        /// The longest keep-alive, in seconds; 0: no cap. A cap holds for clients without
        /// keep-alive too.
        keep_alive_max_s: u32 = 0, 0..=65_535, Connect;
        /// The longest will delay, in seconds.
        will_delay_max_s: u32 = 86_400, 0..=4_294_967_295, Connect;
        /// How long a message may wait in a queue, in seconds; its own expiry if that is less.
        message_expiry_max_s: u32 = 604_800, 1..=4_294_967_295, Connect;
        /// How many connections there are; 0: nine tenths of the limit of open files.
        connections_max: u32 = 0, 0..=100_000_000;
        /// How many connections an address may have; loopback is free.
        connections_per_address_max: u32 = 10_000, 1..=100_000_000;
        /// How many connections have not sent CONNECT yet; more wait in the kernel's queue.
        handshakes_max: u32 = 500, 1..=1_000_000;
        /// How often an address may connect in a second; loopback is free.
        connects_per_address_per_s: u32 = 1_000, 1..=1_000_000;
        /// How many connections of one address may not have sent CONNECT yet when nine tenths of
        /// handshakes_max are taken; loopback is free.
        handshakes_per_address_max: u32 = 100, 1..=1_000_000;
        /// How many messages a client may publish in a second; more wait, and are not read until
        /// then. 0: any number.
        publishes_per_client_per_s: u32 = 0, 0..=10_000_000;
        /// How many bytes of PUBLISH packets a client may send in a second; more wait. 0: any
        /// number.
        publish_bytes_per_client_per_s: u64 = 0, 0..=1_099_511_627_776;
        /// How many messages all clients of a user may publish in a second; more wait. 0: any
        /// number.
        publishes_per_user_per_s: u32 = 0, 0..=10_000_000;
        /// How many bytes of PUBLISH packets all clients of a user may send in a second; more wait.
        /// 0: any number.
        publish_bytes_per_user_per_s: u64 = 0, 0..=1_099_511_627_776;
        /// How often a client identifier may connect within flapping_window_s before it is banned
        /// for flapping_ban_s; 0: any number.
        flapping_connects_max: u32 = 0, 0..=1_000_000;
        /// See flapping_connects_max, in seconds.
        flapping_window_s: u32 = 60, 1..=86_400;
        /// See flapping_connects_max, in seconds.
        flapping_ban_s: u32 = 300, 1..=31_536_000;
        /// Whether two clients that throw each other out by the same client identifier are slowed
        /// down: each takeover within ten seconds of the last waits longer, up to 5 s.
        takeovers_damped: bool = true, ANY;
        /// The memory of the process, in bytes, at which no new client is let in; 0: 80 % of the
        /// machine's or the control group's.
        memory_budget_bytes: u64 = 0, 0..=1_099_511_627_776;
        /// The part of it, in percent, at which PUBLISH packets wait.
        memory_pause_percent: u32 = 70, 1..=100;
        /// How long a stop waits for clients that do not read, in seconds.
        shutdown_timeout_s: u32 = 10, 0..=3_600;
    }
    /// Who clients are and what they may do (docs/SECURITY.md). Without any of it everybody may do
    /// everything.
    Auth auth {
        /// Whether clients without credentials are let in beside those with. Without any
        /// authentication everybody is. Also for each listener.
        allow_anonymous: bool = false, ANY;
        /// The users and their passwords, one a line; made by `lapwing user add`. Files of
        /// mosquitto_passwd are read as they are.
        password_file: Option<String> = None, ANY;
        /// Whether a password that Mosquitto hashed ($6$, $7$) is hashed anew with argon2id, in the
        /// file, when its user logs in.
        password_rehash: bool = false, ANY;
        /// The memory that argon2id takes for a new password, in bytes.
        password_memory_bytes: u64 = 8_388_608, 65_536..=1_073_741_824;
        /// How often argon2id passes over that memory for a new password.
        password_passes: u32 = 1, 1..=64;
        /// How many passwords are hashed at once; 0: half of the cores.
        password_hashers_max: u32 = 0, 0..=1_024, Restart;
        /// How many passwords wait to be hashed; above that clients are told that the server is
        /// busy (0x89).
        password_queue_max: u32 = 1_000, 1..=100_000, Restart;
        /// How long a password that was found right needs no hashing again, in seconds; 0: never.
        /// What is remembered is in memory only, and not the password.
        password_cache_s: u32 = 86_400, 0..=31_536_000, Restart;
        /// How many of them are remembered.
        password_cache_entries_max: u32 = 100_000, 0..=10_000_000, Restart;
        /// How many wrong passwords within a minute before an address (a /64 network of IPv6) is
        /// refused with 0x9F for the rest of it; 0: any number.
        failures_per_address_max: u32 = 10, 0..=1_000_000;
        /// The public keys of those who sign tokens, PEM: RSA for RS256, EC P-256 for ES256,
        /// Ed25519 for EdDSA. A token (JWT) is sent as password.
        jwt_key_file: Option<String> = None, ANY;
        /// The same as a JWK set.
        jwks_file: Option<String> = None, ANY;
        /// The secret of HS256, at least 32 bytes, for nobody else's eyes.
        jwt_secret_file: Option<String> = None, ANY;
        /// Who a token must be by (iss). None: anybody with such a key.
        jwt_issuer: Option<String> = None, ANY;
        /// Whom a token must be for (aud). None: anybody.
        jwt_audience: Option<String> = None, ANY;
        /// Whether a token must end (exp). When it does, its client is disconnected with 0xA0.
        jwt_expiry_required: bool = true, ANY;
        /// How far the clocks of those who sign may be off, in seconds.
        jwt_leeway_s: u32 = 30, 0..=3_600;
        /// The claim that is the user.
        jwt_user_claim: String = "sub".to_owned(), ANY;
        /// The claim that is the only client identifier that the token is good for. None, or a
        /// token without it: any.
        jwt_client_id_claim: Option<String> = None, ANY;
        /// The claim that lists groups.
        jwt_groups_claim: String = "groups".to_owned(), ANY;
        /// The claim that holds access rules: {"publish": ["a/#"], "subscribe": ["b/+"], "all": [],
        /// "deny": []}. They come on top of those of acl_file.
        jwt_acl_claim: String = "acl".to_owned(), ANY;
        /// Where a JWK set is published, as https://…/jwks.json (needs a build with the feature
        /// http).
        jwks_url: Option<String> = None, ANY;
        /// How often it is fetched anew, in seconds.
        jwks_refresh_s: u32 = 3_600, 10..=604_800;
        /// A service that says who may come in: it is sent a POST for each CONNECT (needs a build
        /// with the feature http; docs/SECURITY.md).
        http_url: Option<String> = None, ANY;
        /// How long it, or jwks_url, may take to answer, in milliseconds; after that nobody is let
        /// in.
        http_timeout_ms: u32 = 2_000, 10..=60_000;
        /// How long it is not asked again about the same credentials that it allowed, in seconds;
        /// 0: it always is.
        http_cache_s: u32 = 60, 0..=86_400;
        /// The authorities of its certificate, and of that of jwks_url, PEM. None: those of the
        /// Web.
        http_ca_file: Option<String> = None, ANY;
        /// Mosquitto's psk_file. There are no pre-shared keys here: rustls has none. Client
        /// certificates do what they do.
        psk_file: Option<String> = None, ANY;
        /// The client identifier that a user must have: a text in which %u is the user, and a * at
        /// the end is anything. None: any.
        client_id_template: Option<String> = None, ANY;
        /// The access rules: TOML if it ends in .toml, else Mosquitto's format. Without it
        /// everybody who is let in may do everything; with it nothing that no rule allows.
        acl_file: Option<String> = None, ANY;
        /// Who is not let in: clients, users and addresses; made by `lapwing ban add`. A file that
        /// is not there yet bans nobody.
        ban_file: Option<String> = None, ANY;
        /// What happens to a subscription that is wider than what the rules allow, as # is where
        /// a/# is allowed: "refuse" it, or "filter" what it brings.
        wide_subscriptions: WideSubscriptions = WideSubscriptions::Refuse, ANY;
        /// Whether a retained message is delivered only as long as its publisher may publish to its
        /// topic.
        retained_source_checked: bool = true, ANY;
        /// What an MQTT 3 client is told that publishes what it may not: "acknowledge" and drop, or
        /// "close" the connection. MQTT 5 has 0x87 for it.
        denied_publish: DeniedPublish = DeniedPublish::Acknowledge, ANY;
        /// Whether a session can only be resumed and taken over by the user that made it; another
        /// one with the same client identifier is refused with 0x85.
        sessions_belong_to_users: bool = true, ANY;
        /// Whether a client whose right to one of its subscriptions is revoked is disconnected
        /// (0x87), rather than only losing the subscription.
        revoked_disconnects: bool = false, ANY;
        /// Whether sessions at rest end, with all that waits in them, when a reload finds that
        /// their user was removed. Otherwise they wait for their expiry, and nobody can resume
        /// them.
        removed_users_end_sessions: bool = false, ANY;
    }
    /// Where the state is kept, and how safely (docs/PROMISES.md).
    Store store {
        /// The folder of the state; made if it is not there. `--data-dir` says it, too.
        data_dir: String = "lapwing-data".to_owned(), ANY, Restart;
        /// Keep everything in memory only: a restart forgets it. `--in-memory` says it, too.
        in_memory: bool = false, ANY, Restart;
        /// What an acknowledgement of a stored message means: "always" - it is on disk; "interval"
        /// - it is written, and synced by a timer; "none" - it will be written soon. Also for each
        /// listener.
        durability: Durability = Durability::Always, ANY;
        /// Topic filters whose messages are kept as "always" says, whatever the listener says.
        topics_always: Vec<String> = Vec::new(), ANY;
        /// Topic filters whose messages are kept as "interval" says.
        topics_interval: Vec<String> = Vec::new(), ANY;
        /// Topic filters whose messages are kept as "none" says.
        topics_none: Vec<String> = Vec::new(), ANY;
        /// How long "interval" may leave what is written unsynced, in milliseconds.
        sync_interval_ms: u32 = 1_000, 1..=3_600_000, Restart;
        /// The least time between two syncs, in milliseconds: 10 to 20 spares an SD card, at the
        /// price of slower acknowledgements.
        min_sync_interval_ms: u32 = 0, 0..=60_000, Restart;
        /// What to do at the start about a damaged file: "refuse" to start, or "quarantine" it and
        /// use what is sound.
        on_corruption: OnCorruption = OnCorruption::Refuse, ANY, Restart;
        /// How many bytes of messages wait on disk for one session, beyond what is in memory; then
        /// limits.queue_policy decides.
        queue_bytes_max: u64 = 268_435_456, 0..=1_099_511_627_776;
        /// How many messages wait on disk for one session.
        queue_messages_max: u32 = 100_000_000, 1..=100_000_000;
        /// How many bytes of messages wait on disk for all sessions.
        queues_bytes_max: u64 = 2_147_483_648, 0..=1_099_511_627_776;
        /// How many bytes of retained messages stay in memory; the others are read when somebody
        /// wants them.
        retained_cache_bytes: u64 = 16_777_216, 0..=1_099_511_627_776;
        /// How much log there is between two checkpoints, in bytes, or memory of what stands in it,
        /// whichever is reached first; up to four times as much while a disk is slow.
        window_bytes: u64 = 33_554_432, 65_536..=1_073_741_824, Restart;
        /// The cache of the checkpoint, in bytes of memory.
        cache_bytes: u64 = 8_388_608, 1_048_576..=1_073_741_824, Restart;
    }
    /// For operators: figures and health (docs/MONITORING.md), and what looks into the broker and
    /// changes it (docs/ADMIN.md), over HTTP.
    Admin admin {
        /// Where it listens, as 127.0.0.1:9883. Figures, health and version can be read there by
        /// whoever can connect; the rest is served with a token only. None: nowhere.
        address: Option<String> = None, ANY, Restart;
        /// Whether figures and version can be read without a token at an address that others than
        /// this machine can reach.
        open: bool = false, ANY, Restart;
        /// What a request to /api must bring ("Authorization: Bearer TOKEN"), at least 16
        /// characters.
        token: Option<Secret> = None, ANY;
        /// A file that holds the token, for nobody else's eyes, in place of token.
        token_file: Option<String> = None, ANY;
        /// The Unix socket that `lapwing ctl` talks to, for the user that runs the broker and root
        /// (mode 600). None: lapwing.sock in store.data_dir, and no socket with store.in_memory.
        /// "off": no socket.
        socket: Option<String> = None, ANY, Restart;
    }
    /// The ways of single messages as traces of OpenTelemetry (needs a build with the feature otlp;
    /// docs/MONITORING.md).
    Telemetry telemetry {
        /// The collector, by OTLP over HTTP, as http://127.0.0.1:4318; /v1/traces is added. None:
        /// nothing is traced.
        otlp_endpoint: Option<String> = None, ANY, Restart;
        /// More heads of each request to it, as "authorization=Bearer TOKEN,other=value".
        otlp_headers: Option<Secret> = None, ANY, Restart;
        /// A file that holds them, for nobody else's eyes, in place of otlp_headers.
        otlp_headers_file: Option<String> = None, ANY, Restart;
        /// How long the collector may take to answer, in milliseconds.
        otlp_timeout_ms: u32 = 5_000, 10..=60_000, Restart;
        /// What the broker is called in traces (service.name).
        service_name: String = "lapwing".to_owned(), ANY, Restart;
        /// Whether, of the messages with a traceparent, only those are traced whose publisher
        /// traces them (its flag "sampled").
        sampled_only: bool = true, ANY, Restart;
        /// How many of a million messages without a traceparent begin a trace of their own.
        untraced_per_million: u32 = 0, 0..=1_000_000, Restart;
        /// How long spans are gathered before they are sent, in milliseconds.
        interval_ms: u32 = 1_000, 10..=60_000, Restart;
        /// How many spans wait to be sent, and how many deliveries that are under way are followed;
        /// what does not fit is counted.
        spans_max: u32 = 8_192, 1..=1_000_000, Restart;
    }
    /// What is written to the log.
    Log log {
        /// What is logged: error, warn, info, debug, trace, or a filter like
        /// "info,lapwing::net=debug".
        level: String = "info".to_owned(), ANY;
        /// The form of a line.
        format: LogFormat = LogFormat::Text, ANY, Restart;
    }
}

impl Store {
    /// How safely a message of this topic is kept: as its topic filters say, else its listener,
    /// else the store.
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
