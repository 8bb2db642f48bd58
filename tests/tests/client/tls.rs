//! The microcontroller's client over TLS 1.3: the dialer of `examples/tls` against the broker.

use std::time::Duration;

use embedded_io_async::{Read, Write};
use embedded_tls::TlsConfig;
use lapwing_client::dialers::tokio::TokioTimer;
use lapwing_client::{Client, Config, Dialer, Event, LinkDown, QoS, ReasonCode};
use lapwing_example_tls::host::{OsRng, Tcp, WallClock};
use lapwing_example_tls::{Identity, TlsDialer, Tunnel};
use lapwing_tests::authority::{Authority, Issued, Wanted};
use lapwing_tests::program::{Folder, Program};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

const RULES: &str = "[[rule]]\npublish = ['of/%u']\nsubscribe = ['of/%u']\n";
const REQUIRED: &str = "client_certificate = 'required'\n";
const PATIENCE: Duration = Duration::from_secs(60);

struct House {
    authority: Authority,
    program: Program,
    _folder: Folder,
}

impl House {
    fn open(keys: &str) -> House {
        let (authority, folder) = (Authority::default(), Folder::new("embedded-tls"));
        let acl = folder.file("acl.toml", RULES);
        let program = Program::start(&format!(
            "[auth]\nacl_file = '{}'\n[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\n{}{keys}",
            acl.display(),
            authority.serve(&folder, "server"),
        ));
        House { authority, program, _folder: folder }
    }

    fn trust(&self) -> &str {
        &self.authority.pem
    }
}

type Net<'t> = TlsDialer<'t, TokioTimer, 256>;

/// Runs a device over a tunnel to the broker.
fn with_tls<T>(
    house: &House,
    trusts: &str,
    name: &str,
    own: Option<&Issued>,
    device: impl AsyncFnOnce(Net<'_>) -> T,
) -> T {
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let trusts = certificate(trusts);
    let own = own
        .map(|own| (certificate(&own.pem), PrivatePkcs8KeyDer::from_pem_slice(own.key.as_bytes()).unwrap()));
    let mut crypto = Identity::<_, WallClock>::trusting(&trusts, OsRng);
    if let Some((certificate, key)) = &own {
        crypto = crypto.with_certificate(certificate, key.secret_pkcs8_der()).unwrap();
    }
    let (mut reading, mut writing) = (vec![0; 16_640], vec![0; 1_024]);
    let tunnel = Tunnel::<256>::new();
    let config = TlsConfig::new().with_server_name(name);
    let mut tcp = Tcp(house.program.address("mqtts"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let net = tunnel.dialer(TokioTimer::default());
        tokio::select! {
            never = tunnel.carry(&mut tcp, &config, &mut crypto, &mut reading, &mut writing) => match never {},
            done = tokio::time::timeout(PATIENCE, device(net)) => done.expect("in time"),
        }
    })
}

#[test]
fn a_device_with_a_certificate_is_identified_and_dropped_futures_lose_nothing() {
    let house = House::open(REQUIRED);
    let own = house.authority.client("pump", 1);
    with_tls(&house, house.trust(), "localhost", Some(&own), async |mut net| {
        let mut mq = Client::<4096, 512>::new(Config::new("pump").subscribe("of/pump", QoS::AtLeastOnce));
        let (mut said, mut heard) = (0u32, Vec::new());
        while heard.len() < 300 {
            tokio::select! {
                event = mq.event(&mut net) => {
                    if let Ok(Event::Message(message)) = event {
                        let (number, filling) = message.payload().split_first_chunk().unwrap();
                        assert!(filling.iter().all(|byte| *byte == b'x'));
                        heard.push(u32::from_be_bytes(*number));
                    }
                }
                // Again and again, so that reads and writes are given up in all their states.
                () = tokio::task::yield_now() => {
                    let payload = [&said.to_be_bytes()[..], &vec![b'x'; said as usize]].concat();
                    if said < 300 && mq.publish("of/pump", &payload, QoS::AtLeastOnce).is_ok() {
                        said += 1;
                    }
                }
            }
        }
        assert_eq!(heard, (0..300).collect::<Vec<_>>(), "each once, in order");
        let _ = mq.publish("of/another", b"x", QoS::AtLeastOnce).unwrap();
        loop {
            match mq.event(&mut net).await.unwrap() {
                Event::Refused(_, reason) => break assert_eq!(reason, ReasonCode::NotAuthorized),
                Event::Disconnected(why) => panic!("{why:?}"),
                _ => {}
            }
        }
        mq.close(&mut net, ReasonCode::Success).await;
    });
}

#[test]
fn a_tunnel_takes_one_connection_after_the_other_and_the_outbox_goes_on() {
    let house = House::open(REQUIRED);
    let own = house.authority.client("pump", 1);
    with_tls(&house, house.trust(), "localhost", Some(&own), async |mut net| {
        let config = Config::new("pump").backoff_ms(10, 50).subscribe("of/pump", QoS::AtLeastOnce);
        let mut mq = Client::<1024, 256>::new(config);
        for round in 0..5u8 {
            let _ = mq.publish("of/pump", &[round], QoS::ExactlyOnce).unwrap();
            // The one before may come again: its acknowledgement was cut off.
            while mq.next(&mut net).await.unwrap().payload() != [round] {}
            // The link is cut, not closed: what is published then waits for the next one.
            net.hang_up();
        }
    });
}

#[test]
fn a_server_of_another_authority_or_name_is_refused() {
    let house = House::open("");
    let stranger = Authority::default();
    for (trusts, name, good) in [
        (house.trust(), "localhost", true),
        (&stranger.pem, "localhost", false),
        (house.trust(), "broker.example", false),
    ] {
        let dialed = with_tls(&house, trusts, name, None, async |mut net| net.dial().await);
        assert_eq!(dialed, if good { Ok(()) } else { Err(LinkDown) }, "{name}");
    }
}

#[test]
fn a_server_with_an_expired_certificate_is_refused() {
    let (authority, folder) = (Authority::default(), Folder::new("ended"));
    let keys = authority.serve(&folder, "server");
    let ended = authority.issue(Wanted { server: &["localhost"], expired: true, ..Wanted::default() });
    folder.file("server.pem", &ended.pem);
    lapwing_tests::access::secret_file(&folder, "server.key", &ended.key);
    let toml = format!("[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\n{keys}");
    let house = House { program: Program::start(&toml), authority, _folder: folder };
    let dialed = with_tls(&house, house.trust(), "localhost", None, async |mut net| net.dial().await);
    assert_eq!(dialed, Err(LinkDown));
}

#[test]
fn a_device_without_a_valid_certificate_is_refused_where_one_is_required() {
    let house = House::open(REQUIRED);
    let stranger = Authority::default().client("pump", 1);
    for own in [None, Some(&stranger)] {
        // In TLS 1.3 the client is done before the server has judged it: the link opens, and gives
        // nothing but its end.
        let read = with_tls(&house, house.trust(), "localhost", own, async |mut net| {
            net.dial().await?;
            let link = net.link().ok_or(LinkDown)?;
            let _ = link.write(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").await;
            link.read(&mut [0; 16]).await.map_err(|_| LinkDown)
        });
        assert_eq!(read, Err(LinkDown));
    }
}
