//! A sensor on Ethernet: the button of the board as a retained value, its LED by message.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use embassy_futures::select::{Either3, select3};
use embassy_net::{Runner, StackResources};
use embassy_stm32::eth::{self, Ethernet, GenericPhy, PacketQueue, Sma};
use embassy_stm32::exti::{self, ExtiInput};
use embassy_stm32::gpio::{Level, Output, Pull, Speed};
use embassy_stm32::peripherals::{ETH, ETH_SMA, RNG};
use embassy_stm32::rng::{self, Rng};
use embassy_stm32::time::Hertz;
use embassy_stm32::{Config as Board, bind_interrupts, interrupt, rcc};
use embassy_time::{Duration, Ticker};
use lapwing_client::QoS::AtLeastOnce;
use lapwing_client::dialers::embassy::TcpDialer;
use lapwing_client::{Client, Config, Policy, Publication};
use panic_halt as _;
use static_cell::StaticCell;

/// Set when it is built: BROKER=192.168.1.10 cargo build …
const BROKER: &str = match option_env!("BROKER") {
    Some(broker) => broker,
    None => "broker.local",
};

bind_interrupts!(struct Irqs {
    ETH => eth::InterruptHandler;
    RNG => rng::InterruptHandler<RNG>;
    EXTI15_10 => exti::InterruptHandler<interrupt::typelevel::EXTI15_10>;
});

type Device = Ethernet<'static, ETH, GenericPhy<Sma<'static, ETH_SMA>>>;

#[embassy_executor::task]
async fn network(mut runner: Runner<'static, Device>) -> ! {
    runner.run().await
}

#[embassy_executor::main]
async fn main(spawner: Spawner) {
    let mut board = Board::default();
    // 216 MHz, and 48 MHz for the random numbers, from the 8 MHz of the debugger.
    board.rcc.hse = Some(rcc::Hse { freq: Hertz(8_000_000), mode: rcc::HseMode::Bypass });
    board.rcc.pll_src = rcc::PllSource::HSE;
    board.rcc.pll = Some(rcc::Pll {
        prediv: rcc::PllPreDiv::DIV4,
        mul: rcc::PllMul::MUL216,
        divp: Some(rcc::PllPDiv::DIV2),
        divq: Some(rcc::PllQDiv::DIV9),
        divr: None,
    });
    board.rcc.ahb_pre = rcc::AHBPrescaler::DIV1;
    board.rcc.apb1_pre = rcc::APBPrescaler::DIV4;
    board.rcc.apb2_pre = rcc::APBPrescaler::DIV2;
    board.rcc.sys = rcc::Sysclk::PLL1_P;
    let p = embassy_stm32::init(board);
    let mut led = Output::new(p.PB0, Level::Low, Speed::Low);
    let mut button = ExtiInput::new(p.PC13, p.EXTI13, Pull::Down, Irqs);
    let seed = Rng::new(p.RNG, Irqs).next_u64();

    static PACKETS: StaticCell<PacketQueue<4, 4>> = StaticCell::new();
    let device = Ethernet::new(
        PACKETS.init(PacketQueue::new()),
        p.ETH,
        Irqs,
        p.PA1,
        p.PA7,
        p.PC4,
        p.PC5,
        p.PG13,
        p.PB13,
        p.PG11,
        [0x02, 0x00, 0x00, 0x00, 0x00, 0x17],
        p.ETH_SMA,
        p.PA2,
        p.PC1,
    );
    static RESOURCES: StaticCell<StackResources<4>> = StaticCell::new();
    let config = embassy_net::Config::dhcpv4(Default::default());
    let (stack, runner) = embassy_net::new(device, config, RESOURCES.init(StackResources::new()), seed);
    spawner.spawn(network(runner).unwrap());

    let (mut rx, mut tx) = ([0; 512], [0; 512]);
    let mut net = TcpDialer::new(stack, &mut rx, &mut tx, BROKER, 1883);
    // While there is no network, the last state of the button is what matters.
    let config = Config::new("stm32")
        .keep_alive(30)
        .policy(Policy::LatestPerTopic)
        .will("s/stm32/up", b"0")
        .subscribe("s/stm32/led", AtLeastOnce);
    let mut mq = Client::<1024, 256>::new(config);
    let mut tick = Ticker::every(Duration::from_secs(60));
    loop {
        match select3(mq.next(&mut net), button.wait_for_any_edge(), tick.next()).await {
            Either3::First(Ok(m)) => led.set_level(if m.payload() == b"on" { Level::High } else { Level::Low }),
            Either3::First(Err(_)) => {}
            Either3::Second(()) => {
                let state: &[u8] = if button.is_high() { b"pressed" } else { b"released" };
                let message = Publication::new("s/stm32/button", state).qos(AtLeastOnce).retain();
                let _ = mq.publish_with(&message);
            }
            Either3::Third(()) => {
                let _ = mq.publish_with(&Publication::new("s/stm32/up", b"1").qos(AtLeastOnce).retain());
            }
        }
    }
}
