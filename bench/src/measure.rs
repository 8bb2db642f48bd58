//! One scenario against one broker.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::broker::Started;
use crate::load::{Load, Security, Socket, Spec};
use crate::scenario::{Kind, WARM};
use crate::wire::{self, Version};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Longest time for a connect or a packet.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Number of packets that are written before their acknowledgements are read.
const BATCH: usize = 500;

/// Figures by name, in the order of their names.
pub type Figures = BTreeMap<&'static str, f64>;

/// Name of the figure that is compared, in each kind of scenario.
pub const MAIN: &str = "cpu_us";

/// Measures a scenario.
///
/// # Errors
/// The broker fails.
pub fn measure(kind: Kind, started: &Started, security: &Security, time: Duration) -> Result<Figures, Error> {
    match kind {
        Kind::Flow(spec) => flow(spec, started, security, time),
        Kind::Connects { tls, count } => connects(tls, count, started, security),
        Kind::Idle { count } => idle(count, started),
        Kind::Subscriptions { count, messages } => subscriptions(count, messages, started),
        Kind::Retained { count } => retained(count, started),
        Kind::Queue { count } => queue(count, started),
    }
}

fn us_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn flow(spec: Spec, started: &Started, security: &Security, time: Duration) -> Result<Figures, Error> {
    let address = match spec.version {
        _ if spec.tls => started.tls,
        Version::V311 => started.plain,
        Version::V5 => started.v5,
    };
    let mut load = Load::connect(spec, address, started.stay(true), Some(security))?;
    let (outcome, before, after) = load.run(WARM, time, || started.running.cpu())?;
    let us = |quantile: f64| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
    if let Some(stall) = outcome.stall {
        // CPU time for each message of a broker that delivers none is no figure.
        return Err(stall.into());
    }
    Ok(Figures::from([
        (MAIN, us_each(after - before, outcome.delivered)),
        ("per_s", outcome.delivered as f64 / outcome.time.as_secs_f64()),
        ("lost", outcome.lost as f64),
        ("p50_us", us(0.5)),
        ("p99_us", us(0.99)),
        ("p999_us", us(0.999)),
        ("resident_mib", started.running.resident_mib()?.0),
    ]))
}

fn connects(tls: bool, count: usize, started: &Started, security: &Security) -> Result<Figures, Error> {
    let address = if tls { started.tls } else { started.plain };
    let one = |n: usize| -> Result<(), Error> {
        let mut socket = Socket::connect(address, Some(security).filter(|_| tls), TIMEOUT)?;
        wire::connect(&mut socket.out, Version::V311, &format!("c{n}"), started.stay(true));
        socket.ask(0x20).map(drop)
    };
    for n in 0..count / 10 {
        one(n)?;
    }
    let (before, began) = (started.running.cpu()?, Instant::now());
    for n in 0..count {
        one(n)?;
    }
    // The last connections are still being closed.
    std::thread::sleep(Duration::from_millis(100));
    let cpu = started.running.cpu()? - before;
    Ok(Figures::from([
        (MAIN, us_each(cpu, count as u64)),
        ("per_s", count as f64 / began.elapsed().as_secs_f64()),
        ("resident_mib", started.running.resident_mib()?.0),
    ]))
}

/// Waits until the resident memory has not changed for a while, and returns it in KiB.
///
/// # Errors
/// The broker has ended.
pub fn settled_kib(started: &Started) -> Result<f64, Error> {
    let until = Instant::now() + Duration::from_secs(10);
    let mut last = started.running.resident_mib()?.0;
    loop {
        std::thread::sleep(Duration::from_millis(400));
        let now = started.running.resident_mib()?.0;
        if (now - last).abs() < 0.05 || Instant::now() > until {
            return Ok(now * 1024.0);
        }
        last = now;
    }
}

fn client(started: &Started, id: &str, clean: bool) -> Result<Socket, Error> {
    let mut socket = Socket::connect(started.plain, None, TIMEOUT)?;
    wire::connect(&mut socket.out, Version::V311, id, started.stay(clean));
    socket.ask(0x20)?;
    Ok(socket)
}

/// Connects numbered clients that do nothing.
///
/// # Errors
/// The broker refuses them.
pub fn idlers(numbers: Range<usize>, started: &Started) -> Result<Vec<Socket>, Error> {
    numbers.map(|n| client(started, &format!("i{n}"), true)).collect()
}

fn idle(count: usize, started: &Started) -> Result<Figures, Error> {
    let before = settled_kib(started)?;
    let cpu = started.running.cpu()?;
    let _sockets = idlers(0..count, started)?;
    let connected = started.running.cpu()? - cpu;
    let each = (settled_kib(started)? - before) / count as f64;
    let cpu = started.running.cpu()?;
    std::thread::sleep(Duration::from_secs(1));
    let rest = started.running.cpu()? - cpu;
    Ok(Figures::from([
        (MAIN, us_each(connected, count as u64)),
        ("kib_each", each),
        ("idle_cpu_ms_per_s", rest.as_secs_f64() * 1e3),
    ]))
}

/// Returns filter `n` of a client: a third each with `+` in the middle, `+` at the front, and `#`
/// at the end.
fn wildcard(client: usize, n: usize) -> String {
    match n % 3 {
        0 => format!("s/{client}/+/v{n}"),
        1 => format!("+/{client}/d{n}/state"),
        _ => format!("s/{client}/d{n}/#"),
    }
}

fn subscriptions(count: usize, messages: usize, started: &Started) -> Result<Figures, Error> {
    const CLIENTS: usize = 100;
    let before = settled_kib(started)?;
    let mut sockets =
        (0..CLIENTS).map(|n| client(started, &format!("s{n}"), true)).collect::<Result<Vec<_>, _>>()?;
    let each = count / CLIENTS;
    let cpu = started.running.cpu()?;
    for (n, socket) in sockets.iter_mut().enumerate() {
        let filters: Vec<String> = (0..each).map(|k| wildcard(n, k)).collect();
        for some in filters.chunks(50) {
            wire::subscribe(&mut socket.out, Version::V311, some.iter().map(String::as_str), 0);
            socket.ask(0x90)?;
        }
    }
    let subscribed = started.running.cpu()? - cpu;
    let memory = settled_kib(started)? - before;
    // Each topic matches at least one filter: s/C/dN/vN matches `s/C/+/vN` or `s/C/dN/#`, or both.
    let mut publisher = client(started, "p", true)?;
    let cpu = started.running.cpu()?;
    let began = Instant::now();
    let mut expected: Vec<u64> = vec![0; CLIENTS];
    for n in 0..messages {
        let (of, k) = (n % CLIENTS, n / CLIENTS % each);
        let topic = format!("s/{of}/d{k}/v{k}");
        let (packet, _, _) = wire::publish(Version::V311, &topic, 0, false, &[b'x'; 64]);
        publisher.out.extend(packet);
        // One copy for each client, or one for each matching subscription: here at most one
        // matches.
        expected[of] += u64::from(k % 3 != 1);
        if n % 100 == 99 {
            publisher.flush()?;
        }
    }
    publisher.flush()?;
    let mut delivered = 0;
    for (socket, expected) in sockets.iter_mut().zip(expected) {
        for _ in 0..expected {
            socket.await_packet(0x30)?;
            delivered += 1;
        }
    }
    let matched = started.running.cpu()? - cpu;
    Ok(Figures::from([
        (MAIN, us_each(matched, messages as u64)),
        ("subscribe_cpu_us", us_each(subscribed, count as u64)),
        ("bytes_each", memory * 1024.0 / count as f64),
        ("delivered", delivered as f64),
        ("per_s", messages as f64 / began.elapsed().as_secs_f64()),
    ]))
}

/// Publishes QoS 1 messages of 64 B, and waits for all acknowledgements.
fn publish_all(
    publisher: &mut Socket,
    count: usize,
    topic: impl Fn(usize) -> String,
    retain: bool,
) -> Result<(), Error> {
    for first in (0..count).step_by(BATCH) {
        let some = BATCH.min(count - first);
        for n in first..first + some {
            let (mut packet, id, _) = wire::publish(Version::V311, &topic(n), 1, retain, &[b'x'; 64]);
            packet[id..id + 2].copy_from_slice(&((n % 60_000 + 1) as u16).to_be_bytes());
            publisher.out.extend(packet);
        }
        publisher.flush()?;
        for _ in 0..some {
            publisher.await_packet(0x40)?;
        }
    }
    Ok(())
}

/// Receives `count` messages, and acknowledges those of QoS 1 in batches.
fn take(socket: &mut Socket, count: usize) -> Result<(), Error> {
    let mut taken = 0;
    let until = Instant::now() + TIMEOUT;
    while taken < count {
        let input = std::mem::take(&mut socket.input);
        let mut at = 0;
        while let Some((first, start, end)) = wire::frame(&input[at..]) {
            if first >> 4 == 3 {
                let (id, _) = wire::published(first, &input[at + start..at + end], Version::V311)
                    .ok_or("a broken PUBLISH")?;
                if id > 0 {
                    let id = id.to_be_bytes();
                    socket.out.extend([0x40, 2, id[0], id[1]]);
                }
                taken += 1;
            }
            at += end;
        }
        socket.keep(input, at);
        socket.flush()?;
        if taken < count {
            if Instant::now() > until {
                return Err(format!("{taken} of {count} received").into());
            }
            socket.fill_once()?;
        }
    }
    Ok(())
}

fn retained(count: usize, started: &Started) -> Result<Figures, Error> {
    let before = settled_kib(started)?;
    let mut publisher = client(started, "p", true)?;
    let cpu = started.running.cpu()?;
    publish_all(&mut publisher, count, |n| format!("r/{}/x/{n}", n % 1000), true)?;
    let stored = started.running.cpu()? - cpu;
    let memory = settled_kib(started)? - before;
    let mut all = client(started, "all", true)?;
    let cpu = started.running.cpu()?;
    let began = Instant::now();
    wire::subscribe(&mut all.out, Version::V311, ["#"].into_iter(), 0);
    all.flush()?;
    take(&mut all, count)?;
    let (delivered, took) = (started.running.cpu()? - cpu, began.elapsed());
    let mut some = client(started, "some", true)?;
    let cpu = started.running.cpu()?;
    wire::subscribe(&mut some.out, Version::V311, ["r/+/x/#"].into_iter(), 0);
    some.flush()?;
    take(&mut some, count)?;
    let narrowed = started.running.cpu()? - cpu;
    Ok(Figures::from([
        (MAIN, us_each(delivered, count as u64)),
        ("wildcard_cpu_us", us_each(narrowed, count as u64)),
        ("store_cpu_us", us_each(stored, count as u64)),
        ("bytes_each", memory * 1024.0 / count as f64),
        ("per_s", count as f64 / took.as_secs_f64()),
    ]))
}

fn queue(count: usize, started: &Started) -> Result<Figures, Error> {
    let mut away = client(started, "away", false)?;
    wire::subscribe(&mut away.out, Version::V311, ["q/#"].into_iter(), 1);
    away.ask(0x90)?;
    away.out.extend([0xe0, 0]);
    away.flush()?;
    drop(away);
    let before = settled_kib(started)?;
    let mut publisher = client(started, "p", true)?;
    let cpu = started.running.cpu()?;
    publish_all(&mut publisher, count, |n| format!("q/{}", n % 10), false)?;
    let queued = started.running.cpu()? - cpu;
    let memory = settled_kib(started)? - before;
    let cpu = started.running.cpu()?;
    let began = Instant::now();
    let mut back = client(started, "away", false)?;
    take(&mut back, count)?;
    let drained = started.running.cpu()? - cpu;
    Ok(Figures::from([
        (MAIN, us_each(queued, count as u64)),
        ("drain_cpu_us", us_each(drained, count as u64)),
        ("bytes_each", memory * 1024.0 / count as f64),
        ("per_s", count as f64 / began.elapsed().as_secs_f64()),
    ]))
}
