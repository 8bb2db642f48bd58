//! Rights of clients: every way that a message can take, and its fate when a right is revoked.
//!
//! A prefix of a name, such as `f01_`, is a row of `docs/ABUSE.md`.

use std::time::Duration;

use lapwing_tests::access::password;
use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program, binary};

/// Root may do everything.
const ROOT: &str = "[[rule]]\nusers = ['root']\nall = ['#']\n";

/// Root's rules and these.
fn rules(more: &str) -> String {
    format!("{ROOT}{more}")
}

fn guarded(more: &str) -> Program {
    Program::with("").users(&rules(more)).start()
}

/// Root says that all is said: whatever came before has arrived or never will.
fn last(broker: &Program, topic: &str) {
    assert_eq!(broker.client("root").publish(topic, "last", &[])["reason"], "0");
}

#[test]
fn f01_a_denied_publish_is_refused_with_a_reason_at_every_qos_and_not_routed() {
    let mut broker = guarded("[[rule]]\nusers = ['ann']\npublish = ['a/#']\n");
    let mut root = broker.client("root");
    root.subscribe("#");
    let mut ann = broker.client("ann");
    ann.send("publish", &[("topic", "b"), ("payload", "0")]).unwrap();
    let puback = ann.publish("b", "1", &[]);
    assert_eq!(puback["reason"], "135", "0x87");
    assert!(puback["p.reason_string"].contains("may not publish"), "{puback:?}");
    ann.send("publish", &[("topic", "b"), ("payload", "2"), ("qos", "2"), ("id", "3")]).unwrap();
    assert_eq!(ann.expect("pubrec")["reason"], "135");
    assert_eq!(ann.publish("a/x", "last", &[])["reason"], "0");
    assert!(root.messages_until("last").is_empty());
    let line = broker.wait_for("denied");
    for word in ["ann", "topic=b", "PUBLISH", "acl.toml"] {
        assert!(line.contains(word), "{word} is missing in: {line}");
    }
}

#[test]
fn f01_a_denied_mqtt_3_publish_is_acknowledged_and_dropped_or_closed_by_a_key() {
    let broker = guarded("[[rule]]\nusers = ['ann']\npublish = ['a/#']\n");
    let mut root = broker.client("root");
    root.subscribe("#");
    let mut ann = broker.client_with("ann", "3.1.1", &[]);
    ann.publish("b", "1", &[]);
    ann.publish("a", "last", &[]);
    assert!(root.messages_until("last").is_empty());
    let strict = Program::with("").users(ROOT).auth("denied_publish = 'close'").start();
    let mut ann = strict.client_with("ann", "3.1.1", &[]);
    ann.send("publish", &[("topic", "b"), ("payload", "1"), ("qos", "1"), ("id", "1")]).unwrap();
    assert_eq!(ann.end(), None);
}

#[test]
fn f02_a_subscription_wider_than_its_grant_is_refused_naming_the_nearest_rule() {
    let mut broker = guarded("[[rule]]\nusers = ['ann']\nsubscribe = ['a/#', 'c/+']\n");
    let mut ann = broker.client("ann");
    assert_eq!(ann.subscribe("#@1|a/#@1|+/b@1|a/+/c@1|c/#@1|c/d@1|b@1"), "135|1|135|1|135|1|135");
    let line = broker.wait_for("SUBSCRIBE denied");
    assert!(line.contains("the nearest is") && line.contains("acl.toml:6"), "{line}");
    let mut three = broker.client_with("ann", "3.1.1", &[]);
    assert_eq!(three.subscribe("#|a/x"), "128|0");
    // Nothing of what was refused is there.
    let mut root = broker.client("root");
    root.publish("b", "no", &[]);
    root.publish("a/x", "last", &[]);
    assert!(three.messages_until("last").is_empty());
}

#[test]
fn f02_with_a_key_a_wide_subscription_delivers_its_allowed_part() {
    let broker = Program::with("")
        .users(&rules("[[rule]]\nusers = ['ann']\nsubscribe = ['a/#']\n"))
        .auth("wide_subscriptions = 'filter'")
        .start();
    let mut ann = broker.client("ann");
    assert_eq!(ann.subscribe("#@1|b/#@1"), "1|135");
    let mut root = broker.client("root");
    root.publish("b", "no", &[]);
    root.publish("a/x", "yes", &[]);
    root.publish("a/x", "last", &[]);
    assert_eq!(ann.messages_until("last"), ["a/x yes"]);
}

const BUT_SECRET: &str = "[[rule]]\nusers = ['ann']\nsubscribe = ['#']\ndeny_subscribe = ['secret/#']\n";

#[test]
fn f03_denied_topics_are_not_delivered_live_retained_or_shared() {
    let broker = guarded(BUT_SECRET);
    let mut root = broker.client("root");
    root.publish("secret/kept", "no", &[("retain", "1")]);
    root.publish("open/kept", "yes", &[("retain", "1")]);
    let mut ann = broker.client("ann");
    assert_eq!(ann.subscribe("#@1|$share/g/#@1|secret/x@1|$share/g/secret/x@1"), "1|1|135|135");
    root.publish("secret/live", "no", &[]);
    root.publish("open/live", "yes", &[]);
    root.publish("open/live", "last", &[]);
    let mut all = ann.messages_until("last");
    all.sort();
    all.dedup();
    assert_eq!(all, ["open/kept yes", "open/live yes"]);
}

#[test]
fn f03_denied_topics_are_not_delivered_from_queues_flights_or_wills() {
    let broker = guarded(BUT_SECRET);
    let mut ann = broker.client("ann");
    ann.subscribe("#@2");
    drop(ann);
    let mut root = broker.client("root");
    root.publish("secret/queued", "no", &[]);
    let doomed =
        broker.client_with("root", "5.0", &[("id", "doomed"), ("will", "secret/will"), ("will_qos", "1")]);
    drop(doomed);
    root.publish("open/queued", "yes", &[]);
    root.publish("open/queued", "last", &[]);
    assert_eq!(broker.client("ann").messages_until("last"), ["open/queued yes"]);
}

#[test]
fn f03_f05_a_flight_is_not_resent_once_its_right_is_revoked() {
    let mut broker = guarded("[[rule]]\nusers = ['ann']\nsubscribe = ['a', 'b']\n");
    let mut ann = broker.client("ann");
    ann.subscribe("a@1|b@1");
    let mut root = broker.client("root");
    root.publish("a", "in flight", &[]);
    root.publish("b", "in flight", &[]);
    assert_eq!(ann.expect("publish")["topic"], "a");
    assert_eq!(ann.expect("publish")["topic"], "b");
    // Neither is acknowledged.
    drop(ann);
    broker.rules(&rules("[[rule]]\nusers = ['ann']\nsubscribe = ['b']\n"));
    last(&broker, "b");
    assert_eq!(broker.client("ann").messages_until("last"), ["b in flight"]);
}

#[test]
fn f04_a_retained_message_is_removed_with_the_right_of_its_publisher() {
    let with = "[[rule]]\nusers = ['ann']\npublish = ['a/#']\n";
    let mut broker = guarded(with);
    broker.client("ann").publish("a/kept", "by ann", &[("retain", "1")]);
    broker.client("root").publish("a/kept2", "by root", &[("retain", "1")]);
    let look = |broker: &Program| {
        let mut looking = broker.client_with("root", "5.0", &[("id", "looking")]);
        looking.subscribe("a/#@1");
        broker.client("root").publish("a/end", "last", &[]);
        looking.messages_until("last")
    };
    assert_eq!(look(&broker), ["a/kept by ann", "a/kept2 by root"]);
    broker.rules(&rules(""));
    assert_eq!(look(&broker), ["a/kept2 by root"]);
    broker.rules(&rules(with));
    assert_eq!(look(&broker), ["a/kept by ann", "a/kept2 by root"], "nothing was destroyed");
    let mut careless = Program::with("").users(&rules(with)).auth("retained_source_checked = false").start();
    careless.client("ann").publish("a/kept", "by ann", &[("retain", "1")]);
    careless.rules(&rules(""));
    assert_eq!(look(&careless), ["a/kept by ann"]);
}

#[test]
fn f04_f05_rights_revoked_while_the_broker_was_down_are_revoked_at_its_start() {
    use lapwing_tests::access::{USERS, password_lines, secret_file};
    let folder = Folder::new("restart");
    let passwords: Vec<String> = USERS.iter().map(|user| password(user)).collect();
    let users: Vec<(&str, &str)> = USERS.iter().copied().zip(passwords.iter().map(String::as_str)).collect();
    let users = secret_file(&folder, "users", &password_lines(&users));
    let acl = folder.file("acl.toml", &rules("[[rule]]\nusers = ['ann']\nall = ['a/#']\n"));
    let keys = format!("password_file = '{}'\nacl_file = '{}'", users.display(), acl.display());
    let start = || Program::with("").auth(&keys).state(&folder).start();
    let client = |program: &Program, user: &str, more: &[(&str, &str)]| {
        let password = password(user);
        let all = [
            &[
                ("id", user),
                ("user", user),
                ("password", &*password),
                ("clean", "0"),
                ("p.session_expiry", "3600"),
            ],
            more,
        ]
        .concat();
        Client::connect(&program.address("mqtt"), "5.0", &all).unwrap().0
    };
    let mut program = start();
    let mut ann = client(&program, "ann", &[]);
    ann.publish("a/kept", "by ann", &[("retain", "1")]);
    ann.subscribe("a/#@1");
    drop(ann);
    client(&program, "root", &[]).publish("a/kept2", "by root", &[("retain", "1")]);
    program.signal("TERM");
    assert!(program.wait().success());
    folder.file("acl.toml", &rules(""));
    let mut program = start();
    let mut root = client(&program, "root", &[("id", "looking")]);
    root.subscribe("a/#@1");
    client(&program, "root", &[]).publish("a/end", "last", &[]);
    assert_eq!(root.messages_until("last"), ["a/kept2 by root"]);
    // Her subscription is gone, and what waited for it is not delivered.
    let mut ann = client(&program, "ann", &[]);
    program.wait_for("subscription removed");
    assert_eq!(ann.next(Duration::from_millis(500)).unwrap(), None);
}

#[test]
fn f05_a_revoked_subscription_delivers_nothing_more_even_from_its_queue() {
    let with = "[[rule]]\nusers = ['ann']\nsubscribe = ['a', 'b', '$share/g/c']\n";
    let mut broker = guarded(with);
    let mut ann = broker.client("ann");
    assert_eq!(ann.subscribe("a@1|b@1|$share/g/c@1"), "1|1|1");
    let only_b = rules("[[rule]]\nusers = ['ann']\nsubscribe = ['b']\n");
    let line = broker.rules_say(&only_b, "subscription removed");
    assert!(line.contains("ann") && line.contains("acl.toml"), "{line}");
    // It is gone, not only silent: the right alone does not bring it back.
    broker.rules(&rules(with));
    let mut root = broker.client("root");
    root.publish("a", "no", &[]);
    root.publish("c", "no", &[]);
    root.publish("b", "last", &[]);
    assert!(ann.messages_until("last").is_empty());
    assert_eq!(ann.subscribe("a@1"), "1");
}

#[test]
fn f05_a_subscription_revoked_while_its_client_was_offline_is_gone_on_resume() {
    let with = "[[rule]]\nusers = ['ann']\nsubscribe = ['a', 'b']\n";
    let mut broker = guarded(with);
    let mut ann = broker.client("ann");
    ann.subscribe("a@1|b@1");
    drop(ann);
    broker.client("root").publish("a", "queued", &[]);
    broker.rules_say(&rules("[[rule]]\nusers = ['ann']\nsubscribe = ['b']\n"), "subscription removed");
    last(&broker, "b");
    assert!(broker.client("ann").messages_until("last").is_empty());
}

#[test]
fn f05_with_a_key_a_client_with_a_revoked_subscription_is_disconnected() {
    let mut broker = Program::with("")
        .users(&rules("[[rule]]\nusers = ['ann']\nsubscribe = ['a']\n"))
        .auth("revoked_disconnects = true")
        .start();
    let mut ann = broker.client("ann");
    ann.subscribe("a@1");
    let bob = broker.client("bob");
    broker.rules(ROOT);
    assert_eq!(ann.end().as_deref(), Some("135"));
    drop(bob);
}

#[test]
fn f07_a_will_is_judged_at_connect_and_again_when_it_fires() {
    let with = "[[rule]]\nusers = ['ann']\npublish = ['w']\n";
    let mut broker = guarded(with);
    let address = broker.address("mqtt");
    let pw = password("ann");
    for topic in ["x", "$SYS/x", "$CONTROL/x"] {
        let all = [("id", "ann"), ("user", "ann"), ("password", &*pw), ("will", topic)];
        let (_, connack) = Client::knock(&address, "5.0", &all).unwrap();
        assert_eq!(code(&connack), 0x87, "{topic}");
        let (_, connack) = Client::knock(&address, "3.1.1", &all).unwrap();
        assert_eq!(code(&connack), 5, "{topic}");
    }
    let mut watcher = broker.client_with("root", "5.0", &[("id", "watcher")]);
    watcher.subscribe("#@1");
    drop(broker.client_with("ann", "5.0", &[("will", "w"), ("will_payload", "allowed")]));
    watcher.messages_until("allowed");
    let ann = broker.client_with("ann", "5.0", &[("will", "w"), ("will_retain", "1")]);
    broker.rules(ROOT);
    drop(ann);
    let line = broker.wait_for("will denied");
    assert!(line.contains("ann") && line.contains("topic=w"), "{line}");
    last(&broker, "end");
    assert!(watcher.messages_until("last").is_empty());
}

#[test]
fn f07_a_delayed_will_is_judged_when_it_fires() {
    let mut broker = guarded("[[rule]]\nusers = ['ann']\npublish = ['w']\n");
    let mut watcher = broker.client_with("root", "5.0", &[("id", "watcher")]);
    watcher.subscribe("#@1");
    // Longer than a reload takes.
    let delayed = [("will", "w"), ("wp.will_delay", "4"), ("clean", "0"), ("p.session_expiry", "3600")];
    drop(broker.client_with("ann", "5.0", &delayed));
    broker.rules_say(ROOT, "will denied");
    last(&broker, "end");
    assert!(watcher.messages_until("last").is_empty());
}

#[test]
fn f08_rules_apply_to_the_filter_inside_a_shared_subscription() {
    for denied in ["secret", "$share/g/secret", "$share/other/secret"] {
        let broker = guarded(&format!(
            "[[rule]]\nusers = ['ann']\nsubscribe = ['#']\ndeny_subscribe = ['{denied}']\n"
        ));
        let mut ann = broker.client("ann");
        assert_eq!(ann.subscribe("$share/g/secret@1|secret@1|$share/g/open@1"), "135|135|1", "{denied}");
    }
}

#[test]
fn f09_wildcards_and_levels_in_a_client_identifier_or_user_are_literal() {
    let broker = guarded(
        "[[rule]]\nusers = ['ann']\nall = ['dev/%c', 'dev/%c/#', 'user/%u/#']\ndeny = ['dev/%c/secret']\n",
    );
    for id in ["+", "#", "a/#", "../", "%u", ".*", "a/b"] {
        let mut client = broker.client_with("ann", "5.0", &[("id", id)]);
        let literal = !id.contains(['+', '#', '/']);
        assert_eq!(client.subscribe("dev/#@1|dev/x@1|dev/other/y@1"), "135|135|135", "{id}");
        if literal {
            assert_eq!(client.publish(&format!("dev/{id}"), "x", &[])["reason"], "16", "{id}");
            assert_eq!(client.publish(&format!("dev/{id}/secret"), "x", &[])["reason"], "135", "{id}");
        }
        assert_eq!(client.publish("user/ann/x", "x", &[])["reason"], "16");
    }
}

#[test]
fn f10_rules_apply_to_the_topic_behind_an_alias() {
    let broker = guarded("[[rule]]\nusers = ['ann']\npublish = ['a']\n");
    let mut ann = broker.client("ann");
    assert_eq!(ann.publish("a", "1", &[("p.alias", "1")])["reason"], "16");
    assert_eq!(ann.publish("b", "1", &[("p.alias", "1")])["reason"], "135");
    let mut root = broker.client("root");
    root.subscribe("#@1");
    // The alias means b now, and b is denied.
    assert_eq!(ann.publish("", "1", &[("p.alias", "1")])["reason"], "135");
    assert_eq!(ann.publish("a", "last", &[])["reason"], "0");
    assert!(root.messages_until("last").is_empty());
}

#[test]
fn f14_a_removed_user_is_disconnected_at_once() {
    let broker = guarded("[[rule]]\nusers = ['ann']\nall = ['#']\n");
    let mut watcher = broker.client_with("root", "5.0", &[("id", "watcher")]);
    let mut ann = broker.client_with("ann", "5.0", &[("will", "w"), ("will_payload", "will of ann")]);
    ann.publish("kept", "by ann", &[("retain", "1")]);
    let users = std::fs::read_to_string(broker.folder.0.join("users")).unwrap();
    let others: String =
        users.lines().filter(|line| !line.starts_with("ann:")).flat_map(|l| [l, "\n"]).collect();
    broker.folder.file("users", &others);
    // No signal: the file has changed.
    let began = std::time::Instant::now();
    assert_eq!(ann.end().as_deref(), Some("152"), "0x98");
    assert!(began.elapsed() < Duration::from_secs(6));
    let (_, connack) = Client::knock(
        &broker.address("mqtt"),
        "5.0",
        &[("id", "ann"), ("user", "ann"), ("password", &password("ann"))],
    )
    .unwrap();
    assert_eq!(code(&connack), 0x86);
    watcher.subscribe("#@1");
    last(&broker, "end");
    assert!(watcher.messages_until("last").is_empty(), "neither its will nor its retained message");
}

#[test]
fn f14_with_a_key_the_session_of_a_removed_user_ends_with_its_queue() {
    let mut broker = Program::with("")
        .users(&rules("[[rule]]\nusers = ['ann']\nall = ['#']\n"))
        .auth("removed_users_end_sessions = true")
        .start();
    let mut ann = broker.client("ann");
    ann.subscribe("a@1");
    drop(ann);
    let users = std::fs::read_to_string(broker.folder.0.join("users")).unwrap();
    let others: String =
        users.lines().filter(|line| !line.starts_with("ann:")).flat_map(|l| [l, "\n"]).collect();
    broker.folder.file("users", &others);
    broker.wait_for("session ended");
    broker.folder.file("users", &users);
    broker.reload();
    let pw = password("ann");
    let all = [("id", "ann"), ("user", "ann"), ("password", &*pw), ("clean", "0")];
    let (_, present) = Client::connect(&broker.address("mqtt"), "5.0", &all).unwrap();
    assert!(!present);
}

#[test]
fn g02_an_empty_file_of_rules_denies_all_and_says_so() {
    for (name, text) in [("acl.toml", "# nothing\n"), ("acl", ""), ("acl", "# only a comment\n")] {
        let folder = Folder::new("empty");
        let file = folder.file(name, text);
        let mut program = Program::with("").auth(&format!("acl_file = '{}'", file.display())).start();
        assert!(program.log.lock().unwrap().contains("holds no rule"));
        let (mut client, _) = Client::connect(&program.address("mqtt"), "5.0", &[("id", "x")]).unwrap();
        assert_eq!(client.subscribe("a"), "135");
        assert_eq!(client.publish("a", "x", &[])["reason"], "135");
        program.wait_for("denied");
    }
}

fn refused(toml: &str) -> String {
    let folder = Folder::new("refused");
    let file = folder.file("lapwing.toml", toml);
    let tested = std::process::Command::new(binary())
        .args(["--test-config", "-c", &file.display().to_string()])
        .output()
        .unwrap();
    assert_eq!(tested.status.code(), Some(1), "it is refused");
    String::from_utf8(tested.stderr).unwrap()
}

#[test]
fn g04_a_misspelt_key_refuses_the_start_naming_line_and_nearest_key() {
    let told = refused("[auth]\nacl_flie = 'x'\n[[listener]]\nallow_anonymus = true\n");
    assert!(
        told.contains("lapwing.toml:2: unknown key 'acl_flie' in [auth]; did you mean 'acl_file'?"),
        "{told}"
    );
    assert!(told.contains("lapwing.toml:4: ") && told.contains("'allow_anonymous'"), "{told}");
    let told = refused("[auth]\npsk_file = 'x'\n");
    assert!(told.contains("rustls has none") && told.contains("client certificates"), "{told}");
}

#[test]
fn g02_rules_that_cannot_be_read_are_refused_before_any_port_opens() {
    let folder = Folder::new("unreadable");
    let told = refused(&format!("[auth]\nacl_file = '{}'\n", folder.0.display()));
    assert!(told.contains("auth.acl_file") && told.contains("is a folder"), "{told}");
    let told = refused("[auth]\nacl_file = '/nowhere/acl'\n");
    assert!(told.contains("/nowhere/acl") && told.contains("user id"), "{told}");
    let bad = folder.file("acl", "topic read a\nuser\ntopics x\ntopic read a/#/b\n");
    let told = refused(&format!("[auth]\nacl_file = '{}'\n", bad.display()));
    for line in ["acl:2: ", "acl:3: ", "acl:4: "] {
        assert!(told.contains(line), "{told}");
    }
    let bad =
        folder.file("acl.toml", "[[rule]]\nuser = ['x']\npublish = ['a+']\n[[rule]]\nusers = ['x']\n[x]\n");
    let told = refused(&format!("[auth]\nacl_file = '{}'\n", bad.display()));
    for line in [
        "acl.toml:2: unknown key 'user' in a rule; did you mean 'users'?",
        "acl.toml:3: ",
        "acl.toml:4: ",
        "acl.toml:6: ",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

#[test]
fn g03_a_reload_with_a_broken_file_changes_nothing_and_says_why() {
    let with = rules("[[rule]]\nusers = ['ann']\nall = ['a']\n");
    let mut broker = Program::with("").users(&with).start();
    let mut ann = broker.client("ann");
    ann.subscribe("a@1");
    broker.folder.file("acl.toml", "[[rule]\n");
    // Good users beside broken rules: neither is taken.
    broker.folder.file("users", "");
    broker.signal("HUP");
    let line = broker.wait_for("NOT reloaded (asked to)");
    assert!(line.contains("acl.toml:1"), "{line}");
    assert_eq!(ann.publish("a", "last", &[])["reason"], "0");
    ann.messages_until("last");
    drop(broker.client("bob"));
}

#[test]
fn rules_in_the_format_of_mosquitto_mean_the_same() {
    let folder = Folder::new("mosquitto");
    let acl = folder.file(
        "acl",
        "topic read public/#\n\nuser ann\ntopic write out\ntopic readwrite both/+\ntopic deny both/secret\ntopic plain\n\
         # for everybody\npattern readwrite dev/%c/%u\n",
    );
    let users = lapwing_tests::access::secret_file(
        &folder,
        "users",
        &lapwing_tests::access::password_lines(&[("ann", "ann-pw")]),
    );
    let files = format!("acl_file = '{}'\npassword_file = '{}'", acl.display(), users.display());
    let program = Program::with("").auth(&files).auth("allow_anonymous = true").start();
    let address = program.address("mqtt");
    let (mut anybody, _) = Client::connect(&address, "5.0", &[("id", "d")]).unwrap();
    assert_eq!(anybody.subscribe("public/#|both/x|dev/c/ann"), "0|135|135");
    assert_eq!(anybody.publish("public/x", "", &[])["reason"], "135");
    let all = [("id", "c"), ("user", "ann"), ("password", "ann-pw")];
    let (mut ann, _) = Client::connect(&address, "5.0", &all).unwrap();
    assert_eq!(
        ann.subscribe("public/#|out|both/x|both/+|both/secret|plain|dev/c/ann|dev/d/ann"),
        "135|135|0|0|135|0|0|135"
    );
    for (topic, reason) in
        [("out", "16"), ("both/x", "0"), ("both/secret", "135"), ("dev/c/ann", "0"), ("dev/c/bob", "135")]
    {
        assert_eq!(ann.publish(topic, "x", &[])["reason"], reason, "{topic}");
    }
}

#[test]
fn explain_prints_the_rule_that_decides() {
    let folder = Folder::new("explain");
    let acl = folder.file(
        "acl.toml",
        "[groups]\nstaff = ['ann']\n[[rule]]\ngroups = ['staff']\npublish = ['a/#']\nsubscribe = ['#']\ndeny = ['a/secret/%c']\n",
    );
    let config = folder.file("lapwing.toml", &format!("[auth]\nacl_file = '{}'\n", acl.display()));
    let explain = |arguments: &[&str]| {
        let output = std::process::Command::new(binary())
            .args(["-c", &config.display().to_string(), "explain"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.stderr.is_empty() || !output.status.success(), "{output:?}");
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (allowed, told) = explain(&["--user", "ann", "publish", "a/b"]);
    assert!(
        allowed
            && told.starts_with("allowed\n")
            && told.contains("acl.toml:5: allow publish 'a/#' for group 'staff'"),
        "{told}"
    );
    let (allowed, told) = explain(&["--user", "ann", "--client", "c", "publish", "a/secret/c"]);
    assert!(!allowed && told.starts_with("denied\n") && told.contains("acl.toml:7: deny"), "{told}");
    let (allowed, told) = explain(&["--user", "bob", "publish", "a/b"]);
    assert!(!allowed && told.contains("no rule allows it"), "{told}");
    let (allowed, told) = explain(&["--user", "ann", "--client", "c", "subscribe", "a/#"]);
    assert!(
        allowed
            && told.contains("acl.toml:6")
            && told.contains("but not delivered: ")
            && told.contains("acl.toml:7"),
        "{told}"
    );
}
