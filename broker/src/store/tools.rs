//! Operations on the state on disk: `lapwing store check|export|import|backup`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use lapwing_protocol::QoS;
use lapwing_protocol::flight::OutboundState;

use super::checkpoint::{self, Checkpoint};
use super::durable::DurableStore;
use super::error::OpenError;
use super::record::{FlightStep, KeptSession, PreviousSlot, QueueSlot, QueueSlots, Record};
use crate::message::{Durability, REPLAYED};
use crate::store::checkpoint::meta::Birth;
use crate::store::counters::Counters;
use crate::store::error::Problem;
use crate::store::log_records::{self, Unreadable};
use crate::store::options::Options;
use crate::store::wal::disk::{Disk, Folder};
use crate::store::wal::frame::{self, Head};
use crate::store::wal::segments::{self, OnDamage, ScanFrom};
use crate::store::{PageRequest, Store, Ticket, WakerSlot, codec};

/// Segment number in the frames of an export.
const EXPORT: u64 = u64::from_le_bytes(*b"lwexport");
/// Maximum number of records in one frame of an export, and their approximate size in bytes.
const EXPORT_RECORDS: usize = 1_000;
const EXPORT_BYTES: usize = 1 << 20;
/// Rows that are read at once.
const PAGE_ROWS: usize = 500;

/// Result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number that names the state; `None`: it cannot be read.
    pub identity: Option<u32>,
    /// Number of sessions.
    pub sessions: u64,
    /// Number of subscriptions.
    pub subscriptions: u64,
    /// Number of queued messages.
    pub messages: u64,
    /// Number of messages in flight.
    pub in_flight: u64,
    /// Number of retained messages.
    pub retained: u64,
    /// Number of log records that the checkpoint lacks.
    pub log_records: u64,
    /// Damaged parts: file, offset, and kind of damage.
    pub damage: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { identity, sessions, subscriptions, messages, in_flight, retained, log_records, damage } =
            self;
        if let Some(identity) = identity {
            writeln!(f, "state {identity:08x}")?;
        }
        writeln!(
            f,
            "{sessions} sessions with {subscriptions} subscriptions, {messages} messages in queues ({in_flight} on their way), \
             {retained} retained messages, {log_records} records in the log behind the checkpoint"
        )?;
        damage.iter().try_for_each(|damage| writeln!(f, "damaged: {damage}"))?;
        write!(f, "{}", if damage.is_empty() { "all of it is sound" } else { "the state is damaged" })
    }
}

/// Locks the folder, if it holds a state and no other process has it.
fn existing(folder: &Path) -> Result<Folder, Problem> {
    if !folder.join(checkpoint::FILE).is_file() {
        return Err(
            format!("there is no state in {}: name its folder with --data-dir", folder.display()).into()
        );
    }
    let shown = folder.display().to_string();
    match Folder::lock(folder) {
        Ok(Some(folder)) => Ok(folder),
        Ok(None) => Err(OpenError::Locked(shown).into()),
        Err(error) => Err(OpenError::io(format!("opening {shown}"))(error).into()),
    }
}

/// Looks for damage. If there is none, opens the state as a broker would and reads all of it.
///
/// # Errors
/// The state cannot be read at all.
pub fn check(folder: &Path) -> Result<Report, Problem> {
    let disk: Arc<dyn Disk> = Arc::new(existing(folder)?);
    let mut report = Report::default();
    let checkpoint =
        match Checkpoint::open(disk.clone(), Arc::new(Counters::default()), 16 << 20, Birth::default()) {
            Ok(checkpoint) => checkpoint,
            Err(error @ OpenError::Corrupt { .. }) => {
                report.damage.push(error.to_string());
                return Ok(report);
            }
            Err(error) => return Err(error.into()),
        };
    let meta = checkpoint.read()?.meta()?;
    report.identity = Some(checkpoint.read()?.identity()?.number);
    let mut records = 0;
    let since = ScanFrom { after: meta.lsn, segment: meta.segment, salt: Some(meta.salt) };
    let scan = log_records::scan(&*disk, since, OnDamage::Stop, &mut |_, _, _| records += 1)?;
    report.log_records = records;
    for damage in scan.damage {
        let file = disk.path(&segments::name(damage.segment));
        report.damage.push(format!("{file} at byte {}: {}", damage.offset, damage.what));
    }
    if !report.damage.is_empty() {
        return Ok(report);
    }
    drop(checkpoint);
    let store = DurableStore::on(disk, Options::default())?;
    for kept in store.recover()?.sessions {
        report.sessions += 1;
        report.subscriptions += kept.subscriptions.len() as u64;
        report.in_flight += kept.flights.len() as u64;
        each_queued(&store, &kept, &mut |_| {
            report.messages += 1;
            Ok(())
        })?;
    }
    store.each_retained(&mut |_| report.retained += 1)?;
    let corrupt = store.figures().corrupt;
    if corrupt > 0 {
        let file = folder.join(checkpoint::FILE);
        report.damage.push(format!("{}: {corrupt} rows are corrupt; the log names them", file.display()));
    }
    Ok(report)
}

/// Records of a log in the order of a replay, from its first on; with `beyond_damage` also those
/// behind damaged parts.
///
/// # Errors
/// The log cannot be read, or was written by a newer version.
pub fn log_records(disk: &dyn Disk, beyond_damage: bool) -> Result<Vec<Record>, OpenError> {
    let beyond = if beyond_damage { OnDamage::GoOn } else { OnDamage::Stop };
    let mut records = Vec::new();
    let salt = segments::salt(disk).map_err(OpenError::io("reading the log"))?;
    let since = ScanFrom { salt, ..ScanFrom::default() };
    log_records::scan(disk, since, beyond, &mut |_, record, _| records.push(record))?;
    Ok(records)
}

/// Reads a whole queue.
fn each_queued(
    store: &DurableStore,
    kept: &KeptSession,
    give: &mut dyn FnMut(crate::message::Delivery) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let (session, until) = (kept.terms.number, kept.waiting.last + 1);
    let mut from = 1;
    while from < until {
        let page = PageRequest { session, from, until, messages_max: PAGE_ROWS, bytes_max: EXPORT_BYTES };
        let paged = store.queued(page).blocking_recv().map_err(|_| "the queue cannot be read")?;
        from = paged.next;
        paged.deliveries.into_iter().try_for_each(&mut *give)?;
    }
    Ok(())
}

/// Writes records in frames to a file.
struct Exporter {
    file: std::io::BufWriter<std::fs::File>,
    records: Vec<Record>,
    bytes: usize,
    next: u64,
    frame: frame::Buffer,
}

impl Exporter {
    fn put(&mut self, record: Record) -> Result<(), Problem> {
        self.bytes += crate::store::record::estimated_bytes(&record);
        self.records.push(record);
        if self.records.len() >= EXPORT_RECORDS || self.bytes >= EXPORT_BYTES {
            self.flush(false)
        } else {
            Ok(())
        }
    }

    fn flush(&mut self, last: bool) -> Result<(), Problem> {
        if last {
            self.records.push(Record::Nothing);
        }
        self.frame.begin();
        for record in &self.records {
            self.frame.add(|out| codec::put_record(out, record));
        }
        let head = Head {
            segment: EXPORT,
            first: self.next,
            count: self.records.len() as u32,
            len: self.frame.len() as u32,
            is_last: last,
            format: codec::FORMAT,
            ..Head::default()
        };
        self.frame.seal(&head);
        self.next += self.records.len() as u64;
        self.records.clear();
        self.bytes = 0;
        self.file.write_all(self.frame.bytes())?;
        Ok(())
    }
}

/// Writes the state as records to a file that any store can read (`FORMAT.md`); returns their
/// number.
///
/// # Errors
/// The state cannot be read, or the file cannot be written.
pub fn export(folder: &Path, file: &Path) -> Result<u64, Problem> {
    let store = DurableStore::on(Arc::new(existing(folder)?), Options::default())?;
    let created = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let created = created.map_err(|error| format!("{}: {error}", file.display()))?;
    let mut out = Exporter {
        file: std::io::BufWriter::new(created),
        records: Vec::new(),
        bytes: 0,
        next: 1,
        frame: frame::Buffer::default(),
    };
    out.put(Record::Identity(Box::new(store.identity()?)))?;
    for kept in store.recover()?.sessions {
        export_session(&store, &kept, &mut out)?;
    }
    let mut problem = Ok(());
    store.each_retained(&mut |message| {
        if problem.is_ok() {
            let queued = QueueSlots::None;
            problem = out.put(Record::Published { message, retained: true, queued, beside: None });
        }
    })?;
    problem?;
    out.flush(true)?;
    out.file.into_inner()?.sync_all()?;
    Ok(out.next - 1)
}

fn export_session(store: &DurableStore, kept: &KeptSession, out: &mut Exporter) -> Result<(), Problem> {
    let session = kept.terms.number;
    out.put(Record::Session(Box::new(kept.terms.clone())))?;
    for (filter, subscription) in &kept.subscriptions {
        out.put(Record::Subscribed { session, filter: filter.clone(), subscription: *subscription })?;
    }
    each_queued(store, kept, &mut |delivery| {
        let queued = QueueSlots::One(QueueSlot::of(session, &delivery));
        out.put(Record::Published { message: delivery.message, retained: false, queued, beside: None })
    })?;
    for flight in &kept.flights {
        let (packet_id, seq, size) = (flight.packet_id, flight.seq, flight.size);
        let placed = store.read_at(session, vec![seq]).blocking_recv()?.pop();
        let body = placed.filter(|_| seq & REPLAYED != 0).map(Box::new);
        let qos = match flight.state {
            OutboundState::AwaitPubAck => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        out.put(FlightStep::Sent { session, packet_id, seq, qos, size, body }.into())?;
        if flight.state == OutboundState::AwaitPubComp {
            // The client has the message already: only the identifier is left.
            let origin = PreviousSlot::new(session, 0, 0, Some(packet_id));
            out.put(FlightStep::PubRecReceived(origin).into())?;
        }
    }
    for packet_id in &kept.received {
        out.put(FlightStep::Received { session, packet_id: *packet_id }.into())?;
    }
    Ok(())
}

/// Creates a new state from an export; returns the number of records.
///
/// # Errors
/// There is a state already, or the export is incomplete.
pub fn import(folder: &Path, file: &Path) -> Result<u64, Problem> {
    let shown = file.display();
    if folder.join(checkpoint::FILE).exists() {
        return Err(format!(
            "there is a state in {} already: name an empty folder with --data-dir",
            folder.display()
        )
        .into());
    }
    let mut input = std::fs::File::open(file).map_err(|error| format!("{shown}: {error}"))?;
    // The whole export is verified before anything is created.
    let mut key = None;
    let count = each_frame(&mut input, &mut |records| {
        if let Some(Record::Identity(identity)) = records.first() {
            key = Some(identity.key);
        }
        Ok(())
    });
    let count = count.map_err(|error| format!("{shown}: {error}"))?;
    let store = DurableStore::new_with_key(folder, key)?;
    let mut input = std::fs::File::open(file)?;
    each_frame(&mut input, &mut |records| {
        let mut ticket = Ticket::default();
        for record in records.into_iter().filter(|record| !matches!(record, Record::Identity(_))) {
            ticket = store.append(record, Durability::Always);
        }
        wait(&store, ticket)
    })?;
    store.close();
    Ok(count)
}

fn each_frame(
    input: &mut impl Read,
    give: &mut dyn FnMut(Vec<Record>) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    let mut bytes = Vec::new();
    let mut next = 1;
    loop {
        bytes.clear();
        input.by_ref().take(frame::PAGE as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Err("the export is not whole: its end is missing".into());
        }
        // The head states the length of the rest.
        let len = frame::stated_len(&bytes).ok_or("this is no export of lapwing")?;
        let more = (frame::HEAD + len).next_multiple_of(frame::PAGE) - frame::PAGE;
        input.by_ref().take(more as u64).read_to_end(&mut bytes)?;
        let head = frame::find(&bytes, EXPORT, Some(0)).filter(|head| head.first == next);
        let head = head.ok_or_else(|| format!("the export is damaged behind record {}", next - 1))?;
        let records = log_records::decode(&bytes, &head).map_err(|unreadable| match unreadable {
            Unreadable::Invalid => "the export has records that cannot be read".to_owned(),
            Unreadable::Newer(what) => {
                format!("the export has {what}, which this version of lapwing does not know")
            }
        })?;
        next = head.last() + 1;
        give(records.into_iter().map(|(record, _)| record).collect())?;
        if head.is_last {
            return Ok(next - 1);
        }
    }
}

/// Copies the state into a new folder that a broker can start with. A broker that runs on it makes
/// the copy itself.
///
/// # Errors
/// There is no state, or the copy cannot be made.
pub fn backup(folder: &Path, to: &Path) -> Result<(), Problem> {
    let to = std::path::absolute(to)?;
    if let Ok(mut broker) = UnixStream::connect(folder.join(super::backup::SOCKET)) {
        let text = to.to_str().ok_or("the name of the folder is not UTF-8")?;
        writeln!(broker, "backup {text}")?;
        let mut answer = String::new();
        BufReader::new(broker).read_line(&mut answer)?;
        return match answer.trim() {
            "done" => Ok(()),
            "" => Err("the broker ended before the backup was made".into()),
            other => Err(other.to_owned().into()),
        };
    }
    let store = DurableStore::on(Arc::new(existing(folder)?), Options::default())?;
    store.backup(&to)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks until a ticket is good.
pub(super) fn wait(store: &DurableStore, ticket: Ticket) -> Result<(), Problem> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut slot = WakerSlot::default();
    loop {
        match store.poll(ticket, &mut slot, &mut Context::from_waker(&waker)) {
            Poll::Ready(kept) => return kept.map_err(|_| "the store has failed: the log says why".into()),
            Poll::Pending => std::thread::park(),
        }
    }
}
