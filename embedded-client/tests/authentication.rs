//! Enhanced authentication: calls of the hook, its answers in packets, and when the client
//! disconnects.

mod support;

use std::cell::RefCell;

use lapwing_client::{Authenticator, Config, Error, Property, QoS, ReasonCode, Version};
use lapwing_protocol::packet::{Auth, Packet};
use support::{Bench, Seen, block_of};

/// Answers each challenge with its next word, and accepts a server that says `proof`.
#[derive(Default)]
struct Words {
    say: RefCell<Vec<&'static [u8]>>,
    asked: RefCell<Vec<Option<Vec<u8>>>>,
}

impl Words {
    fn new(say: &[&'static [u8]]) -> Words {
        Words { say: RefCell::new(say.iter().rev().copied().collect()), ..Words::default() }
    }
}

impl Authenticator for Words {
    fn method(&self) -> &str {
        "RIDDLE"
    }

    fn respond(&self, challenge: Option<&[u8]>, out: &mut [u8]) -> Option<usize> {
        self.asked.borrow_mut().push(challenge.map(<[u8]>::to_vec));
        let word = self.say.borrow_mut().pop()?;
        out.get_mut(..word.len())?.copy_from_slice(word);
        Some(word.len())
    }

    fn conclude(&self, data: &[u8]) -> bool {
        data == b"proof"
    }
}

type TestBench<'a> = Bench<'a, 512, 128>;

fn config<'a>(words: &'a Words) -> Config<'a> {
    Config::new("s17").authenticate(words).backoff_ms(1_000, 1_000)
}

fn challenge(bench: &mut TestBench<'_>, reason: ReasonCode, method: &str, data: &[u8]) {
    let mut block = [0; 128];
    let properties = [Property::AuthenticationMethod(method), Property::AuthenticationData(data)];
    let properties = block_of(&mut block, &properties);
    bench.say(Packet::Auth(Auth { reason, properties }));
}

fn ask(bench: &mut TestBench<'_>, data: &[u8]) {
    challenge(bench, ReasonCode::ContinueAuthentication, "RIDDLE", data);
}

const PROOF: [Property<'static>; 2] =
    [Property::AuthenticationMethod("RIDDLE"), Property::AuthenticationData(b"proof")];

#[test]
fn the_hook_speaks_first_answers_each_challenge_and_hears_the_last_word() {
    let words = Words::new(&[b"hello", b"one", b"two"]);
    let mut bench = TestBench::new(Version::V5, config(&words));
    let token = bench.client.publish("t", b"x", QoS::AtLeastOnce).unwrap();
    assert_eq!(bench.poll(), []);
    let connect = &bench.sent()[0];
    assert!(
        connect.contains("AuthenticationMethod(\"RIDDLE\") AuthenticationData([104, 101, 108, 108, 111])"),
        "{connect}"
    );
    for (question, answer) in [("what?", "[111, 110, 101]"), ("and then?", "[116, 119, 111]")] {
        ask(&mut bench, question.as_bytes());
        assert_eq!(bench.poll(), []);
        let expected = format!(
            "Auth ContinueAuthentication AuthenticationMethod(\"RIDDLE\") AuthenticationData({answer})"
        );
        assert_eq!(bench.sent(), [expected]);
    }
    bench.connack(false, ReasonCode::Success, &PROOF);
    assert_eq!(bench.poll(), [Seen::Connected(false)]);
    assert_eq!(bench.sent(), ["Publish 1 #1 t x"], "what was published meanwhile is whole");
    bench.puback(token.id());
    assert_eq!(bench.poll(), [Seen::Delivered(1)]);
    assert_eq!(*words.asked.borrow(), [None, Some(b"what?".to_vec()), Some(b"and then?".to_vec())]);
}

#[test]
fn a_server_that_does_not_prove_itself_is_left_before_anything_is_said_to_it() {
    let words = Words::new(&[b"hello", b"hello"]);
    let mut bench = TestBench::new(Version::V5, config(&words).subscribe("in", QoS::AtMostOnce));
    let _ = bench.client.publish("t", b"secret", QoS::AtLeastOnce).unwrap();
    assert_eq!(bench.poll(), []);
    bench.sent();
    bench.connack(false, ReasonCode::Success, &[]);
    assert_eq!(bench.poll(), [Seen::Failed(Error::ServerUnproven)]);
    assert_eq!((bench.sent(), bench.wire().up), (vec!["Disconnect NotAuthorized".to_owned()], false));
    // The client tries again, and this time the server is the right one.
    bench.pass_ms(1_000);
    assert_eq!(bench.poll(), []);
    bench.connack(false, ReasonCode::Success, &PROOF);
    assert_eq!(bench.poll(), [Seen::Connected(false)]);
}

#[test]
fn a_refusal_says_why() {
    let words = Words::new(&[b"hello", b"wrong"]);
    let mut bench = TestBench::new(Version::V5, config(&words));
    assert_eq!(bench.poll(), []);
    ask(&mut bench, b"what?");
    assert_eq!(bench.poll(), []);
    bench.connack(false, ReasonCode::NotAuthorized, &[]);
    assert_eq!(bench.poll(), [Seen::Failed(Error::Refused(ReasonCode::NotAuthorized))]);
}

#[test]
fn a_hook_that_gives_up_another_method_and_auth_out_of_its_time_end_the_connection() {
    // The method has no further answer.
    let words = Words::new(&[b"hello"]);
    let mut bench = TestBench::new(Version::V5, config(&words));
    assert_eq!(bench.poll(), []);
    bench.sent();
    ask(&mut bench, b"what?");
    assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["Disconnect NotAuthorized".to_owned()]));
    assert!(!bench.wire().up);

    // The data do not fit into the packet.
    let words = Words::new(&[b"hello", &[b'x'; 120]]);
    let mut bench = TestBench::new(Version::V5, config(&words));
    assert_eq!(bench.poll(), []);
    bench.sent();
    ask(&mut bench, b"what?");
    assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["Disconnect NotAuthorized".to_owned()]));

    let violation = vec!["Disconnect ProtocolError".to_owned()];
    for (reason, method) in [
        (ReasonCode::ContinueAuthentication, "ANOTHER"),
        (ReasonCode::Success, "RIDDLE"),
        (ReasonCode::ReAuthenticate, "RIDDLE"),
    ] {
        let words = Words::new(&[b"hello", b"answer"]);
        let mut bench = TestBench::new(Version::V5, config(&words));
        assert_eq!(bench.poll(), []);
        bench.sent();
        challenge(&mut bench, reason, method, b"what?");
        assert_eq!((bench.poll(), bench.sent()), (vec![], violation.clone()), "{reason:?} {method}");
    }

    let words = Words::new(&[b"hello", b"answer"]);
    let mut bench = TestBench::new(Version::V5, config(&words));
    bench.accept(false, &PROOF);
    ask(&mut bench, b"again");
    assert_eq!(bench.poll(), [Seen::Disconnected(Some(ReasonCode::ProtocolError))]);
    assert_eq!(bench.sent(), violation);
    assert_eq!(words.asked.borrow().len(), 1, "it was not asked");
}

#[test]
fn without_a_hook_auth_ends_the_connection_and_before_mqtt_5_there_is_none() {
    let mut bench = TestBench::new(Version::V5, Config::new("s17"));
    assert_eq!(bench.poll(), []);
    bench.sent();
    ask(&mut bench, b"what?");
    assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["Disconnect ProtocolError".to_owned()]));

    let words = Words::new(&[b"hello"]);
    let mut bench = TestBench::new(Version::V311, config(&words));
    bench.accept(false, &[]);
}
