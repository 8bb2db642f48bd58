//! Clients that bring a token (JWT) as their password.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lapwing_tests::access::{password_lines, secret_file};
use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program, binary, is_there, run};
use lapwing_tests::token::{Signer, now_s};
use lapwing_tests::wire::Fields;

const SECRET: &str = "a secret of thirty-two bytes and more";

/// A broker that takes tokens; `auth` stands in `[auth]`.
fn start(auth: &str) -> Program {
    Program::with("").auth(auth).start()
}

fn with_secret(folder: &Folder, more: &str) -> (Program, Signer) {
    let file = secret_file(folder, "secret", &format!("{SECRET}\n"));
    (start(&format!("jwt_secret_file = '{}'\n{more}", file.display())), Signer::hs256(SECRET))
}

fn knock(program: &Program, id: &str, token: &str) -> (Client, Fields) {
    let all = [("id", id), ("user", "ignored"), ("password", token)];
    Client::knock(&program.address("mqtt"), "5.0", &all).unwrap()
}

fn enters(program: &Program, id: &str, token: &str) -> u8 {
    code(&knock(program, id, token).1)
}

fn claims(more: &str) -> String {
    format!("{{\"sub\":\"ann\",\"exp\":{}{more}}}", now_s() + 3600)
}

/// RSA keys are made by openssl.
fn rs256(folder: &Folder) -> Option<Signer> {
    if !is_there("openssl", Path::new("openssl")) {
        return None;
    }
    let file = |name: &str| folder.0.join(name);
    let (key, der, pem) = (file("rsa.key"), file("rsa.der"), file("rsa.pem"));
    run(Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-out"]).arg(&key));
    run(Command::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(&der));
    run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&pem));
    Some(Signer::rs256(&std::fs::read(der).unwrap(), std::fs::read_to_string(pem).unwrap()))
}

#[test]
fn tokens_of_every_algorithm_are_accepted_and_unknown_keys_are_refused() {
    let folder = Folder::new("keys");
    let (es, ed, rs) = (Signer::es256(), Signer::eddsa(), rs256(&folder));
    let keys: String =
        [Some(&es), Some(&ed), rs.as_ref()].iter().flatten().map(|signer| signer.public.clone()).collect();
    let keys = folder.file("keys.pem", &keys);
    let secret = secret_file(&folder, "secret", SECRET);
    let mut program = start(&format!(
        "jwt_key_file = '{}'\njwt_secret_file = '{}'\nfailures_per_address_max = 0\n",
        keys.display(),
        secret.display()
    ));
    let hs = Signer::hs256(SECRET);
    for signer in [Some(&hs), Some(&es), Some(&ed), rs.as_ref()].into_iter().flatten() {
        let token = signer.token(&claims(""));
        assert_eq!(enters(&program, signer.algorithm, &token), 0, "{}", signer.algorithm);
        // One bit of the claims, or of the signature.
        let (at, dot) = (token.find('.').unwrap() + 10, token.rfind('.').unwrap() + 5);
        for at in [at, dot] {
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            let forged = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert_eq!(enters(&program, "forged", &forged), 0x86);
            program.wait_for("token is invalid");
        }
    }
    for stranger in
        [Signer::es256(), Signer::eddsa(), Signer::hs256("another secret of thirty-two bytes and more")]
    {
        assert_eq!(
            enters(&program, "stranger", &stranger.token(&claims(""))),
            0x86,
            "{}",
            stranger.algorithm
        );
    }
}

#[test]
fn the_algorithm_in_a_token_can_neither_confuse_keys_nor_omit_the_signature() {
    let folder = Folder::new("confusion");
    let es = Signer::es256();
    let keys = folder.file("keys.pem", &es.public);
    let mut program = start(&format!("jwt_key_file = '{}'\n", keys.display()));
    let by_public_key = Signer::hs256(&es.public);
    let forged = [
        by_public_key.token(&claims("")),
        Signer::hs256(es.public.trim_end()).token(&claims("")),
        by_public_key.token_with("{\"alg\":\"ES256\"}", &claims("")),
        es.token_with("{\"alg\":\"none\"}", &claims("")),
        es.token_with("{\"alg\":\"ES256\",\"crit\":[\"b64\"]}", &claims("")),
        es.token_with("{\"alg\":\"RS256\"}", &claims("")),
        es.token_with("[]", &claims("")),
        format!("{}.", es.token_with("{\"alg\":\"none\"}", &claims("")).rsplit_once('.').unwrap().0),
    ];
    for (n, token) in forged.iter().enumerate() {
        assert_eq!(enters(&program, &format!("c{n}"), token), 0x86, "{n}");
    }
    program.wait_for("there is no key for it");
    assert_eq!(enters(&program, "good", &es.token(&claims(""))), 0);
}

#[test]
fn a_key_set_is_chosen_from_by_key_id_and_replaced_while_the_broker_runs() {
    use base64::Engine;
    let folder = Folder::new("jwks");
    let k = |secret: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret);
    let (one, two) = (
        "the first secret, of more than thirty-two bytes",
        "the second secret, of more than thirty-two bytes",
    );
    let set = |keys: &[(&str, &str)]| {
        let keys: Vec<String> = keys
            .iter()
            .map(|(id, secret)| format!("{{\"kty\":\"oct\",\"kid\":\"{id}\",\"k\":\"{}\"}}", k(secret)))
            .collect();
        format!(
            "{{\"keys\":[{{\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"\",\"y\":\"\"}},{}]}}",
            keys.join(",")
        )
    };
    let file = folder.file("jwks.json", &set(&[("1", one)]));
    let mut program = start(&format!("jwks_file = '{}'\n", file.display()));
    let token = |secret: &str, id: &str| {
        Signer::hs256(secret).token_with(&format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"), &claims(""))
    };
    assert_eq!(enters(&program, "a", &token(one, "1")), 0);
    assert_eq!(enters(&program, "b", &token(one, "2")), 0x86);
    assert_eq!(enters(&program, "b", &token(two, "2")), 0x86);
    let (mut live, _) = knock(&program, "live", &token(one, "1"));
    folder.file("jwks.json", &set(&[("2", two)]));
    program.wait_for("reloaded (a file has changed)");
    assert_eq!((enters(&program, "b", &token(two, "2")), enters(&program, "a", &token(one, "1"))), (0, 0x86));
    assert_eq!(live.publish("x", "x", &[])["reason"], "16", "a client stays as long as its token is good");
    folder.file("jwks.json", "{}");
    program.signal("HUP");
    assert!(program.wait_for("NOT reloaded").contains("auth.jwks_file"));
    assert_eq!(enters(&program, "c", &token(two, "2")), 0);
}

#[test]
fn a_token_is_for_its_time_its_issuer_and_its_audience() {
    let folder = Folder::new("claims");
    let (mut program, signer) =
        with_secret(&folder, "jwt_issuer = 'us'\njwt_audience = 'broker'\njwt_leeway_s = 5\n");
    let now = now_s();
    let good = format!("\"sub\":\"ann\",\"iss\":\"us\",\"aud\":[\"x\",\"broker\"],\"exp\":{}", now + 60);
    assert_eq!(enters(&program, "good", &signer.token(&format!("{{{good}}}"))), 0);
    assert_eq!(
        enters(&program, "good", &signer.token(&format!("{{{good},\"nbf\":{}}}", now + 3))),
        0,
        "clocks differ"
    );
    let bad = [
        (
            format!("{{\"sub\":\"ann\",\"iss\":\"us\",\"aud\":\"broker\",\"exp\":{}}}", now - 10),
            "it has ended",
        ),
        ("{\"sub\":\"ann\",\"iss\":\"us\",\"aud\":\"broker\"}".to_owned(), "it never ends"),
        (format!("{{{good},\"nbf\":{}}}", now + 60), "it has not begun"),
        (format!("{{{good},\"nbf\":\"soon\"}}"), "'nbf' is no number"),
        (good.replace("\"us\"", "\"them\""), "it is not by 'us'"),
        (good.replace("\"broker\"", "\"other\""), "it is not for 'broker'"),
        (good.replace("\"ann\"", "\"\""), "'sub' is no name"),
        (good.replace("\"ann\"", "7"), "'sub' is no name"),
        (good.replace("\"ann\"", "\"a\\nb\""), "'sub' is no name"),
    ];
    for (claims, why) in bad {
        let claims = if claims.starts_with('{') { claims } else { format!("{{{claims}}}") };
        assert_eq!(enters(&program, "bad", &signer.token(&claims)), 0x86, "{why}");
        program.wait_for(why);
    }
}

#[test]
fn a_client_is_disconnected_with_0xa0_when_its_token_ends() {
    let folder = Folder::new("expiry");
    let (program, signer) = with_secret(&folder, "jwt_leeway_s = 0\n");
    let (client, connack) =
        knock(&program, "x", &signer.token(&format!("{{\"sub\":\"ann\",\"exp\":{}}}", now_s() + 2)));
    assert_eq!(code(&connack), 0);
    let began = Instant::now();
    assert_eq!(client.end().as_deref(), Some("160"), "0xA0");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_token_grants_rights_groups_and_a_client_identifier() {
    let folder = Folder::new("grants");
    let acl = folder.file("acl.toml", "[[rule]]\ngroups = ['staff']\npublish = ['staff/#']\n[[rule]]\nusers = ['ann']\ndeny = ['a/denied']\n");
    let more = format!("acl_file = '{}'\njwt_client_id_claim = 'client'\n", acl.display());
    let (mut program, signer) = with_secret(&folder, &more);
    let granted =
        "\"acl\":{\"publish\":[\"a/#\",\"own/%c/%u\"],\"subscribe\":[\"b/+\"],\"deny\":[\"a/secret\"]}";
    let token = signer.token(&claims(&format!(",{granted},\"groups\":[\"staff\"]")));
    let (mut ann, _) = knock(&program, "c1", &token);
    let topics = [
        ("a/x", "16"),
        ("a/secret", "135"),
        ("a/denied", "135"),
        ("own/c1/ann", "16"),
        ("own/c2/ann", "135"),
        ("staff/x", "16"),
        ("other", "135"),
    ];
    for (topic, reason) in topics {
        assert_eq!(ann.publish(topic, "x", &[])["reason"], reason, "{topic}");
    }
    assert_eq!(ann.subscribe("b/x|b/#|a/x"), "0|135|135");
    let line = program.wait_for("denied");
    assert!(line.contains("the token"), "{line}");
    // A reload takes the file's part away, not the token's.
    folder.file("acl.toml", "");
    program.signal("HUP");
    program.wait_for("reloaded (asked to)");
    assert_eq!(
        (&*ann.publish("a/x", "x", &[])["reason"], &*ann.publish("staff/x", "x", &[])["reason"]),
        ("16", "135")
    );
    let bound = signer.token(&claims(",\"client\":\"only-this\""));
    assert_eq!((enters(&program, "only-this", &bound), enters(&program, "another", &bound)), (0, 0x85));
    let (_, connack) = knock(&program, "", &bound);
    assert_eq!(connack["p.assigned_id"], "only-this");
    for bad in ["\"acl\":{\"publihs\":[]}", "\"acl\":{\"publish\":[\"a/#/b\"]}", "\"acl\":7", "\"groups\":{}"]
    {
        assert_eq!(enters(&program, "x", &signer.token(&claims(&format!(",{bad}")))), 0x86, "{bad}");
    }
}

#[test]
fn one_listener_accepts_tokens_and_passwords() {
    let folder = Folder::new("both");
    let users = secret_file(&folder, "users", &password_lines(&[("bob", "bob-pw")]));
    let (program, signer) = with_secret(&folder, &format!("password_file = '{}'\n", users.display()));
    assert_eq!(enters(&program, "a", &signer.token(&claims(""))), 0);
    let bob = |pw: &str| {
        let all = [("id", "b"), ("user", "bob"), ("password", pw)];
        code(&Client::knock(&program.address("mqtt"), "5.0", &all).unwrap().1)
    };
    assert_eq!((bob("bob-pw"), bob("wrong")), (0, 0x86));
}

#[test]
fn weak_and_public_secrets_and_files_without_keys_are_refused_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("refused");
    let test = |key: &str, file: &Path| {
        let config = folder.file("lapwing.toml", &format!("[auth]\n{key} = '{}'\n", file.display()));
        let output = Command::new(binary()).args(["--test-config", "-c"]).arg(config).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let short = secret_file(&folder, "short", "hunter2-hunter2");
    let (good, told) = test("jwt_secret_file", &short);
    assert!(!good && told.contains("can be guessed") && !told.contains("hunter2"), "{told}");
    let public = secret_file(&folder, "public", SECRET);
    std::fs::set_permissions(&public, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (good, told) = test("jwt_secret_file", &public);
    assert!(
        !good && told.contains("every user of this machine can read it") && !told.contains(SECRET),
        "{told}"
    );
    let none = folder.file("none.pem", "nothing");
    assert!(test("jwt_key_file", &none).1.contains("no public key"));
    let set = folder.file("set.json", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2hvcnQ\"}]}");
    assert!(test("jwks_file", &set).1.contains("it has no key for"));
}

#[test]
fn wrong_tokens_count_as_failures_of_their_address() {
    let folder = Folder::new("guessed");
    let (program, signer) = with_secret(&folder, "failures_per_address_max = 3\n");
    let forged = Signer::hs256("another secret of thirty-two bytes").token(&claims(""));
    for _ in 0..3 {
        assert_eq!(enters(&program, "x", &forged), 0x86);
    }
    assert_eq!(enters(&program, "x", &forged), 0x9f);
    assert_eq!(enters(&program, "x", &signer.token(&claims(""))), 0x9f, "the next minute it may come in");
}
