//! Rights are the same whether a client is here or away: after a reload, a restart, and both.

use lapwing_tests::access::{password, password_lines, secret_file};
use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program};
use lapwing_tests::token::{Signer, now_s};

const METHODS: &str = "authentication = ['jwt', 'password']";
const SECRET: &str = "a secret of at least thirty-two bytes";

/// Condition for the rights of `ann`, beside her name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The listener has rules of its own.
    ListenersFile,
    /// Rules of one file are for the listener.
    ListenersRules,
    /// A token brought the group.
    TokensGroup,
}

/// Event at the broker while `ann` is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Reload,
    Restart,
}

const WAYS: [&[Event]; 5] = [
    &[],
    &[Event::Reload],
    &[Event::Restart],
    &[Event::Restart, Event::Reload],
    &[Event::Reload, Event::Restart, Event::Reload],
];

/// A broker whose strict listener stands first: a guess would take that one's rules.
struct World {
    by: By,
    folder: Folder,
    program: Program,
}

impl World {
    fn new(by: By) -> World {
        let folder = Folder::new("absent");
        let passwords = ["ann", "root"].map(|user| (user, password(user)));
        let lines: Vec<(&str, &str)> =
            passwords.iter().map(|(user, password)| (*user, &**password)).collect();
        secret_file(&folder, "users", &password_lines(&lines));
        secret_file(&folder, "secret", SECRET);
        write(by, &folder, false);
        World { by, program: World::start(by, &folder), folder }
    }

    fn start(by: By, folder: &Folder) -> Program {
        let path = folder.0.display();
        let strict = if by == By::ListenersFile { "strict" } else { "out" };
        Program::with("")
            .auth(&format!("password_file = '{path}/users'"))
            .auth(&format!("jwt_secret_file = '{path}/secret'"))
            .listener(&format!("name = 'strict'\nacl_file = '{path}/{strict}.toml'\n{METHODS}"))
            .listener(&format!("name = 'out'\nacl_file = '{path}/out.toml'\n{METHODS}"))
            .state(folder)
            .start()
    }

    fn go(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Reload => self.program.reload(),
                Event::Restart => {
                    self.program.signal("TERM");
                    self.program.wait();
                    self.program = World::start(self.by, &self.folder);
                }
            }
        }
    }

    fn connect(&self, user: &str, more: &[(&str, &str)]) -> (Client, bool) {
        let listener = self.program.listeners[1].split_once("://").unwrap().1.to_owned();
        let claims = format!("{{\"sub\":\"{user}\",\"exp\":{},\"groups\":[\"staff\"]}}", now_s() + 3600);
        let secret = match (self.by, user) {
            (By::TokensGroup, "ann") => Signer::hs256(SECRET).token(&claims),
            _ => password(user),
        };
        let all = [&[("id", user), ("user", user), ("password", &*secret)], more].concat();
        Client::connect(&listener, "5.0", &all).expect("the user may come in")
    }

    fn kept(&self, user: &str) -> (Client, bool) {
        self.connect(user, &[("clean", "0"), ("p.session_expiry", "3600")])
    }
}

/// The rules: `ann` may have `d/#` by the way that is tested, and nothing without it.
fn write(by: By, folder: &Folder, denied: bool) {
    let root = "[[rule]]\nusers = ['root']\nall = ['#']\n";
    let deny = if denied { "deny_publish = ['d/1', 'd/will']\n" } else { "" };
    let of = match by {
        By::ListenersFile => "users = ['ann']",
        By::ListenersRules => "users = ['ann']\nlisteners = ['out']",
        By::TokensGroup => "groups = ['staff']",
    };
    let rules = format!("{root}[[rule]]\n{of}\nall = ['d/#']\n{deny}");
    folder.file("out.toml", &rules);
    folder.file("strict.toml", if by == By::ListenersFile { root } else { &rules });
}

fn each_way(test: impl Fn(&mut World, &[Event]) + Sync) {
    for by in [By::ListenersFile, By::ListenersRules, By::TokensGroup] {
        std::thread::scope(|scope| {
            for way in WAYS {
                let test = &test;
                scope.spawn(move || {
                    let mut world = World::new(by);
                    test(&mut world, way);
                });
            }
        });
    }
}

#[test]
fn a_kept_session_keeps_subscriptions_and_messages_that_its_client_may_have() {
    each_way(|world, way| {
        let (mut ann, _) = world.kept("ann");
        assert_eq!(ann.subscribe("d/#@1"), "1", "{:?}", world.by);
        ann.leave();
        world.go(way);
        let (mut root, _) = world.connect("root", &[]);
        assert_eq!(root.publish("d/2", "waits", &[])["reason"], "0");
        let (mut ann, there) = world.kept("ann");
        assert!(there, "{:?} {way:?}", world.by);
        root.publish("d/3", "end", &[]);
        assert_eq!(
            ann.messages_until("end"),
            ["d/2 waits"],
            "{:?} {way:?}\n{}",
            world.by,
            world.program.log()
        );
    });
}

#[test]
fn a_retained_message_is_delivered_while_its_publisher_may_publish_it() {
    each_way(|world, way| {
        let (mut ann, _) = world.connect("ann", &[]);
        assert_eq!(ann.publish("d/1", "retained", &[("retain", "1")])["reason"], "16");
        ann.leave();
        world.go(way);
        let (mut root, _) = world.connect("root", &[]);
        root.subscribe("d/#@1");
        root.publish("d/3", "end", &[]);
        assert_eq!(
            root.messages_until("end"),
            ["d/1 retained"],
            "{:?} {way:?}\n{}",
            world.by,
            world.program.log()
        );
    });
}

#[test]
fn a_retained_message_is_held_back_once_its_publisher_may_not_publish_it() {
    each_way(|world, way| {
        let (mut ann, _) = world.connect("ann", &[]);
        assert_eq!(ann.publish("d/1", "retained", &[("retain", "1")])["reason"], "16");
        ann.leave();
        write(world.by, &world.folder, true);
        // Without a reload or a start the new rules are not in force.
        let way = if way.is_empty() { &[Event::Reload] } else { way };
        world.go(way);
        let (mut root, _) = world.connect("root", &[]);
        root.subscribe("d/#@1");
        root.publish("d/3", "end", &[]);
        let none: [&str; 0] = [];
        assert_eq!(root.messages_until("end"), none, "{:?} {way:?}\n{}", world.by, world.program.log());
    });
}

#[test]
fn a_will_is_published_when_its_client_may_and_only_then() {
    for denied in [false, true] {
        each_way(|world, way| {
            let will = [
                ("clean", "0"),
                ("p.session_expiry", "3600"),
                ("will", "d/will"),
                ("will_payload", "gone"),
                ("will_retain", "1"),
                ("wp.will_delay", "2"),
            ];
            let (ann, _) = world.connect("ann", &will);
            drop(ann);
            if denied {
                write(world.by, &world.folder, true);
            }
            let way = if way.is_empty() && denied { &[Event::Reload] } else { way };
            world.go(way);
            let (mut root, _) = world.connect("root", &[]);
            root.subscribe("d/#@1");
            if denied {
                let line = world.program.wait_for("denied");
                assert!(line.contains("will"), "{line}");
                root.publish("d/3", "end", &[]);
                let none: [&str; 0] = [];
                assert_eq!(root.messages_until("end"), none);
            } else {
                assert_eq!(root.expect("publish")["payload"], "gone", "{:?} {way:?}", world.by);
            }
        });
    }
}

#[test]
fn a_session_that_cannot_be_judged_loses_nothing_and_the_operator_is_told() {
    let mut world = World::new(By::ListenersFile);
    let (mut ann, _) = world.kept("ann");
    ann.subscribe("d/#@1");
    ann.leave();
    // The listener gets another name: nobody knows its old rules.
    world.program.signal("TERM");
    world.program.wait();
    let path = world.folder.0.display();
    world.program = Program::with("")
        .auth(&format!("password_file = '{path}/users'"))
        .listener(&format!("name = 'strict'\nacl_file = '{path}/strict.toml'"))
        .listener(&format!("name = 'outside'\nacl_file = '{path}/out.toml'"))
        .state(&world.folder)
        .start();
    let line = world.program.wait_for("the rights of clients that are away are not known");
    assert!(line.contains("the listener 'out'") && line.contains("name = 'out'"), "{line}");
    let (mut root, _) = world.connect("root", &[]);
    root.publish("d/2", "waits", &[]);
    let (mut ann, there) = world.kept("ann");
    assert!(there);
    root.publish("d/3", "end", &[]);
    assert_eq!(ann.messages_until("end"), ["d/2 waits"]);
}

#[test]
fn rules_are_those_of_the_listener_and_two_of_one_name_are_refused() {
    let folder = Folder::new("names");
    let file = folder.file(
        "lapwing.toml",
        "[[listener]]\nname = 'x'\naddress = '127.0.0.1:0'\n[[listener]]\nname = 'x'\naddress = '127.0.0.1:0'\n",
    );
    let tested = std::process::Command::new(lapwing_tests::program::binary())
        .args(["--test-config", "-c", &file.display().to_string()])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&tested.stderr).into_owned();
    assert!(!tested.status.success() && told.contains("another listener has the same name"), "{told}");
    // Without names two open ports cannot be told apart: each has its own rules all the same.
    let strict = folder.file("strict.toml", "[[rule]]\nall = ['open/#']\n");
    let free = folder.file("free.toml", "[[rule]]\nall = ['#']\n");
    let broker = Program::with("")
        .listener(&format!("acl_file = '{}'", free.display()))
        .listener(&format!("acl_file = '{}'", strict.display()))
        .start();
    let secret = |at: usize| {
        let listener = broker.listeners[at].split_once("://").unwrap().1;
        let (mut client, _) = Client::connect(listener, "5.0", &[("id", &format!("c{at}"))]).unwrap();
        client.subscribe("secret/#@1")
    };
    assert_eq!((secret(0), secret(1)), ("1".to_owned(), "135".to_owned()));
}

/// Two password files, each with a user `ann`, behind a listener each.
fn two_tenants() -> (Program, Folder) {
    let folder = Folder::new("tenants");
    for tenant in ["a", "b"] {
        let secret = format!("{tenant}-secret");
        secret_file(&folder, tenant, &password_lines(&[("ann", &secret)]));
    }
    let path = folder.0.display();
    let broker = Program::with("")
        .listener(&format!("name = 'a'\npassword_file = '{path}/a'\nmount_point = 'a/'"))
        .listener(&format!("name = 'b'\npassword_file = '{path}/b'\nmount_point = 'b/'"))
        .state(&folder)
        .start();
    (broker, folder)
}

#[test]
fn users_of_one_name_in_two_password_files_are_two() {
    let (broker, _folder) = two_tenants();
    let knock = |tenant: usize, password: &str, clean: &str| {
        let listener = broker.listeners[tenant].split_once("://").unwrap().1;
        let all = [
            ("id", "meter"),
            ("user", "ann"),
            ("password", password),
            ("clean", clean),
            ("p.session_expiry", "3600"),
        ];
        Client::knock(listener, "5.0", &all).unwrap()
    };
    let (mut a, connack) = knock(0, "a-secret", "0");
    assert_eq!(code(&connack), 0);
    a.subscribe("x@1");
    // Connected or away, with a clean start or without: tenant B gets and ends nothing of A's.
    for (away, clean) in [(false, "0"), (false, "1"), (true, "0"), (true, "1")] {
        if away {
            a.send("disconnect", &[]).unwrap();
        }
        let (_, refused) = knock(1, "b-secret", clean);
        assert_eq!(code(&refused), 0x85, "away {away}, clean {clean}");
        assert!(!refused["p.reason_string"].contains("a/"), "{refused:?}");
        let (again, connack) = knock(0, "a-secret", "0");
        assert_eq!((code(&connack), &*connack["sp"]), (0, "1"));
        a = again;
    }
    let log = broker.log();
    assert!(
        log.contains("auth.sessions_belong_to_users") && log.contains("lapwing ctl session delete"),
        "{log}"
    );
}

#[test]
fn the_session_of_a_user_that_is_gone_locks_nobody_out() {
    let folder = Folder::new("moves");
    let file = |users: &[&str]| {
        let all: Vec<(&str, String)> = users.iter().map(|user| (*user, password(user))).collect();
        let lines: Vec<(&str, &str)> = all.iter().map(|(user, password)| (*user, &**password)).collect();
        secret_file(&folder, "users", &password_lines(&lines))
    };
    let kept = [("id", "zigbee"), ("clean", "0"), ("p.session_expiry", "3600")];
    let known = |user: &'static str, password: &'static str| {
        [&kept[..], &[("user", user), ("password", password)]].concat()
    };
    // Before there were users.
    let mut broker = Program::with("").state(&folder).start();
    let (mut client, _) = Client::connect(&broker.address("mqtt"), "5.0", &kept).unwrap();
    client.subscribe("z/#@1");
    client.leave();
    let (mut other, _) = Client::connect(&broker.address("mqtt"), "5.0", &[("id", "other")]).unwrap();
    other.publish("z/1", "waits", &[]);
    broker.signal("TERM");
    broker.wait();
    // Users are set up: what waits for nobody goes to the one that comes.
    let users = file(&["ann", "bob"]);
    let start =
        || Program::with("").auth(&format!("password_file = '{}'", users.display())).state(&folder).start();
    let mut broker = start();
    let (mut client, there) =
        Client::connect(&broker.address("mqtt"), "5.0", &known("ann", "ann-pw")).unwrap();
    assert!(there);
    assert_eq!(client.expect("publish")["payload"], "waits");
    // While ann may come in, bob may not have her session.
    let (_, refused) = Client::knock(&broker.address("mqtt"), "5.0", &known("bob", "bob-pw")).unwrap();
    assert_eq!(code(&refused), 0x85);
    client.leave();
    // She is removed: bob may have the identifier, and nothing of hers.
    file(&["bob"]);
    broker.reload();
    let (mut bob, there) = Client::connect(&broker.address("mqtt"), "5.0", &known("bob", "bob-pw")).unwrap();
    assert!(!there);
    bob.subscribe("z/2@1");
    bob.publish("z/2", "end", &[]);
    let none: [&str; 0] = [];
    assert_eq!(bob.messages_until("end"), none);
    assert!(broker.log().contains("cannot come in any more: it is ended"));
}
