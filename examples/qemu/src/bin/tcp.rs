//! A sensor on Ethernet. Arguments: `VERSION PORT COUNT`, such as `5 1883 500`; the server is the
//! host of the emulator.
//!
//! It publishes COUNT numbers with QoS 1 to `qemu/one` and as many with QoS 2 to `qemu/two`,
//! connection or not, and ends when all are delivered.
#![no_std]
#![no_main]

use lapwing_client::dialers::smoltcp::{SmoltcpDialer, SmoltcpLink};
use lapwing_client::{Client, Config, Event, QoS, Version};
use lapwing_qemu::ethernet::Ethernet;
use lapwing_qemu::{arguments, end, now_ms, say, start};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { end(false) };
    start(peripherals.SYST);
    let mut place = [0; 64];
    let mut words = arguments(&mut place).split(' ').skip(1);
    let version = if words.next() == Some("5") { Version::V5 } else { Version::V311 };
    let port: u16 = words.next().and_then(|word| word.parse().ok()).unwrap_or(1883);
    let count: u32 = words.next().and_then(|word| word.parse().ok()).unwrap_or(10);

    let mut device = Ethernet::start();
    let address = EthernetAddress([0x02, 0, 0, 0, 0, 0x17]);
    let mut interface = Interface::new(InterfaceConfig::new(address.into()), &mut device, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        let _ = addresses.push(IpCidr::new(IpAddress::v4(10, 0, 2, 15), 24));
    });
    let host = Ipv4Address::new(10, 0, 2, 2);
    let _ = interface.routes_mut().add_default_ipv4_route(host);
    let (mut receive, mut transmit) = ([0; 1024], [0; 1024]);
    let mut storage: [SocketStorage; 1] = Default::default();
    let mut sockets = SocketSet::new(&mut storage[..]);
    let socket = Socket::new(SocketBuffer::new(&mut receive[..]), SocketBuffer::new(&mut transmit[..]));
    let handle = sockets.add(socket);
    let server = (host, port).into();
    let link = SmoltcpLink::new(interface, device, sockets, handle, now_ms);
    let mut net = SmoltcpDialer::new(link, server, 49_152);

    let config = Config::new("qemu").version(version).keep_alive(2).backoff_ms(100, 1_000);
    let mut client = Client::<1024, 256>::new(config);
    let (mut published, mut delivered) = (0, 0);
    while delivered < 2 * count {
        match client.poll(&mut net) {
            Some(Ok(Event::Delivered(_))) => delivered += 1,
            Some(Ok(Event::Connected { .. })) => say("connected"),
            Some(Ok(Event::Disconnected(_))) => say("disconnected"),
            Some(Ok(_)) | None => {}
            Some(Err(_)) => end(false),
        }
        // Twice each number: connection or not, as long as the outbox has room.
        if published < 2 * count {
            let digits = decimal(published / 2);
            let sent = if published % 2 == 0 {
                client.publish("qemu/one", &digits, QoS::AtLeastOnce)
            } else {
                client.publish("qemu/two", &digits, QoS::ExactlyOnce)
            };
            published += u32::from(sent.is_ok());
        }
    }
    client.hang_up(&mut net, lapwing_client::ReasonCode::Success);
    say("done");
    end(true);
}

fn decimal(number: u32) -> [u8; 4] {
    [1_000, 100, 10, 1].map(|place| b'0' + (number / place % 10) as u8)
}
