//! The open listeners. A reload opens new ones and closes removed ones. A listener whose address
//! stays keeps its socket, whatever other settings change.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::{self, Config};
use crate::core::Core;
use crate::core::control::ListenerName;
use crate::net::endpoint::EndpointId;
use crate::net::{self, BindError};
use crate::server::accept;
use crate::server::drain::{TaskCounter, TaskGuard};
use crate::workers::WorkerPool;

/// The open listeners, and the parts that their accept loops need.
pub(crate) struct Listeners {
    /// In the order of the configuration.
    open: Vec<OpenListener>,
    last: EndpointId,
    names: watch::Sender<Vec<ListenerName>>,
    stopped: watch::Receiver<bool>,
    connections: Arc<TaskCounter>,
    acceptors: Arc<TaskCounter>,
    workers: Arc<WorkerPool>,
}

/// An open listener.
struct OpenListener {
    number: EndpointId,
    /// Configuration with which it was opened.
    config: config::Listener,
    names: Vec<Arc<str>>,
    closed: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl OpenListener {
    async fn close(mut self) {
        self.closed.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        info!("closed the listener {}", self.names.join(", "));
    }
}

/// A listener with open sockets that are not served yet.
pub(crate) struct BoundListener {
    config: config::Listener,
    number: EndpointId,
    sockets: Vec<net::ListeningSocket>,
}

impl Listeners {
    /// Starts without listeners. The counters count accept loops and connections, the receiver ends
    /// them, the workers serve the connections.
    pub(crate) fn new(
        stopped: watch::Receiver<bool>,
        acceptors: Arc<TaskCounter>,
        connections: Arc<TaskCounter>,
        workers: Arc<WorkerPool>,
    ) -> Listeners {
        let names = watch::Sender::new(Vec::new());
        Listeners { open: Vec::new(), last: 0, names, stopped, connections, acceptors, workers }
    }

    /// Names of the open listeners.
    pub(crate) fn names(&self) -> watch::Receiver<Vec<ListenerName>> {
        self.names.subscribe()
    }

    /// Endpoint numbers of a configuration's listeners; those that are open already keep theirs.
    pub(crate) fn numbers(&mut self, config: &Config) -> Vec<EndpointId> {
        let mut free: Vec<(String, EndpointId)> =
            self.open.iter().map(|served| (served.config.site(), served.number)).collect();
        let mut last = self.last;
        let numbers = config.listeners.iter().map(|listener| {
            let site = listener.site();
            match free.iter().position(|(of, _)| *of == site) {
                Some(at) => free.remove(at).1,
                None => {
                    last += 1;
                    last
                }
            }
        });
        let numbers = numbers.collect();
        self.last = last;
        numbers
    }

    /// Opens the new listeners.
    ///
    /// # Errors
    /// The reason why one cannot be opened; nothing has changed then.
    pub(crate) async fn bind(
        &mut self,
        core: Option<&Arc<Core>>,
        config: &Config,
        numbers: &[EndpointId],
    ) -> Result<Vec<BoundListener>, BindError> {
        let is_open = |number: &EndpointId| self.open.iter().any(|served| served.number == *number);
        let pairs = config.listeners.iter().zip(numbers.iter().copied());
        let new: Vec<_> = pairs.filter(|(_, number)| !is_open(number)).collect();
        let error = match bind_all(&new) {
            Ok(fresh) => return Ok(fresh),
            Err(error) => error,
        };
        // A listener that is to close may be in the way, as localhost:1883 is in that of
        // 0.0.0.0:1883.
        let (stay, gone) =
            std::mem::take(&mut self.open).into_iter().partition(|s| numbers.contains(&s.number));
        self.open = stay;
        let (Some(core), false) = (core, Vec::is_empty(&gone)) else {
            self.open.extend(gone);
            return Err(error);
        };
        let before: Vec<_> = gone.iter().map(|served| (served.config.clone(), served.number)).collect();
        for served in gone {
            served.close().await;
        }
        let error = match bind_all(&new) {
            Ok(fresh) => return Ok(fresh),
            Err(error) => error,
        };
        for (config, number) in before {
            match bind_all(&[(&config, number)]) {
                Ok(fresh) => fresh.into_iter().for_each(|fresh| self.serve(core, fresh)),
                Err(error) => warn!("failed to reopen a listener: {error}"),
            }
        }
        Err(error)
    }

    /// Serves the new listeners and closes the removed ones. The snapshot with all of them is in
    /// force already.
    pub(crate) async fn replace(
        &mut self,
        core: &Arc<Core>,
        numbers: &[EndpointId],
        fresh: Vec<BoundListener>,
    ) {
        let (stay, gone) =
            std::mem::take(&mut self.open).into_iter().partition(|s| numbers.contains(&s.number));
        self.open = stay;
        for served in Vec::into_iter(gone) {
            served.close().await;
        }
        fresh.into_iter().for_each(|fresh| self.serve(core, fresh));
        let position = |served: &OpenListener| numbers.iter().position(|number| *number == served.number);
        self.open.sort_by_key(position);
        let named = |served: &OpenListener| {
            let number = served.number;
            served.names.iter().map(move |name| (number, name.clone())).collect::<Vec<_>>()
        };
        self.names.send_replace(self.open.iter().flat_map(named).collect());
    }

    fn serve(&mut self, core: &Arc<Core>, fresh: BoundListener) {
        let BoundListener { config, number, sockets } = fresh;
        let (closed, closing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let names = sockets.iter().map(|socket| socket.name().clone()).collect();
        for socket in sockets {
            info!("listening on {}", socket.name());
            let counted = TaskGuard::new(&self.acceptors);
            let (core, stopped, closing) = (core.clone(), self.stopped.clone(), closing.clone());
            let (connections, workers) = (self.connections.clone(), self.workers.clone());
            tasks.spawn(async move {
                accept::run(core, workers, socket, stopped, closing, connections).await;
                drop(counted);
            });
        }
        self.open.push(OpenListener { number, config, names, closed, tasks });
    }
}

fn bind_all(new: &[(&config::Listener, EndpointId)]) -> Result<Vec<BoundListener>, BindError> {
    let bind = |(config, number): &(&config::Listener, EndpointId)| {
        let sockets = net::bind(config, *number)?;
        Ok(BoundListener { config: (*config).clone(), number: *number, sockets })
    };
    new.iter().map(bind).collect()
}
