//! Brokers that are known by name, configured for speed and for the limits that the scenarios need.

use std::path::{Path, PathBuf};

use super::{Broker, Error};
use crate::scenario::Need;

const LAPWING: &str = "[[listener]]\naddress = '127.0.0.1:{port}'\n[[listener]]\naddress = '127.0.0.1:{tls_port}'\ntransport = 'tls'\n\
    certificate_file = '{cert}'\nkey_file = '{key}'\n[mqtt]\nsys_interval_s = 0\n[log]\nlevel = 'warn'\n[store]\ndata_dir = '{folder}/data'\n\
    [limits]\nqueued_messages_max = 1000000\nqueued_bytes_max = '1GiB'\nin_flight_max = 1000\nreceive_maximum = 1000\nhandshakes_max = 10000\n\
    retained_messages_max = 2000000\nsubscriptions_max = 1000000\nconnects_per_address_per_s = 1000000\n";

const MOSQUITTO: &str = "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlistener {tls_port} 127.0.0.1\nallow_anonymous true\n\
    set_tcp_nodelay true\ncertfile {cert}\nkeyfile {key}\nmax_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 1000\n\
    persistence false\nlog_type error\nuser root\nsys_interval 0\n";

/// In memory. A listener accepts one protocol version.
const RUMQTTD: &str = "id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\nmax_segment_size = 104857600\n\
    max_segment_count = 10\n[v4.1]\nname = 'plain'\nlisten = '127.0.0.1:{port}'\nnext_connection_delay_ms = 1\n[v4.1.connections]\n\
    connection_timeout_ms = 60000\nmax_payload_size = 2097152\nmax_inflight_count = 1000\ndynamic_filters = true\n\
    [v4.2]\nname = 'tls'\nlisten = '127.0.0.1:{tls_port}'\nnext_connection_delay_ms = 1\n[v4.2.tls]\ncertpath = '{cert}'\nkeypath = '{key}'\n\
    [v4.2.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 2097152\nmax_inflight_count = 1000\ndynamic_filters = true\n\
    [v5.1]\nname = 'five'\nlisten = '127.0.0.1:{v5_port}'\nnext_connection_delay_ms = 1\n[v5.1.connections]\nconnection_timeout_ms = 60000\n\
    max_payload_size = 2097152\nmax_inflight_count = 1000\ndynamic_filters = true\n";

/// Go's sockets have no delay. There is one listener for MQTT.
const NATS: &str = "port: {other_port}\nhost: 127.0.0.1\nserver_name: bench\nmax_payload: 8388608\nwrite_deadline: '60s'\nmax_pending: 1073741824\n\
    jetstream { store_dir: '{folder}/data' }\nmqtt { host: 127.0.0.1, port: {port}, max_ack_pending: 1000{mqtt_tls} }\n";
const NATS_TLS: &str = ", tls { cert_file: '{cert}', key_file: '{key}' }";

/// Reason why RMQTT is missing. A build of it can be a line for `--others`.
const RMQTTD: &str = "left out: rmqttd 0.24.0 needs protoc to build; name a build of it with --others";

const NATS_LACKS: &[(Need, &str)] = &[
    (Need::Qos2, "NATS has QoS 0 and 1 only"),
    (Need::Mqtt5, "NATS speaks MQTT 3.1.1 only"),
    (Need::Shared, "NATS has no shared subscriptions in MQTT"),
];

/// The brokers that were found, and a line for each missing one with the way to get it.
#[derive(Debug)]
pub struct Known {
    pub brokers: Vec<Broker>,
    pub left_out: Vec<String>,
}

/// Lapwing.
///
/// # Errors
/// The current folder does not exist.
pub fn lapwing(program: &Path) -> Result<Broker, Error> {
    Ok(Broker {
        name: "lapwing".to_owned(),
        command: format!("{} -c {{folder}}/config.toml", std::path::absolute(program)?.display()),
        config: LAPWING.to_owned(),
        ..Broker::default()
    })
}

/// Finds the brokers in `peers`/bin and in PATH.
///
/// The first is Lapwing. The second, if it is there, is the base of the ratios. `others` names a
/// file with a line for each further broker: its name, `=`, and its command.
///
/// # Errors
/// The file cannot be read.
pub fn known(lapwing: &Path, peers: &Path, others: Option<&Path>) -> Result<Known, Error> {
    let mut brokers = vec![self::lapwing(lapwing)?];
    let mut left_out = vec![RMQTTD.to_owned()];
    for (program, arguments, config, from) in [
        ("mosquitto", "-c {folder}/config.toml", MOSQUITTO, "apt install mosquitto"),
        ("rumqttd", "-c {folder}/config.toml", RUMQTTD, "cargo install rumqttd --version 0.20.0 --root"),
        ("nats-server", "-c {folder}/config.toml", NATS, "apt install nats-server"),
    ] {
        let Some(file) = find(program, peers) else {
            let to = if from.ends_with("--root") { format!(" {}", peers.display()) } else { String::new() };
            left_out.push(format!("left out: {program} is missing; {from}{to}"));
            continue;
        };
        let is_nats = program == "nats-server";
        brokers.push(Broker {
            name: program.to_owned(),
            command: format!("{} {arguments}", file.display()),
            config: config.replace("{mqtt_tls}", ""),
            secure: is_nats.then(|| config.replace("{mqtt_tls}", NATS_TLS)),
            lacks: if is_nats { NATS_LACKS } else { &[] },
            // rumqttd refuses a keep-alive of 0.
            keep_alive_s: if program == "rumqttd" { 60_000 } else { 0 },
        });
    }
    if let Some(file) = others {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, command) = line
                .split_once('=')
                .ok_or_else(|| format!("{}: '{line}' is not NAME = COMMAND", file.display()))?;
            let (name, command) = (name.trim().to_owned(), command.trim().to_owned());
            brokers.push(Broker { name, command, ..Broker::default() });
        }
    }
    Ok(Known { brokers, left_out })
}

fn find(program: &str, peers: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bin = std::path::absolute(peers.join("bin")).ok();
    let mut folders: Vec<PathBuf> = bin.into_iter().collect();
    folders.extend(std::env::split_paths(&path));
    folders.push("/usr/sbin".into());
    folders.iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ALL;

    #[test]
    fn nats_is_not_asked_for_what_it_cannot_do() {
        let nats = Broker { lacks: NATS_LACKS, ..Broker::default() };
        let cannot: Vec<&str> = ALL
            .iter()
            .filter(|scenario| nats.cannot(scenario.kind).is_some())
            .map(|scenario| scenario.name)
            .collect();
        assert_eq!(cannot, ["p2p-q2", "shared", "p2p-q1-v5"]);
        assert!(ALL.iter().all(|scenario| Broker::default().cannot(scenario.kind).is_none()));
    }

    #[test]
    fn what_the_system_has_is_found_without_a_folder_of_peers() {
        assert_eq!(find("sh", Path::new("")).and_then(|file| Some(file.file_name()? == "sh")), Some(true));
    }

    #[test]
    fn a_broker_that_cargo_installed_is_found_and_what_is_not_there_is_told() {
        let peers = std::env::temp_dir().join(format!("lapwing-peers-{}", std::process::id()));
        std::fs::create_dir_all(peers.join("bin")).unwrap();
        std::fs::write(peers.join("bin/rumqttd"), "").unwrap();
        let known = known(Path::new("lapwing"), &peers, None).unwrap();
        std::fs::remove_dir_all(&peers).unwrap();
        let rumqttd = known.brokers.iter().find(|broker| broker.name == "rumqttd").unwrap();
        assert!(rumqttd.command.starts_with(&*peers.join("bin/rumqttd").to_string_lossy()));
        assert_eq!(known.brokers[0].name, "lapwing");
        assert_eq!(known.brokers.len() + known.left_out.len(), 5, "each is there or told");
    }
}
