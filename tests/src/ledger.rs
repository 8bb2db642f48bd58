//! Records for a store, and the state that it must show later: random records in an order that a
//! broker could write, and a plain model of the state behind each of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use lapwing::QoS;
use lapwing::internals::message::{DeliveryTerms, Durability, Message, MessageParts, SubscriptionIds};
use lapwing::internals::session::Subscription;
use lapwing::internals::store::{
    DurableStore, Entry, Extras, Failed, FlightStep, KeptSubscription, OpenError, PageRequest, PreviousSlot,
    QueueSlot, QueueSlots, Record, SessionTerms, Store, Ticket, WakerSlot,
};
use lapwing_protocol::PacketId;
use lapwing_protocol::packet::SubscriptionOptions;

use crate::random::Random;

/// The state as text by key, so that two can be compared whatever they are made of.
pub type State = BTreeMap<String, String>;

/// A plain model of what records mean.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Content that is kept.
    pub state: State,
    /// The sizes and session of queued messages, to acknowledge them.
    queued: Vec<(u64, u64, u32)>,
    flights: Vec<(u64, u16, u64, u32, bool)>,
    received: Vec<(u64, u16)>,
    filters: Vec<(u64, String)>,
    sessions: Vec<(u64, u64)>,
    last_session: u64,
    published: u64,
    last_id: u16,
}

fn message(n: u64, topic: &str, payload: &[u8]) -> Message {
    Message::new(&MessageParts {
        qos: QoS::ExactlyOnce,
        retain: true,
        published_at: n,
        ..MessageParts::new(topic, payload)
    })
}

fn text(message: &Message) -> String {
    format!("{} {} {}", message.topic_str(), message.published_at(), message.payload().len())
}

impl Model {
    /// Makes up the next record and takes it in.
    pub fn next(&mut self, random: &mut Random) -> Record {
        if self.sessions.len() < 3 {
            return self.begin();
        }
        match random.below(20) {
            0 => self.begin(),
            1 if self.sessions.len() > 4 => self.end(random),
            2 | 3 => self.subscribe(random),
            4 => self.unsubscribe(random),
            5..=7 => self.send(random),
            8..=10 => self.acknowledge(random),
            11 => self.release(random),
            _ => self.publish(random),
        }
    }

    /// Goes on from a state that was found.
    pub fn from(state: State) -> Model {
        Model { state, ..Model::default() }
    }

    /// A retained message on top of whatever there is.
    pub fn retained(&mut self, random: &mut Random) -> Record {
        self.published += 1;
        let topic = format!("t/{}", random.below(6));
        let message = message(1_000_000 + self.published, &topic, b"later");
        self.state.insert(format!("retained {topic}"), text(&message));
        Record::Published { message, retained: true, queued: QueueSlots::None, beside: None }
    }

    fn begin(&mut self) -> Record {
        self.last_session += 1;
        let number = self.last_session;
        self.sessions.push((number, 0));
        let terms = SessionTerms {
            number,
            client_id: format!("client-{number}").into(),
            expiry_s: 100,
            connected: true,
            ends_at: Some(number),
            ..SessionTerms::default()
        };
        self.state.insert(format!("session {number}"), terms.client_id.to_string());
        Record::Session(Box::new(terms))
    }

    fn end(&mut self, random: &mut Random) -> Record {
        let (session, _) = self.sessions.remove(random.below(self.sessions.len() as u64) as usize);
        self.queued.retain(|(of, ..)| *of != session);
        self.flights.retain(|(of, ..)| *of != session);
        self.received.retain(|(of, _)| *of != session);
        self.filters.retain(|(of, _)| *of != session);
        let ended = format!(" {session}");
        self.state.retain(|key, _| {
            let mut words = key.split(' ').skip(1);
            key.starts_with("retained") || words.next() != Some(&ended[1..])
        });
        Record::SessionEnded { session }
    }

    fn subscribe(&mut self, random: &mut Random) -> Record {
        let (session, _) = self.any_session(random);
        let filter = format!("f/{}", random.below(5));
        let id = 1 + random.below(9) as u32;
        self.filters.retain(|known| *known != (session, filter.clone()));
        self.filters.push((session, filter.clone()));
        self.state.insert(format!("filter {session} {filter}"), id.to_string());
        let held = Subscription { options: SubscriptionOptions::default(), id: Some(id) };
        let subscription = KeptSubscription { held, group: None, replay: false };
        Record::Subscribed { session, filter: filter.into(), subscription }
    }

    fn unsubscribe(&mut self, random: &mut Random) -> Record {
        let Some((session, filter)) = take(&mut self.filters, random) else { return Record::Nothing };
        self.state.remove(&format!("filter {session} {filter}"));
        Record::Unsubscribed { session, filter: filter.into() }
    }

    fn publish(&mut self, random: &mut Random) -> Record {
        self.published += 1;
        let topic = format!("t/{}", random.below(6));
        // Some are large, some empty; an empty one removes the retained message.
        let len = [0, 10, 100, 1_000, 9_000][random.below(5) as usize];
        let message = message(self.published, &topic, &vec![b'x'; len]);
        let retained = random.below(3) == 0;
        if retained && len == 0 {
            self.state.remove(&format!("retained {topic}"));
        } else if retained {
            self.state.insert(format!("retained {topic}"), text(&message));
        }
        let mut queued = QueueSlots::None;
        for (session, last) in &mut self.sessions {
            if random.below(2) == 0 {
                continue;
            }
            *last += 1;
            self.state.insert(format!("queue {session} {last:06}"), text(&message));
            self.queued.push((*session, *last, message.size() as u32));
            let ids = SubscriptionIds::One(7);
            let terms = DeliveryTerms { subscription_ids: ids, ..DeliveryTerms::plain(QoS::AtLeastOnce) };
            queued.push(QueueSlot { session: *session, seq: *last, terms });
        }
        let (session, _) = self.any_session(random);
        self.last_id = self.last_id % 60_000 + 1;
        let received = (random.below(3) == 0).then_some((session, self.last_id));
        if let Some((session, id)) = received {
            self.received.push((session, id));
            self.state.insert(format!("received {session} {id}"), String::new());
        }
        let received = received.and_then(|(session, id)| Some((session, PacketId::new(id)?)));
        Record::Published { message, retained, queued, beside: Extras::of(received, None) }
    }

    fn send(&mut self, random: &mut Random) -> Record {
        let Some((session, seq, size)) = take(&mut self.queued, random) else { return Record::Nothing };
        self.last_id = self.last_id % 60_000 + 1;
        let exactly_once = random.below(2) == 0;
        self.flights.push((session, self.last_id, seq, size, exactly_once));
        let state = if exactly_once { "AwaitPubRec" } else { "AwaitPubAck" };
        self.state.insert(format!("flight {session} {}", self.last_id), format!("{state} {seq}"));
        let qos = if exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        let packet_id = PacketId::new(self.last_id).unwrap();
        FlightStep::Sent { session, packet_id, seq, qos, size, body: None }.into()
    }

    fn acknowledge(&mut self, random: &mut Random) -> Record {
        let Some((session, id, seq, size, exactly_once)) = take(&mut self.flights, random) else {
            return Record::Nothing;
        };
        let (key, packet_id) = (format!("flight {session} {id}"), PacketId::new(id).unwrap());
        let origin = PreviousSlot::new(session, seq, size, Some(packet_id));
        self.state.remove(&format!("queue {session} {seq:06}"));
        if exactly_once && size > 0 {
            // Half way: a size of 0 marks a flight whose message is handed over.
            self.flights.push((session, id, seq, 0, true));
            self.state.insert(key, format!("AwaitPubComp {seq}"));
            return FlightStep::PubRecReceived(origin).into();
        }
        self.state.remove(&key);
        if exactly_once {
            FlightStep::Completed { session, packet_id }.into()
        } else {
            FlightStep::Acknowledged(origin).into()
        }
    }

    fn release(&mut self, random: &mut Random) -> Record {
        let Some((session, id)) = take(&mut self.received, random) else { return Record::Nothing };
        self.state.remove(&format!("received {session} {id}"));
        FlightStep::Released { session, packet_id: PacketId::new(id).unwrap() }.into()
    }

    fn any_session(&self, random: &mut Random) -> (u64, u64) {
        self.sessions[random.below(self.sessions.len() as u64) as usize]
    }
}

fn take<T>(all: &mut Vec<T>, random: &mut Random) -> Option<T> {
    (!all.is_empty()).then(|| all.remove(random.below(all.len() as u64) as usize))
}

/// The state that a store gives back after it was opened.
///
/// # Errors
/// That it cannot be read.
pub fn recovered(store: &DurableStore) -> Result<State, OpenError> {
    let mut state = State::new();
    for kept in store.recover()?.sessions {
        let session = kept.terms.number;
        state.insert(format!("session {session}"), kept.terms.client_id.to_string());
        for (filter, subscription) in kept.subscriptions {
            let id = subscription.held.id.unwrap_or(0);
            state.insert(format!("filter {session} {filter}"), id.to_string());
        }
        for flight in kept.flights {
            let text = format!("{:?} {}", flight.state, flight.seq);
            state.insert(format!("flight {session} {}", flight.packet_id), text);
        }
        for id in kept.received {
            state.insert(format!("received {session} {id}"), String::new());
        }
        let (mut from, mut count, mut bytes) = (1, 0, 0);
        while from <= kept.waiting.last {
            let until = kept.waiting.last + 1;
            let page = PageRequest { session, from, until, messages_max: 3, bytes_max: 5_000 };
            let paged = store.queued(page).blocking_recv().expect("an answer");
            assert!(paged.next > from, "paging stands still at {from}");
            from = paged.next;
            for delivery in paged.deliveries {
                count += 1;
                bytes += delivery.message.size() as u64;
                assert_eq!(delivery.terms.subscription_ids, SubscriptionIds::One(7));
                state.insert(format!("queue {session} {:06}", delivery.seq), text(&delivery.message));
            }
        }
        if (kept.waiting.count, kept.waiting.bytes) != (count, bytes) {
            // No model has this: it is the state of no moment.
            let waiting = format!("{:?}, but {count} with {bytes} bytes can be read", kept.waiting);
            state.insert(format!("queue {session} is wrong"), waiting);
        }
    }
    store.each_retained(&mut |message| {
        state.insert(format!("retained {}", message.topic_str()), text(&message));
    })?;
    Ok(state)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits until a ticket is good.
///
/// # Errors
/// That it never will be.
pub fn wait(store: &DurableStore, ticket: Ticket) -> Result<(), Failed> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut seat = WakerSlot::default();
    loop {
        match store.poll(ticket, &mut seat, &mut Context::from_waker(&waker)) {
            Poll::Ready(kept) => return kept,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Hands a record over as a broker would: messages by a reserved place, everything else at once.
/// `None`: it was refused.
pub fn tell(store: &DurableStore, record: Record, durability: Durability) -> Option<Ticket> {
    if matches!(record, Record::Published { .. }) {
        let lsn = store.reserve().ok()?;
        store.fill(&mut std::iter::once(Entry::new(lsn, record, durability)));
        return Some(Ticket { lsn, durability });
    }
    Some(store.append(record, durability))
}
