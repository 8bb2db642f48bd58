//! A broker inside the test's own process, for a store, a hook or a figure that only a program has.

use lapwing::Broker;
use lapwing::internals::config::Config;
use lapwing::internals::store::Store;
use tokio::runtime::Runtime;

/// A running broker and its runtime; dropping it ends both.
pub struct Inside {
    /// The runtime that it runs on.
    pub runtime: Runtime,
    /// Address of its first listener, as `127.0.0.1:PORT`.
    pub mqtt: String,
    broker: Broker,
}

impl Inside {
    /// Starts one that keeps nothing.
    pub fn start(toml: &str) -> Inside {
        Inside::build(&format!("{toml}\n[store]\nin_memory = true\n"), |builder| builder)
    }

    /// Starts one on this store.
    pub fn on(store: impl Store + 'static, toml: &str) -> Inside {
        Inside::build(toml, |builder| builder.store(store))
    }

    fn build(toml: &str, more: impl FnOnce(lapwing::Builder) -> lapwing::Builder) -> Inside {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let usual =
            if toml.contains("[[listener]]") { "" } else { "[[listener]]\naddress = '127.0.0.1:0'\n" };
        let config = Config::from_toml(&format!("{toml}\n{usual}"), "test.toml").expect("a configuration");
        let builder = more(Broker::builder().config(config));
        let broker = runtime.block_on(builder.start()).expect("the broker starts");
        let mqtt = broker.listeners()[0].trim_start_matches("mqtt://").to_owned();
        Inside { runtime, mqtt, broker }
    }

    /// Address of its operators' listener.
    pub fn admin(&self) -> String {
        self.broker.admin().expect("[admin] has an address").to_string()
    }

    /// Opens a session inside the process.
    pub fn local(&self, name: &str) -> lapwing::Local {
        self.broker.local(name)
    }

    /// The broker's figures, in the text format of Prometheus.
    pub fn figures(&self) -> String {
        self.broker.figures()
    }

    /// Stops it as the program would at SIGTERM.
    pub fn stop(self) {
        let Inside { runtime, broker, .. } = self;
        runtime.block_on(broker.stop());
        // A failed store may still hold a thread: the test is not to wait for it.
        runtime.shutdown_background();
    }
}
