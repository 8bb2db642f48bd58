//! A sensor on Wi-Fi: the time since the start every ten seconds, the LED by message.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use embassy_futures::select::{Either, select};
use embassy_net::{Runner, StackResources};
use embassy_time::{Duration, Instant, Ticker, Timer};
use esp_hal::gpio::{Level, Output, OutputConfig};
use esp_hal::interrupt::software::SoftwareInterruptControl;
use esp_hal::rng::Rng;
use esp_hal::timer::timg::TimerGroup;
use esp_radio::wifi::sta::StationConfig;
use esp_radio::wifi::{Config as Radio, Interface, WifiController};
use lapwing_client::QoS::AtLeastOnce;
use lapwing_client::dialers::embassy::TcpDialer;
use lapwing_client::{Client, Config};
use panic_halt as _;
use static_cell::StaticCell;

esp_bootloader_esp_idf::esp_app_desc!();

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

#[embassy_executor::task]
async fn network(mut runner: Runner<'static, Interface<'static>>) -> ! {
    runner.run().await
}

/// Joins the network, and joins it again when it is lost.
#[embassy_executor::task]
async fn join(mut controller: WifiController<'static>) -> ! {
    let station = StationConfig::default().with_ssid(SSID).with_password(PASSWORD.into());
    let _ = controller.set_config(&Radio::Station(station));
    loop {
        if controller.connect_async().await.is_ok() {
            let _ = controller.wait_for_disconnect_async().await;
        }
        Timer::after(Duration::from_secs(1)).await;
    }
}

#[esp_rtos::main]
async fn main(spawner: Spawner) {
    let p = esp_hal::init(esp_hal::Config::default());
    // For the radio alone; the client has no allocator.
    esp_alloc::heap_allocator!(size: 72 * 1024);
    let timers = TimerGroup::new(p.TIMG0);
    let interrupts = SoftwareInterruptControl::new(p.SW_INTERRUPT);
    esp_rtos::start(timers.timer0, interrupts.software_interrupt0);
    let mut led = Output::new(p.GPIO8, Level::High, OutputConfig::default());

    let Ok((controller, interfaces)) = esp_radio::wifi::new(p.WIFI, Default::default()) else {
        panic!("no radio");
    };
    let random = Rng::new();
    let seed = u64::from(random.random()) << 32 | u64::from(random.random());
    static RESOURCES: StaticCell<StackResources<4>> = StaticCell::new();
    let config = embassy_net::Config::dhcpv4(Default::default());
    let (stack, runner) =
        embassy_net::new(interfaces.station, config, RESOURCES.init(StackResources::new()), seed);
    spawner.spawn(network(runner).unwrap());
    spawner.spawn(join(controller).unwrap());

    let (mut rx, mut tx) = ([0; 512], [0; 512]);
    let mut net = TcpDialer::new(stack, &mut rx, &mut tx, BROKER, 1883);
    let config = Config::new("esp32-c3").keep_alive(30).will("s/esp/up", b"0").subscribe("s/esp/led", AtLeastOnce);
    let mut mq = Client::<1024, 256>::new(config);
    let mut tick = Ticker::every(Duration::from_secs(10));
    loop {
        match select(mq.next(&mut net), tick.next()).await {
            // The LED of most boards shines at low level.
            Either::First(Ok(m)) => led.set_level(if m.payload() == b"on" { Level::Low } else { Level::High }),
            Either::First(Err(_)) => {}
            Either::Second(()) => {
                let seconds = Instant::now().as_secs() as u32;
                let _ = mq.publish("s/esp/uptime", &decimal(seconds), AtLeastOnce);
            }
        }
    }
}

fn decimal(number: u32) -> [u8; 6] {
    [100_000, 10_000, 1_000, 100, 10, 1].map(|place| b'0' + (number / place % 10) as u8)
}
