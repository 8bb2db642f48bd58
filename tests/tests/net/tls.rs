//! TLS as an operator meets it: certificates by one command, new ones while clients are connected,
//! protocols by ALPN.
//!
//! A prefix of a name, such as `g08_`, is a row of `docs/ABUSE.md`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lapwing_tests::client::fields;
use lapwing_tests::program::{Folder, Program, binary, certificates, is_there, run};
use lapwing_tests::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

fn lapwing(folder: &Folder, arguments: &[&str]) -> String {
    run(Command::new(binary()).current_dir(&folder.0).args(arguments))
}

#[test]
fn one_command_makes_certificates_that_mosquitto_pub_and_devices_use() {
    if !is_there("mosquitto_pub", "mosquitto_pub".as_ref()) {
        return;
    }
    let folder = Folder::new("cert");
    let printed = lapwing(&folder, &["cert", "server"]);
    lapwing(&folder, &["cert", "device", "sensor-1", "sensor-2"]);
    let toml: String = printed
        .lines()
        .filter(|line| !line.starts_with("# ") || line.contains(" = \""))
        .map(|line| line.trim_start_matches("# ").replace("localhost:8883", "localhost:0") + "\n")
        .collect();
    let config = folder.file("lapwing.toml", &toml).display().to_string();
    // The printed lines name the files as they were made: beside where the command ran.
    let broker = Program::by(&["-c", &config]).inside(&folder.0).start();
    let port = broker.port("mqtts");
    let certificates = folder.0.join("certificates");
    let file = |name: &str| certificates.join(name).display().to_string();
    let publish = |key: Option<&str>| {
        let mut command = Command::new("mosquitto_pub");
        command.args([
            "-h",
            "localhost",
            "-p",
            &port,
            "-q",
            "1",
            "-t",
            "t",
            "-m",
            "m",
            "--cafile",
            &file("ca.pem"),
        ]);
        if let Some(name) = key {
            command.args([
                "--cert",
                &file(&format!("{name}.pem")),
                "--key",
                &file(&format!("{name}-key.pem")),
            ]);
        }
        command.stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(publish(Some("sensor-1")) && publish(Some("sensor-2")));
    assert!(!publish(None), "a client without a certificate was let in");
    use std::os::unix::fs::PermissionsExt;
    for key in ["ca-key.pem", "server-key.pem", "sensor-1-key.pem"] {
        let mode = std::fs::metadata(file(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let ca = std::fs::read(file("ca.pem")).unwrap();
    lapwing(&folder, &["cert", "server", "broker.example"]);
    assert_eq!(std::fs::read(file("ca.pem")).unwrap(), ca, "the authority was made anew");
    let bad =
        Command::new(binary()).current_dir(&folder.0).args(["cert", "device", "../x"]).output().unwrap();
    assert!(
        !bad.status.success() && String::from_utf8_lossy(&bad.stderr).contains("is no name for a device")
    );
}

#[test]
fn alpn_is_offered_where_it_is_configured() {
    if !is_there("openssl", "openssl".as_ref()) {
        return;
    }
    let folder = Folder::new("alpn");
    certificates(&folder);
    let path = folder.0.display();
    let tls = format!(
        "transport = 'tls'\ncertificate_file = '{path}/server.pem'\nkey_file = '{path}/server.key'\n"
    );
    let broker = Program::start(&format!(
        "[[listener]]\naddress = '127.0.0.1:0'\n{tls}alpn = ['mqtt', 'x-amzn-mqtt-ca']\n"
    ));
    let offer = |protocols: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &broker.address("mqtts")]).args(protocols);
        let output = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(offer(&["-alpn", "x-amzn-mqtt-ca"]).contains("ALPN protocol: x-amzn-mqtt-ca"));
    assert!(offer(&[]).contains("No ALPN negotiated"), "who names no protocol is served");
    assert!(offer(&["-alpn", "h2"]).contains("no application protocol"));
}

#[test]
fn g08_old_versions_of_tls_are_refused() {
    if !is_there("openssl", "openssl".as_ref()) {
        return;
    }
    let broker = Program::with("").all_transports().start();
    for version in ["-tls1", "-tls1_1"] {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            version,
            "-cipher",
            "ALL:@SECLEVEL=0",
            "-connect",
            &broker.address("mqtts"),
        ]);
        assert!(!command.stdin(Stdio::null()).output().unwrap().status.success(), "{version} was accepted");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", version, "-connect", &broker.address("mqtts")]);
        assert!(command.stdin(Stdio::null()).output().unwrap().status.success(), "{version} was refused");
    }
}

/// Number of clients that stay connected, and of changes of the certificates.
const CLIENTS: usize = 1_000;
const RELOADS: usize = 100;

fn connector(authorities: &[&Folder]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for folder in authorities {
        roots.add(CertificateDer::from_pem_file(folder.0.join("ca.pem")).unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn connect(connector: &TlsConnector, address: &str, id: usize) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
    let packet = wire::encode("connect", &fields(&[("id", &format!("c{id}")), ("keep_alive", "0")]), "3.1.1");
    stream.write_all(&packet).await.unwrap();
    stream.flush().await.unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

#[test]
fn g09_a_hundred_new_certificates_under_a_thousand_connections_drop_none() {
    let (one, other, served) = (Folder::new("one"), Folder::new("other"), Folder::new("served"));
    certificates(&one);
    certificates(&other);
    let put = |from: &Folder| {
        for name in ["server.pem", "server.key"] {
            std::fs::copy(from.0.join(name), served.0.join(name)).unwrap();
        }
    };
    put(&one);
    let path = served.0.display();
    let mut broker = Program::start(&format!(
        "[[listener]]\naddress = '127.0.0.1:0'\ntransport = 'tls'\ncertificate_file = '{path}/server.pem'\nkey_file = '{path}/server.key'\n"
    ));
    let address = broker.address("mqtts");
    let connector = connector(&[&one, &other]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut clients: Vec<_> = runtime.block_on(async {
        let mut all = Vec::new();
        for id in 0..CLIENTS {
            all.push(connect(&connector, &address, id).await);
        }
        all
    });
    let leaf = |folder: &Folder| CertificateDer::from_pem_file(folder.0.join("server.pem")).unwrap();
    for n in 0..RELOADS {
        let new = if n % 2 == 0 { &other } else { &one };
        put(new);
        broker.signal("HUP");
        broker.wait_for("reloaded (asked to)");
        let fresh = runtime.block_on(connect(&connector, &address, CLIENTS));
        let shown = fresh.get_ref().1.peer_certificates().unwrap().first().unwrap().clone();
        assert_eq!(shown, leaf(new), "reload {n}: a new connection is not served with the new certificate");
    }
    // A broken file changes nothing.
    std::fs::File::create(served.0.join("server.pem")).unwrap().write_all(b"no certificate").unwrap();
    broker.signal("HUP");
    broker.wait_for("NOT reloaded");
    runtime.block_on(connect(&connector, &address, CLIENTS));
    runtime.block_on(async {
        for client in &mut clients {
            client.write_all(&[0xc0, 0]).await.unwrap();
            client.flush().await.unwrap();
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let mut answer = [0; 2];
            let read = tokio::time::timeout(Duration::from_secs(20), client.read_exact(&mut answer)).await;
            read.unwrap_or_else(|_| panic!("client {n} got no answer"))
                .unwrap_or_else(|error| panic!("client {n} was dropped: {error}"));
            assert_eq!(answer, [0xd0, 0]);
        }
    });
}
