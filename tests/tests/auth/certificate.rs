//! Clients that are known by their certificates.
//!
//! A prefix of a name, such as `g06_`, is a row of `docs/ABUSE.md`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lapwing_tests::access::{password_lines, secret_file};
use lapwing_tests::authority::{Authority, Issued, Wanted};
use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program, is_there};
use lapwing_tests::wire::Fields;
use rcgen::{DnValue, SanType};
use rustls::ClientConfig;

const RULES: &str = "[[rule]]\npublish = ['of/%u']\nsubscribe = ['of/%u']\n";

/// A broker with one listener for certificates; `more` are keys of that.
fn start(authority: &Authority, folder: &Folder, more: &str) -> Program {
    let acl = folder.file("acl.toml", RULES);
    Program::start(&format!(
        "[auth]\nacl_file = '{}'\n[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\n{}{more}\n",
        acl.display(),
        authority.serve(folder, "server"),
    ))
}

const REQUIRED: &str = "client_certificate = 'required'\n";

fn knock(
    program: &Program,
    tls: &Arc<ClientConfig>,
    more: &[(&str, &str)],
) -> std::io::Result<(Client, Fields)> {
    Client::knock_tls(&program.address("mqtts"), "5.0", more, tls)
}

/// True where the broker takes the client for this user, who may publish to its own topic only.
fn is_user(program: &Program, authority: &Authority, own: &Issued, id: &str, user: &str) -> bool {
    let (mut client, connack) = knock(program, &authority.tls(Some(own)), &[("id", id)]).unwrap();
    assert_eq!(code(&connack), 0);
    client.publish(&format!("of/{user}"), "x", &[])["reason"] == "16"
}

#[test]
fn the_user_of_a_certificate_is_its_alternative_name_first_or_a_template() {
    let (authority, folder) = (Authority::default(), Folder::new("names"));
    let program = start(&authority, &folder, REQUIRED);
    let cn = || Some(DnValue::from("common"));
    let name = |name: &str| name.try_into().unwrap();
    let cases = [
        (Wanted { cn: cn(), ..Wanted::default() }, "common"),
        (
            Wanted { cn: cn(), names: vec![SanType::DnsName(name("pump.plant"))], ..Wanted::default() },
            "pump.plant",
        ),
        (
            Wanted { cn: cn(), names: vec![SanType::Rfc822Name(name("ann@plant"))], ..Wanted::default() },
            "ann@plant",
        ),
        (
            Wanted {
                cn: cn(),
                names: vec![SanType::URI(name("urn:pump:7")), SanType::DnsName(name("x"))],
                ..Wanted::default()
            },
            "urn:pump:7",
        ),
        (
            Wanted {
                cn: Some(DnValue::PrintableString("printable".try_into().unwrap())),
                ..Wanted::default()
            },
            "printable",
        ),
    ];
    for (n, (wanted, user)) in cases.into_iter().enumerate() {
        assert!(is_user(&program, &authority, &authority.issue(wanted), &format!("c{n}"), user), "{user}");
    }
    let folder = Folder::new("template");
    let program = start(&authority, &folder, &format!("{REQUIRED}certificate_user = ['plant-{{cn}}']\n"));
    assert!(is_user(&program, &authority, &authority.client("7", 1), "c", "plant-7"));
}

#[test]
fn g06_a_name_with_wildcards_or_control_characters_is_refused_as_a_user() {
    let (authority, folder) = (Authority::default(), Folder::new("badnames"));
    let mut program = start(&authority, &folder, REQUIRED);
    let name = |name: &str| name.try_into().unwrap();
    let bad = [
        Wanted { cn: Some("a+b".into()), ..Wanted::default() },
        Wanted { cn: Some("#".into()), ..Wanted::default() },
        Wanted { cn: Some("root\0.example".into()), ..Wanted::default() },
        Wanted { cn: Some("a\nb".into()), ..Wanted::default() },
        Wanted { cn: Some("".into()), ..Wanted::default() },
        Wanted { cn: Some(DnValue::BmpString("root".try_into().unwrap())), ..Wanted::default() },
        Wanted { cn: Some(DnValue::TeletexString("root".try_into().unwrap())), ..Wanted::default() },
        Wanted { names: vec![SanType::DnsName(name("a")), SanType::DnsName(name("b"))], ..Wanted::default() },
        Wanted { names: vec![SanType::URI(name("urn:a\0b"))], ..Wanted::default() },
        Wanted::default(),
    ];
    for wanted in bad {
        let own = authority.issue(wanted);
        let (_, connack) = knock(&program, &authority.tls(Some(&own)), &[("id", "x")]).unwrap();
        assert_eq!(code(&connack), 0x87);
        assert_eq!(connack["p.reason_string"], "the client certificate names no user");
        program.wait_for("the client certificate: ");
    }
}

#[test]
fn g06_an_expired_foreign_or_missing_certificate_is_refused_on_every_transport() {
    let (authority, stranger, folder) = (Authority::default(), Authority::default(), Folder::new("bad"));
    let keys = authority.serve(&folder, "server");
    let mut program = Program::start(&format!(
        "[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\n{keys}{REQUIRED}\
         [[listener]]\naddress = 'localhost:0'\ntransport = 'wss'\n{keys}{REQUIRED}"
    ));
    let expired = authority.issue(Wanted { cn: Some("x".into()), expired: true, ..Wanted::default() });
    let server = authority.issue(Wanted { server: &["x"], ..Wanted::default() });
    let shown = [Some(expired), Some(stranger.client("x", 1)), Some(server), None];
    for own in &shown {
        let tls = authority.tls(own.as_ref());
        assert!(knock(&program, &tls, &[("id", "x")]).is_err());
        program.wait_for("TLS handshake failed");
        let stream = std::net::TcpStream::connect(program.address("wss")).unwrap();
        let connection = rustls::ClientConnection::new(tls, "localhost".try_into().unwrap()).unwrap();
        let stream = rustls::StreamOwned::new(connection, stream);
        assert!(tungstenite::client("wss://localhost/mqtt", stream).is_err());
        program.wait_for("TLS handshake failed");
    }
    let own = authority.client("x", 1);
    assert_eq!(code(&knock(&program, &authority.tls(Some(&own)), &[("id", "x")]).unwrap().1), 0);
}

#[test]
fn g06_revoking_a_certificate_refuses_it_and_ends_its_live_connection() {
    let (authority, folder) = (Authority::default(), Folder::new("crl"));
    let list = folder.file("list.pem", &authority.revoke(&[7], false));
    let mut program =
        start(&authority, &folder, &format!("{REQUIRED}client_crl_file = '{}'\n", list.display()));
    let (seven, eight, nine) =
        (authority.client("seven", 7), authority.client("eight", 8), authority.client("nine", 9));
    assert!(knock(&program, &authority.tls(Some(&seven)), &[("id", "seven")]).is_err());
    program.wait_for("TLS handshake failed");
    let tls = authority.tls(Some(&eight));
    let (live, connack) = knock(&program, &tls, &[("id", "eight")]).unwrap();
    assert_eq!(code(&connack), 0);
    let (mut other, _) = knock(&program, &authority.tls(Some(&nine)), &[("id", "nine")]).unwrap();
    std::fs::write(&list, authority.revoke(&[7, 8], false)).unwrap();
    program.signal("HUP");
    program.wait_for("reloaded (asked to)");
    assert_eq!(live.end().as_deref(), Some("152"));
    // Not by taking up the earlier TLS session either.
    assert!(knock(&program, &tls, &[("id", "eight")]).map_or(true, |(_, connack)| code(&connack) == 0x87));
    assert_eq!(other.publish("of/nine", "x", &[])["reason"], "16", "others are not disturbed");
    // An overdue list says nothing: nobody comes in by it, and those who are in go.
    std::fs::write(&list, "no list").unwrap();
    program.signal("HUP");
    assert!(program.wait_for("NOT reloaded").contains("client_crl_file"));
    assert_eq!(other.publish("of/nine", "x", &[])["reason"], "16");
    std::fs::write(&list, authority.revoke(&[], true)).unwrap();
    program.signal("HUP");
    program.wait_for("reloaded (asked to)");
    assert!(knock(&program, &authority.tls(Some(&nine)), &[("id", "nine")]).is_err());
}

#[test]
fn g06_a_certificate_of_one_listener_is_refused_by_one_with_other_authorities() {
    let (plant, office, folder) = (Authority::default(), Authority::default(), Folder::new("two"));
    let acl =
        folder.file("acl.toml", "[[rule]]\nlisteners = ['plant']\nusers = ['ann']\nall = ['plant/#']\n");
    let listener = |name: &str, authority: &Authority| {
        let keys = authority.serve(&folder, name);
        format!("[[listener]]\nname = '{name}'\naddress = '127.0.0.1:0'\ntransport = 'tls'\n{keys}{REQUIRED}")
    };
    let program = Program::start(&format!(
        "[auth]\nacl_file = '{}'\n{}{}",
        acl.display(),
        listener("plant", &plant),
        listener("office", &office)
    ));
    let addresses: Vec<&str> =
        program.listeners.iter().map(|name| name.strip_prefix("mqtts://").unwrap()).collect();
    let (by_plant, by_office) = (plant.client("ann", 1), office.client("ann", 1));
    let knock = |address: &str, server: &Authority, own: &Issued, id: &str| {
        Client::knock_tls(address, "5.0", &[("id", id)], &server.tls(Some(own)))
    };
    let (mut ann, _) = knock(addresses[0], &plant, &by_plant, "a").unwrap();
    assert_eq!(ann.publish("plant/x", "x", &[])["reason"], "16");
    // The same name, given by the other authority, at the other door.
    let (mut other, _) = knock(addresses[1], &office, &by_office, "b").unwrap();
    assert_eq!(other.publish("plant/x", "x", &[])["reason"], "135");
    assert!(knock(addresses[1], &office, &by_plant, "c").is_err());
}

#[test]
fn certificates_and_passwords_are_tried_in_the_order_that_is_configured() {
    let (authority, folder) = (Authority::default(), Folder::new("order"));
    let users = secret_file(&folder, "users", &password_lines(&[("ann", "ann-pw")]));
    let auth = format!(
        "[auth]\npassword_file = '{}'\nacl_file = '{}'\n",
        users.display(),
        folder.file("acl.toml", RULES).display()
    );
    let keys = authority.serve(&folder, "server");
    let start = |more: &str| {
        Program::start(&format!(
            "{auth}[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\n{keys}client_certificate = 'optional'\n{more}"
        ))
    };
    let own = authority.client("device", 1);
    let pw = [("id", "x"), ("user", "ann"), ("password", "ann-pw")];
    let user = |program: &Program, own: Option<&Issued>, all: &[(&str, &str)]| {
        let (mut client, connack) = knock(program, &authority.tls(own), all).ok()?;
        if code(&connack) != 0 {
            return None;
        }
        ["ann", "device"]
            .into_iter()
            .find(|user| client.publish(&format!("of/{user}"), "x", &[])["reason"] == "16")
    };
    // A certificate only opens the door where there are passwords, as it does with Mosquitto.
    let program = start("");
    assert_eq!(user(&program, Some(&own), &pw), Some("ann"));
    assert_eq!(user(&program, Some(&own), &[("id", "y")]), None);
    let program = start("certificate_user = ['{cn}']\n");
    assert_eq!(user(&program, Some(&own), &[("id", "y")]), Some("device"));
    assert_eq!(user(&program, Some(&own), &[("id", "z"), pw[1], pw[2]]), Some("device"));
    assert_eq!(user(&program, None, &pw), Some("ann"));
    assert_eq!(user(&program, None, &[("id", "z")]), None);
    let program = start("authentication = ['password', 'certificate']\n");
    assert_eq!(user(&program, Some(&own), &pw), Some("ann"));
    assert_eq!(user(&program, Some(&own), &[("id", "y")]), Some("device"));
}

#[test]
fn g09_a_new_certificate_serves_new_connections_and_old_ones_live_on() {
    let (authority, folder) = (Authority::default(), Folder::new("renewed"));
    let mut program = start(&authority, &folder, REQUIRED);
    let own = authority.client("ann", 1);
    let (mut old, _) = knock(&program, &authority.tls(Some(&own)), &[("id", "old")]).unwrap();
    // The server's certificate by a new authority; clients are still those of the old one.
    let renewed = Authority::default();
    let server = renewed.issue(Wanted { server: &["localhost"], ..Wanted::default() });
    folder.file("server.pem", &server.pem);
    program.signal("HUP");
    // The key does not fit yet.
    assert!(program.wait_for("NOT reloaded (asked to)").contains("server.key"));
    assert_eq!(code(&knock(&program, &authority.tls(Some(&own)), &[("id", "x")]).unwrap().1), 0);
    folder.file("server.key", &server.key);
    program.wait_for("reloaded (a file has changed)");
    assert!(
        knock(&program, &authority.tls(Some(&own)), &[("id", "x")]).is_err(),
        "that server is not known any more"
    );
    assert_eq!(code(&knock(&program, &renewed.tls(Some(&own)), &[("id", "y")]).unwrap().1), 0);
    assert_eq!(old.publish("of/ann", "x", &[])["reason"], "16");
}

#[test]
fn h09_a_private_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (authority, folder) = (Authority::default(), Folder::new("key"));
    let keys = authority.serve(&folder, "server");
    let key = folder.0.join("server.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = folder
        .file("lapwing.toml", &format!("[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\n{keys}"));
    let tested = Command::new(lapwing_tests::program::binary())
        .args(["--test-config", "-c"])
        .arg(file)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&tested.stderr);
    assert!(!tested.status.success() && told.contains("server.key") && told.contains("chmod 600"), "{told}");
}

#[test]
fn mosquitto_clients_log_in_by_certificate() {
    if !is_there("mosquitto-clients", Path::new("mosquitto_pub")) {
        return;
    }
    let (authority, folder) = (Authority::default(), Folder::new("mosquitto"));
    let program = start(&authority, &folder, REQUIRED);
    let own = authority.client("pump", 1);
    let (pem, key) = (folder.file("own.pem", &own.pem), folder.file("own.key", &own.key));
    let publish = |topic: &str| {
        Command::new("mosquitto_pub")
            .args([
                "-h",
                "localhost",
                "-p",
                &program.port("mqtts"),
                "-V",
                "5",
                "-q",
                "1",
                "-m",
                "x",
                "-t",
                topic,
            ])
            .arg("--cafile")
            .arg(folder.0.join("server-ca.pem"))
            .arg("--cert")
            .arg(&pem)
            .arg("--key")
            .arg(&key)
            .output()
            .unwrap()
    };
    let (good, bad) = (publish("of/pump"), publish("of/other"));
    assert!(good.status.success(), "{good:?}");
    let told = String::from_utf8_lossy(&bad.stderr).to_lowercase();
    assert!(told.contains("not authorized"), "{bad:?}");
}
