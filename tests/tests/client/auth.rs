//! The microcontroller's client with SCRAM-SHA-256 by its hook, against the broker.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use lapwing::internals::auth::password::{Hash, PasswordEntry, line};
use lapwing::internals::auth::scram::Verifier;
use lapwing_client::blocking::Dialer;
use lapwing_client::dialers::std::TcpDialer;
use lapwing_client::{Authenticator, Client, Config, Error, Event, QoS, ReasonCode};
use lapwing_tests::access::{CHEAP, secret_file};
use lapwing_tests::program::{Folder, Program};
use lapwing_tests::scram::{METHOD, NONCE, answer};

const PATIENCE: Duration = Duration::from_secs(30);

/// A user and its password; the signature that the server has to know is worked out with the proof.
struct Scram {
    password: &'static str,
    expects: RefCell<String>,
    /// For a client that takes another server for its own.
    pretends: bool,
}

const BARE: &str = "n=ann,r=fyko+d2lbbFgONRv9qkxdawL";

impl Authenticator for Scram {
    fn method(&self) -> &str {
        METHOD
    }

    fn respond(&self, challenge: Option<&[u8]>, out: &mut [u8]) -> Option<usize> {
        let said = match challenge {
            None => format!("n,,{BARE}"),
            Some(challenge) => {
                let (last, expects) = answer(BARE, std::str::from_utf8(challenge).ok()?, self.password);
                *self.expects.borrow_mut() = expects;
                last
            }
        };
        out.get_mut(..said.len())?.copy_from_slice(said.as_bytes());
        Some(said.len())
    }

    fn conclude(&self, data: &[u8]) -> bool {
        data == self.expects.borrow().as_bytes() && !self.pretends
    }
}

/// Connects as `ann` and publishes; the error that ended it.
fn log_in(scram: &Scram) -> Result<(), Error> {
    assert!(BARE.ends_with(NONCE));
    let folder = Folder::new("embedded-auth");
    let entry = PasswordEntry {
        hash: Hash::make(b"ann-pw", CHEAP, &mut Vec::new()).unwrap(),
        scram: Some(Verifier::make(b"ann-pw").unwrap()),
    };
    let users = secret_file(&folder, "users", &(line("ann", &entry) + "\n"));
    let program = Program::start(&format!(
        "[auth]\npassword_file = '{}'\n[[listener]]\naddress = '127.0.0.1:0'\n",
        users.display()
    ));
    let mut net = TcpDialer::new(program.address("mqtt"));
    let mut mq = Client::<1024, 512>::new(Config::new("s17").authenticate(scram));
    let token = mq.publish("t", b"x", QoS::AtLeastOnce).unwrap();
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match mq.poll(&mut net) {
            Some(Ok(Event::Delivered(delivered))) => {
                assert_eq!(delivered, token);
                return Ok(());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => net.idle(5),
        }
    }
    panic!("nothing happened")
}

#[test]
fn scram_proves_the_device_to_the_broker_and_the_broker_to_the_device() {
    let mut scram = Scram { password: "ann-pw", expects: RefCell::default(), pretends: false };
    assert_eq!(log_in(&scram), Ok(()));
    scram.pretends = true;
    assert_eq!(log_in(&scram), Err(Error::ServerUnproven));
    scram.password = "wrong";
    assert_eq!(log_in(&scram), Err(Error::Refused(ReasonCode::NotAuthorized)));
}
