//! The options of mosquitto.conf, with the meaning of each here.

use super::Meaning::{self, Bridge, Global, Idle, Listener, Special};
use super::Value::{self, Boolean, Count, Number, Text, Time, Worded};

/// Unlimited becomes the highest limit that there is here.
const QUEUED_MOST: &str = "100000000";
const BYTES_MOST: &str = "1099511627776";

/// Replacements named for options without meaning here.
const SYSTEM: &str = "the service manager does that: see packaging/";
const LOG: &str = "the log goes to standard error, with times; the journal or a redirection keeps it (log.level, log.format)";
const DISK: &str = "acknowledged messages are on disk already; store.durability = \"interval\" is the nearest to saving at intervals";
const PLUGIN: &str = "plugins are not loaded: users come from password_file, client certificates, tokens (auth.jwt_key_file) or a service \
                      (auth.http_url)";
const CIPHERS: &str = "TLS 1.2 and 1.3 are used, with the ciphers of rustls only";
const WEB: &str = "a web server can serve the pages; WebSocket clients need none";

pub(super) const OPTIONS: &[(&str, Meaning)] = &[
    // The listener.
    ("listener", Special),
    ("port", Special),
    ("bind_address", Special),
    ("protocol", Special),
    ("socket_domain", Listener("address_family", Worded)),
    ("bind_interface", Listener("interface", Text)),
    ("mount_point", Listener("mount_point", Text)),
    ("max_connections", Listener("connections_max", Count(None))),
    ("max_qos", Listener("qos_max", Number)),
    ("max_topic_alias", Listener("topic_aliases_in_max", Number)),
    ("use_username_as_clientid", Listener("client_id_is_user", Boolean)),
    ("websockets_origin", Listener("websocket_origins", Text)),
    ("websockets_headers_size", Idle("the headers of a WebSocket request may always have 16 KiB")),
    ("websockets_log_level", Idle(LOG)),
    ("http_dir", Idle(WEB)),
    // TLS.
    ("cafile", Special),
    ("capath", Special),
    ("certfile", Special),
    ("keyfile", Special),
    ("crlfile", Special),
    ("require_certificate", Special),
    ("use_identity_as_username", Special),
    ("use_subject_as_username", Special),
    ("psk_file", Global("auth", "psk_file", Text)),
    ("psk_hint", Idle("there are no pre-shared keys: use client certificates")),
    ("tls_version", Idle(CIPHERS)),
    ("ciphers", Idle(CIPHERS)),
    ("ciphers_tls1.3", Idle(CIPHERS)),
    ("dhparamfile", Idle(CIPHERS)),
    ("tls_engine", Idle("keys are read from files only: keyfile")),
    ("tls_engine_kpass_sha1", Idle("keys are read from files only: keyfile")),
    ("tls_keyform", Idle("keys are read from files only: keyfile")),
    // Who may do what.
    ("per_listener_settings", Special),
    ("allow_anonymous", Special),
    ("listener_allow_anonymous", Special),
    ("password_file", Special),
    ("acl_file", Special),
    ("plugin", Special),
    ("auth_plugin", Special),
    ("global_plugin", Special),
    ("auth_plugin_deny_special_chars", Idle(PLUGIN)),
    ("clientid_prefixes", Special),
    ("allow_zero_length_clientid", Special),
    ("auto_id_prefix", Idle("identifiers that the broker gives begin with auto-")),
    ("check_retain_source", Global("auth", "retained_source_checked", Boolean)),
    // Bounds.
    ("max_inflight_messages", Special),
    (
        "max_inflight_bytes",
        Idle(
            "messages in flight are limited by number (limits.in_flight_max) and by limits.write_buffer_bytes_max",
        ),
    ),
    ("max_queued_messages", Special),
    ("max_queued_bytes", Special),
    ("max_packet_size", Global("limits", "packet_bytes_max", Count(Some("268435460")))),
    ("message_size_limit", Special),
    ("max_keepalive", Global("limits", "keep_alive_max_s", Number)),
    ("memory_limit", Global("limits", "memory_budget_bytes", Number)),
    ("global_max_connections", Global("limits", "connections_max", Count(None))),
    ("max_topic_alias_broker", Global("limits", "topic_aliases_out_max", Number)),
    ("queue_qos0_messages", Global("limits", "queue_qos0", Boolean)),
    ("persistent_client_expiration", Global("limits", "session_expiry_max_s", Time)),
    ("retain_available", Global("mqtt", "retain_available", Boolean)),
    ("sys_interval", Global("mqtt", "sys_interval_s", Number)),
    ("set_tcp_nodelay", Special),
    (
        "upgrade_outgoing_qos",
        Idle("a message is never delivered with a higher QoS than it was published with"),
    ),
    (
        "allow_duplicate_messages",
        Idle("a message that matches several subscriptions of a client is delivered once"),
    ),
    ("retry_interval", Idle("messages are sent again after a reconnect, as MQTT requires")),
    ("store_clean_interval", Idle("nothing has to be cleaned up")),
    // The state.
    ("persistence", Special),
    ("persistence_location", Special),
    ("persistence_file", Idle("the state is several files in a folder: store.data_dir")),
    ("autosave_interval", Idle(DISK)),
    ("autosave_on_changes", Idle(DISK)),
    ("retained_persistence", Idle("retained messages are kept with everything else: store.in_memory")),
    // The program.
    ("include_dir", Special),
    ("log_type", Special),
    ("log_dest", Special),
    ("log_facility", Idle(LOG)),
    ("log_timestamp", Idle(LOG)),
    ("log_timestamp_format", Idle(LOG)),
    ("connection_messages", Special),
    ("pid_file", Idle(SYSTEM)),
    ("user", Idle(SYSTEM)),
    // Bridges.
    ("connection", Special),
    ("address", Bridge),
    ("addresses", Bridge),
    ("topic", Bridge),
    ("bridge_alpn", Bridge),
    ("bridge_attempt_unsubscribe", Bridge),
    ("bridge_bind_address", Bridge),
    ("bridge_cafile", Bridge),
    ("bridge_capath", Bridge),
    ("bridge_certfile", Bridge),
    ("bridge_ciphers", Bridge),
    ("bridge_identity", Bridge),
    ("bridge_insecure", Bridge),
    ("bridge_keyfile", Bridge),
    ("bridge_max_packet_size", Bridge),
    ("bridge_max_topic_alias", Bridge),
    ("bridge_outgoing_retain", Bridge),
    ("bridge_protocol_version", Bridge),
    ("bridge_psk", Bridge),
    ("bridge_receive_maximum", Bridge),
    ("bridge_reload_type", Bridge),
    ("bridge_require_ocsp", Bridge),
    ("bridge_session_expiry_interval", Bridge),
    ("bridge_tcp_keepalive", Bridge),
    ("bridge_tcp_user_timeout", Bridge),
    ("bridge_tls_version", Bridge),
    ("cleansession", Bridge),
    ("clientid", Bridge),
    ("idle_timeout", Bridge),
    ("keepalive_interval", Bridge),
    ("local_cleansession", Bridge),
    ("local_clientid", Bridge),
    ("local_password", Bridge),
    ("local_username", Bridge),
    ("notification_topic", Bridge),
    ("notifications", Bridge),
    ("notifications_local_only", Bridge),
    ("password", Bridge),
    ("remote_clientid", Bridge),
    ("remote_password", Bridge),
    ("remote_username", Bridge),
    ("restart_timeout", Bridge),
    ("round_robin", Bridge),
    ("start_type", Bridge),
    ("threshold", Bridge),
    ("try_private", Bridge),
    ("username", Bridge),
];

/// Replacement for an option whose name starts like one of a plugin.
pub(super) fn of_plugin(name: &str) -> Option<&'static str> {
    (name.starts_with("auth_opt_") || name.starts_with("plugin_opt_")).then_some(PLUGIN)
}

/// Queue limits: unlimited becomes the highest limit.
pub(super) const QUEUED_MESSAGES: Value = Count(Some(QUEUED_MOST));
pub(super) const QUEUED_BYTES: Value = Count(Some(BYTES_MOST));
pub(super) const IN_FLIGHT: Value = Count(Some("65535"));
pub(super) const PLUGINS: &str = PLUGIN;
pub(super) const LOGS: &str = LOG;
