//! SCRAM-SHA-256 by enhanced authentication, with a client written from the RFC alone.
//!
//! A prefix of a name, such as `b08_`, is a row of `docs/ABUSE.md`.

use std::time::{Duration, Instant};

use lapwing_tests::access::{CHEAP, secret_file};
use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program};
use lapwing_tests::scram::{METHOD, NONCE, answer};
use lapwing_tests::wire::Fields;

/// A broker with users by SCRAM, and one without.
fn start(more: &str) -> (Program, Folder) {
    use lapwing::internals::auth::password::{Hash, PasswordEntry, line};
    use lapwing::internals::auth::scram::Verifier;
    let folder = Folder::new("scram");
    let entry = |pw: &str, scram: bool| PasswordEntry {
        hash: Hash::make(pw.as_bytes(), CHEAP, &mut Vec::new()).unwrap(),
        scram: scram.then(|| Verifier::make(pw.as_bytes()).unwrap()),
    };
    let text = format!(
        "{}\n{}\n{}\n",
        line("ann", &entry("ann-pw", true)),
        line("b,o=b", &entry("bob-pw", true)),
        line("plain", &entry("plain-pw", false))
    );
    let users = secret_file(&folder, "users", &text);
    let program = Program::with("").auth(&format!("password_file = '{}'\n{more}", users.display())).start();
    (program, folder)
}

/// CONNECT with the first message; the client and what came.
fn begin(program: &Program, id: &str, first: &str) -> (Client, &'static str, Fields) {
    let all = [("id", id), ("p.auth_method", METHOD), ("p.auth_data", first)];
    Client::dial(&program.address("mqtt"), "5.0", &all).unwrap()
}

/// A whole exchange; the client where it was let in, and CONNACK.
fn log_in(program: &Program, id: &str, name: &str, password: &str) -> (Client, Fields) {
    let bare = format!("n={name},r={NONCE}");
    let (mut client, came, auth) = begin(program, id, &format!("n,,{bare}"));
    assert_eq!((came, auth["reason"].as_str()), ("auth", "24"));
    let (last, expected) = answer(&bare, &auth["p.auth_data"], password);
    client.send("auth", &[("reason", "0x18"), ("p.auth_method", METHOD), ("p.auth_data", &last)]).unwrap();
    let connack = client.expect("connack");
    if code(&connack) == 0 {
        assert_eq!(connack["p.auth_data"], expected, "the broker knows the password, too");
    }
    (client, connack)
}

#[test]
fn scram_logs_a_user_in_without_sending_the_password_and_proves_the_broker() {
    let (program, _folder) = start("");
    assert_eq!(code(&log_in(&program, "a", "ann", "ann-pw").1), 0);
    // Names with a comma and an equals sign are escaped.
    assert_eq!(code(&log_in(&program, "b", "b=2Co=3Db", "bob-pw").1), 0);
    // The same user by its password in plain.
    let all = [("id", "a"), ("user", "ann"), ("password", "ann-pw")];
    assert_eq!(code(&Client::knock(&program.address("mqtt"), "5.0", &all).unwrap().1), 0);
}

#[test]
fn b08_wrong_passwords_and_unknown_users_get_the_same_late_answer() {
    let (program, _folder) = start("failures_per_address_max = 4\n");
    let challenge = |name: &str| {
        let (_, _, auth) = begin(&program, "x", &format!("n,,n={name},r={NONCE}"));
        let data = auth["p.auth_data"].clone();
        data.split_once(",s=").unwrap().1.to_owned()
    };
    assert_eq!(
        challenge("nobody"),
        challenge("nobody"),
        "the same salt each time, as of a user who is there"
    );
    assert_ne!(challenge("nobody"), challenge("nobody2"));
    assert_eq!(challenge("nobody").len(), challenge("ann").len());
    for (name, pw) in [("ann", "wrong"), ("nobody", "x"), ("plain", "plain-pw"), ("nobody", "")] {
        let began = Instant::now();
        let (_, connack) = log_in(&program, "x", name, pw);
        assert_eq!(code(&connack), 0x87, "{name}");
        assert!(began.elapsed() >= Duration::from_secs(1));
    }
    // Shut out: not even asked for a proof.
    let (_, came, connack) = begin(&program, "x", &format!("n,,n=ann,r={NONCE}"));
    assert_eq!((came, code(&connack)), ("connack", 0x9f));
}

#[test]
fn malformed_scram_is_refused() {
    let (program, _folder) = start("failures_per_address_max = 0\n");
    for first in [
        "p=tls-unique,,n=ann,r=12345678",
        "n,a=root,n=ann,r=12345678",
        "n,,n=,r=12345678",
        "n,,n=ann,r=1",
        "n,,n=a=n,r=12345678",
        "n,,r=12345678",
        "x",
    ] {
        let (_, came, connack) = begin(&program, "x", first);
        assert_eq!((came, code(&connack)), ("connack", 0x87), "{first}");
    }
    let bare = format!("n=ann,r={NONCE}");
    let change = |change: &dyn Fn(String) -> String| {
        let (mut client, _, auth) = begin(&program, "x", &format!("n,,{bare}"));
        let last = change(answer(&bare, &auth["p.auth_data"], "ann-pw").0);
        client
            .send("auth", &[("reason", "0x18"), ("p.auth_method", METHOD), ("p.auth_data", &last)])
            .unwrap();
        code(&client.expect("connack"))
    };
    assert_eq!(change(&|last| last), 0);
    assert_eq!(change(&|last| last.replace("c=biws", "c=eSws")), 0x87, "another header than it began with");
    assert_eq!(change(&|last| last.replace(NONCE, "another-nonce-of-the-client")), 0x87);
    assert_eq!(change(&|last| last.split(",p=").next().unwrap().to_owned()), 0x87);
    assert_eq!(change(&|_| String::new()), 0x87);
}

#[test]
fn b12_an_unknown_method_is_refused_and_an_exchange_without_end_ends() {
    let (program, _folder) = start("");
    let all = [("id", "x"), ("p.auth_method", "OTHER"), ("p.auth_data", "x")];
    let (_, connack) = Client::knock(&program.address("mqtt"), "5.0", &all).unwrap();
    assert_eq!(code(&connack), 0x8c);
    let (mut client, mut came, _) = begin(&program, "x", "");
    let mut rounds = 0;
    while came == "auth" {
        rounds += 1;
        client.send("auth", &[("reason", "0x18"), ("p.auth_method", METHOD)]).unwrap();
        came = client.next(Duration::from_secs(20)).unwrap().unwrap().0;
    }
    assert_eq!(came, "connack");
    assert!(rounds <= 8, "{rounds}");
}

#[test]
fn a_client_reauthenticates_and_cannot_change_its_user() {
    let (program, _folder) = start("");
    let again = |client: &mut Client, name: &str, password: &str| {
        let bare = format!("n={name},r={NONCE}");
        let first = format!("n,,{bare}");
        client
            .send("auth", &[("reason", "0x19"), ("p.auth_method", METHOD), ("p.auth_data", &first)])
            .unwrap();
        let auth = client.expect("auth");
        let (last, expected) = answer(&bare, &auth["p.auth_data"], password);
        client
            .send("auth", &[("reason", "0x18"), ("p.auth_method", METHOD), ("p.auth_data", &last)])
            .unwrap();
        (client.next(Duration::from_secs(20)).unwrap().unwrap(), expected)
    };
    let (mut client, _) = log_in(&program, "a", "ann", "ann-pw");
    for _ in 0..2 {
        let ((came, auth), expected) = again(&mut client, "ann", "ann-pw");
        assert_eq!((came, auth["reason"].as_str(), &auth["p.auth_data"]), ("auth", "0", &expected));
    }
    assert_eq!(client.publish("x", "x", &[])["reason"], "16");
    let ((came, disconnect), _) = again(&mut client, "ann", "wrong");
    assert_eq!((came, disconnect["reason"].as_str()), ("disconnect", "135"));
    let (mut client, _) = log_in(&program, "a", "ann", "ann-pw");
    let ((came, disconnect), _) = again(&mut client, "b=2Co=3Db", "bob-pw");
    assert_eq!((came, disconnect["reason"].as_str()), ("disconnect", "135"));
}

#[test]
fn guesses_are_counted_where_they_are_judged_however_many_exchanges_are_open() {
    let (program, _folder) = start("failures_per_address_max = 5\n");
    let bare = format!("n=ann,r={NONCE}");
    let mut open: Vec<_> =
        (0..12).map(|n| begin(&program, &format!("c{n}"), &format!("n,,{bare}"))).collect();
    let mut prove = |from: usize, until: usize, passwords: &[String]| -> Vec<u8> {
        for ((client, _, auth), password) in open[from..until].iter_mut().zip(passwords) {
            let (last, _) = answer(&bare, &auth["p.auth_data"], password);
            let all = [("reason", "0x18"), ("p.auth_method", METHOD), ("p.auth_data", &*last)];
            client.send("auth", &all).unwrap();
        }
        open[from..until].iter_mut().map(|(client, ..)| code(&client.expect("connack"))).collect()
    };
    let guesses: Vec<String> = (0..5).map(|n| format!("guess-{n}")).collect();
    assert_eq!(prove(0, 5, &guesses), [0x87; 5], "they are judged");
    let with_right: Vec<String> =
        guesses.iter().cloned().chain(["ann-pw", "ann-pw"].map(str::to_owned)).collect();
    assert_eq!(prove(5, 12, &with_right), [0x9f; 7], "the right one among them is not");
}

#[test]
fn a_client_that_waits_to_be_asked_is_asked() {
    let (program, _folder) = start("");
    let all = [("id", "asked"), ("p.auth_method", METHOD)];
    let (mut client, came, auth) = Client::dial(&program.address("mqtt"), "5.0", &all).unwrap();
    assert_eq!((came, auth["reason"].as_str()), ("auth", "24"));
    let bare = format!("n=ann,r={NONCE}");
    let mut send = |data: &str| {
        client.send("auth", &[("reason", "0x18"), ("p.auth_method", METHOD), ("p.auth_data", data)]).unwrap();
        client.next(Duration::from_secs(20)).unwrap().unwrap()
    };
    let (_, challenge) = send(&format!("n,,{bare}"));
    let (last, _) = answer(&bare, &challenge["p.auth_data"], "ann-pw");
    let (came, connack) = send(&last);
    assert_eq!((came, code(&connack)), ("connack", 0));
}
