//! A sensor whose broker is at the other end of a UART: a modem, another board, or `socat` on a
//! computer.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use embassy_futures::select::{Either, select};
use embassy_nrf::buffered_uarte::{self, BufferedUarte};
use embassy_nrf::gpio::{Level, Output, OutputDrive};
use embassy_nrf::temp::{self, Temp};
use embassy_nrf::{bind_interrupts, peripherals, uarte};
use embassy_time::{Duration, Ticker};
use lapwing_client::QoS::AtLeastOnce;
use lapwing_client::dialers::embassy::EmbassyTimer;
use lapwing_client::dialers::uart::UartDialer;
use lapwing_client::{Client, Config};
use panic_halt as _;

bind_interrupts!(struct Irqs {
    UARTE0 => buffered_uarte::InterruptHandler<peripherals::UARTE0>;
    TEMP => temp::InterruptHandler;
});

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let p = embassy_nrf::init(Default::default());
    // On, when 0: LED 1 of the development kit.
    let mut led = Output::new(p.P0_13, Level::High, OutputDrive::Standard);
    let mut thermometer = Temp::new(p.TEMP, Irqs);
    let mut config = uarte::Config::default();
    config.baudrate = uarte::Baudrate::Baud115200;
    let (mut rx, mut tx) = ([0; 256], [0; 256]);
    let uart = BufferedUarte::new(
        p.UARTE0, p.TIMER1, p.PPI_CH0, p.PPI_CH1, p.PPI_GROUP0, p.P0_08, p.P0_06, Irqs, config, &mut rx, &mut tx,
    );

    let config = Config::new("nrf52").keep_alive(10).will("s/nrf52/up", b"0").subscribe("s/nrf52/led", AtLeastOnce);
    let mut mq = Client::<1024, 256>::new(config);
    let mut net = UartDialer::new(uart, EmbassyTimer);
    let mut tick = Ticker::every(Duration::from_secs(10));
    loop {
        match select(mq.next(&mut net), tick.next()).await {
            Either::First(Ok(m)) => led.set_level(if m.payload() == b"on" { Level::Low } else { Level::High }),
            Either::First(Err(_)) => {}
            Either::Second(()) => {
                let degrees: i16 = thermometer.read().await.to_num();
                let digits = [b'0' + (degrees / 10 % 10) as u8, b'0' + (degrees % 10) as u8];
                let _ = mq.publish("s/nrf52/temp", &digits, AtLeastOnce);
            }
        }
    }
}
