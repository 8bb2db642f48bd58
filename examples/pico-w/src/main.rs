//! A sensor on Wi-Fi: the temperature of the chip every ten seconds, the LED of the board by
//! message.
#![no_std]
#![no_main]

use cyw43::{JoinOptions, NetDriver, SpiBus, aligned_bytes};
use cyw43_pio::{DEFAULT_CLOCK_DIVIDER, PioSpi};
use embassy_executor::Spawner;
use embassy_futures::select::{Either, select};
use embassy_net::{Runner, StackResources};
use embassy_rp::adc::{Adc, Channel};
use embassy_rp::clocks::RoscRng;
use embassy_rp::gpio::{Level, Output};
use embassy_rp::peripherals::{DMA_CH0, PIO0};
use embassy_rp::{adc, bind_interrupts, dma, pio};
use embassy_time::{Duration, Ticker, Timer};
use lapwing_client::QoS::AtLeastOnce;
use lapwing_client::dialers::embassy::TcpDialer;
use lapwing_client::{Client, Config};
use panic_halt as _;
use static_cell::StaticCell;

// Set when it is built: WIFI_SSID=… WIFI_PASSWORD=… BROKER=192.168.1.10 cargo build …
const SSID: &str = match option_env!("WIFI_SSID") {
    Some(ssid) => ssid,
    None => "my-network",
};
const PASSWORD: &str = match option_env!("WIFI_PASSWORD") {
    Some(password) => password,
    None => "my-password",
};
const BROKER: &str = match option_env!("BROKER") {
    Some(broker) => broker,
    None => "broker.local",
};

bind_interrupts!(struct Irqs {
    PIO0_IRQ_0 => pio::InterruptHandler<PIO0>;
    ADC_IRQ_FIFO => adc::InterruptHandler;
    DMA_IRQ_0 => dma::InterruptHandler<DMA_CH0>;
});

#[embassy_executor::task]
async fn radio(runner: cyw43::Runner<'static, SpiBus<Output<'static>, PioSpi<'static, PIO0, 0>>>) -> ! {
    runner.run().await
}

#[embassy_executor::task]
async fn network(mut runner: Runner<'static, NetDriver<'static>>) -> ! {
    runner.run().await
}

#[embassy_executor::main]
async fn main(spawner: Spawner) {
    let p = embassy_rp::init(Default::default());
    let mut adc = Adc::new(p.ADC, Irqs, adc::Config::default());
    let mut thermometer = Channel::new_temp_sensor(p.ADC_TEMP_SENSOR);

    // The radio: three files of its maker, see README.md.
    let firmware = aligned_bytes!("../firmware/43439A0.bin");
    let country = include_bytes!("../firmware/43439A0_clm.bin");
    let nvram = aligned_bytes!("../firmware/nvram_rp2040.bin");
    let power = Output::new(p.PIN_23, Level::Low);
    let select_chip = Output::new(p.PIN_25, Level::High);
    let mut pio = pio::Pio::new(p.PIO0, Irqs);
    let spi = PioSpi::new(
        &mut pio.common,
        pio.sm0,
        DEFAULT_CLOCK_DIVIDER,
        pio.irq0,
        select_chip,
        p.PIN_24,
        p.PIN_29,
        dma::Channel::new(p.DMA_CH0, Irqs),
    );
    static STATE: StaticCell<cyw43::State> = StaticCell::new();
    let (device, mut control, runner) =
        cyw43::new(STATE.init(cyw43::State::new()), power, spi, firmware, nvram).await;
    spawner.spawn(radio(runner).unwrap());
    control.init(country).await;

    static RESOURCES: StaticCell<StackResources<4>> = StaticCell::new();
    let config = embassy_net::Config::dhcpv4(Default::default());
    let seed = RoscRng.next_u64();
    let (stack, runner) = embassy_net::new(device, config, RESOURCES.init(StackResources::new()), seed);
    spawner.spawn(network(runner).unwrap());
    while control.join(SSID, JoinOptions::new(PASSWORD.as_bytes())).await.is_err() {
        Timer::after(Duration::from_secs(1)).await;
    }

    let (mut rx, mut tx) = ([0; 512], [0; 512]);
    let mut net = TcpDialer::new(stack, &mut rx, &mut tx, BROKER, 1883);
    let mut mq = Client::<1024, 256>::new(
        Config::new("pico-w").keep_alive(30).will("s/pico/up", b"0").subscribe("s/pico/led", AtLeastOnce),
    );
    let mut tick = Ticker::every(Duration::from_secs(10));
    loop {
        match select(mq.next(&mut net), tick.next()).await {
            Either::First(Ok(m)) => {
                let on = m.payload() == b"on";
                control.gpio_set(0, on).await;
            }
            Either::First(Err(_)) => {}
            Either::Second(()) => {
                // RP2040 datasheet, 4.9.5: 27 °C at 0.706 V, less 1.721 mV for each degree.
                let raw = adc.read(&mut thermometer).await.unwrap_or(0);
                let tenths = 270 - ((i32::from(raw) * 33_000 / 4_096) - 7_060) * 100 / 172;
                let digits = [
                    b'0' + (tenths / 100 % 10) as u8,
                    b'0' + (tenths / 10 % 10) as u8,
                    b'.',
                    b'0' + (tenths % 10) as u8,
                ];
                let _ = mq.publish("s/pico/temp", &digits, AtLeastOnce);
            }
        }
    }
}
