//! The dialer of embassy-net on a real stack, whose name server answers after a while.

use core::future::Future;
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::task::{Context, Poll, Waker};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use embassy_net::{Config as NetConfig, Ipv4Address, Ipv4Cidr, Stack, StackResources, StaticConfigV4};
use embassy_net_driver::{Capabilities, Checksum, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use lapwing_client::dialers::embassy::TcpDialer;
use lapwing_client::{Client, Config, Dialer};

static NOW_MS: AtomicU64 = AtomicU64::new(0);

struct Time;

impl embassy_time_driver::Driver for Time {
    fn now(&self) -> u64 {
        NOW_MS.load(Relaxed)
    }

    // Everything is polled in each millisecond.
    fn schedule_wake(&self, _: u64, _: &Waker) {}
}

embassy_time_driver::time_driver_impl!(static TIME: Time = Time);

const BOARD: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
const NAME_SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const BROKER: [u8; 4] = [10, 0, 0, 3];

/// The network: packets of the board, and those for it.
#[derive(Default)]
struct Network {
    from_board: Vec<Vec<u8>>,
    to_board: VecDeque<Vec<u8>>,
    /// Answers that are due at a time.
    answers: Vec<(u64, Vec<u8>)>,
    questions: usize,
    syns: Vec<(u64, [u8; 4])>,
    dns_ms: u64,
    /// Answers the first question only.
    answers_once: bool,
    /// The broker answers SYN: with SYN-ACK (true) or RST (false).
    accepts: Option<bool>,
}

#[derive(Clone)]
struct Cable(Rc<RefCell<Network>>);

struct Packet(Vec<u8>);
struct Slot(Rc<RefCell<Network>>);

impl RxToken for Packet {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, take: F) -> R {
        take(&mut self.0)
    }
}

impl TxToken for Slot {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let done = fill(&mut packet);
        self.0.borrow_mut().from_board.push(packet);
        done
    }
}

impl Driver for Cable {
    type RxToken<'a> = Packet;
    type TxToken<'a> = Slot;

    fn receive(&mut self, _: &mut Context<'_>) -> Option<(Packet, Slot)> {
        let packet = self.0.borrow_mut().to_board.pop_front()?;
        Some((Packet(packet), Slot(self.0.clone())))
    }

    fn transmit(&mut self, _: &mut Context<'_>) -> Option<Slot> {
        Some(Slot(self.0.clone()))
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = 1_500;
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ip
    }
}

/// Builds a packet to the board from the addresses and ports of one from it.
fn reply(packet: &[u8], transport: &[u8]) -> Vec<u8> {
    let mut out = packet[..20].to_vec();
    out[2..4].copy_from_slice(&(20 + transport.len() as u16).to_be_bytes());
    out[12..16].copy_from_slice(&packet[16..20]);
    out[16..20].copy_from_slice(&packet[12..16]);
    out.extend(transport);
    out
}

fn dns_answer(packet: &[u8]) -> Vec<u8> {
    let mut dns = packet[28..].to_vec();
    dns[2..4].copy_from_slice(&[0x81, 0x80]);
    dns[6..8].copy_from_slice(&[0, 1]);
    dns.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    dns.extend(BROKER);
    let mut udp = vec![packet[22], packet[23], packet[20], packet[21]];
    udp.extend((8 + dns.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(dns);
    reply(packet, &udp)
}

fn syn_answer(packet: &[u8], accepted: bool) -> Vec<u8> {
    let sequence = u32::from_be_bytes(packet[24..28].try_into().unwrap());
    let mut tcp = vec![packet[22], packet[23], packet[20], packet[21]];
    tcp.extend(7_000u32.to_be_bytes());
    tcp.extend(sequence.wrapping_add(1).to_be_bytes());
    tcp.extend([0x50, if accepted { 0x12 } else { 0x14 }, 0x20, 0, 0, 0, 0, 0]);
    reply(packet, &tcp)
}

impl Network {
    /// Handles the packets of the board, and delivers what is due.
    fn turn(&mut self, now_ms: u64) {
        for packet in core::mem::take(&mut self.from_board) {
            match packet[9] {
                17 if packet[22..24] == [0, 53] => {
                    self.questions += 1;
                    if !self.answers_once || self.questions == 1 {
                        self.answers.push((now_ms + self.dns_ms, dns_answer(&packet)));
                    }
                }
                6 if packet[33] & 0x12 == 2 => {
                    self.syns.push((now_ms, packet[16..20].try_into().unwrap()));
                    if let Some(accepts) = self.accepts {
                        self.answers.push((now_ms + 30, syn_answer(&packet, accepts)));
                    }
                }
                _ => {}
            }
        }
        let (due, later) = self.answers.drain(..).partition(|(due_ms, _)| *due_ms <= now_ms);
        self.answers = later;
        self.to_board.extend(due.into_iter().map(|(_, packet): (u64, Vec<u8>)| packet));
    }
}

fn poll<T>(future: core::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Runs a program on a board for `ms` milliseconds: it gets the stack, and is called in each
/// millisecond. Returns the network.
fn run(network: Network, ms: u64, program: impl FnOnce(Stack<'_>, &mut dyn FnMut() -> bool)) -> Network {
    let network = Rc::new(RefCell::new(network));
    let mut config =
        StaticConfigV4 { address: Ipv4Cidr::new(BOARD, 24), gateway: None, dns_servers: Default::default() };
    config.dns_servers.push(NAME_SERVER).unwrap();
    // Two sockets: one of the stack for DNS, and one of the dialer.
    let mut resources = StackResources::<2>::new();
    let (stack, mut runner) =
        embassy_net::new(Cable(network.clone()), NetConfig::ipv4_static(config), &mut resources, 17);
    let end_ms = NOW_MS.load(Relaxed) + ms;
    {
        let mut running = pin!(runner.run());
        program(stack, &mut || {
            let now_ms = NOW_MS.fetch_add(1, Relaxed) + 1;
            let _ = poll(running.as_mut());
            network.borrow_mut().turn(now_ms);
            let _ = poll(running.as_mut());
            now_ms < end_ms
        });
    }
    network.take()
}

/// Runs a client whose future is dropped every `look_ms` milliseconds.
fn look_every(look_ms: u64, network: Network, ms: u64) -> (Network, u64) {
    let start_ms = NOW_MS.load(Relaxed);
    let network = run(network, ms, |stack, turn| {
        let (mut receive, mut transmit) = ([0; 512], [0; 512]);
        let mut net = TcpDialer::new(stack, &mut receive, &mut transmit, "broker.example", 1883);
        let mut client = Client::<256, 128>::new(Config::new("s17"));
        let mut goes_on = true;
        while goes_on {
            let mut next = pin!(client.next(&mut net));
            let _ = poll(next.as_mut());
            for _ in 0..look_ms {
                goes_on = turn();
                let _ = poll(next.as_mut());
            }
        }
    });
    (network, start_ms)
}

// One test, as there is one clock.
#[test]
fn a_client_connects_although_its_future_is_dropped_while_the_name_or_the_broker_is_awaited() {
    // A look at other things every so many milliseconds, while DNS takes so long.
    for (look_ms, dns_ms) in [(1_000, 50), (100, 50), (200, 150), (100, 150), (20, 50), (5, 400), (20, 900)] {
        let network = Network { dns_ms, ..Network::default() };
        let (network, start_ms) = look_every(look_ms, network, 3_000);
        let (syn_ms, host) = *network.syns.first().unwrap_or_else(|| panic!("no SYN: {look_ms} {dns_ms}"));
        assert_eq!(host, BROKER);
        let (after_ms, questions) = (syn_ms - start_ms, network.questions);
        assert!(after_ms <= dns_ms + look_ms + 20, "{look_ms} {dns_ms}: after {after_ms} ms");
        assert!(questions <= if dns_ms < look_ms { 1 } else { 2 }, "{look_ms} {dns_ms}: {questions}");
    }
    // A lost answer is asked for again.
    let network = Network { dns_ms: 50, answers_once: true, ..Network::default() };
    let (network, _) = look_every(20, network, 2_500);
    assert!(network.syns.is_empty() && (3..=4).contains(&network.questions), "{}", network.questions);
    // The connection that comes between two looks is taken, and not begun anew.
    for look_ms in [1, 2, 7, 20, 29, 30, 31, 1_000] {
        let network = Network { dns_ms: 0, accepts: Some(true), ..Network::default() };
        let (network, _) = look_every(look_ms, network, 1_500);
        assert_eq!(network.syns.len(), 1, "{look_ms}");
    }
    // A broker that refuses is called again after a pause, not after the response timeout.
    for look_ms in [7, 20, 3_000] {
        let network = Network { dns_ms: 0, accepts: Some(false), ..Network::default() };
        let (network, _) = look_every(look_ms, network, 3_000);
        assert!(network.syns.len() >= 2, "{look_ms}: {}", network.syns.len());
    }
    // An address needs no name server, and a goodbye no network.
    run(Network::default(), 100, |stack, turn| {
        let (mut receive, mut transmit) = ([0; 512], [0; 512]);
        let mut net = TcpDialer::new(stack, &mut receive, &mut transmit, "10.0.0.3", 1883);
        {
            let mut dial = pin!(net.dial());
            for _ in 0..5 {
                let _ = poll(dial.as_mut());
                turn();
            }
        }
        let mut client = Client::<256, 128>::new(Config::new("s17"));
        assert!(poll(pin!(client.close(&mut net, lapwing_client::ReasonCode::Success))).is_some());
    });
}
