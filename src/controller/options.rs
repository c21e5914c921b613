//! How a controller works, for every command.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::wire::rpcbind;

#[derive(Debug, Clone)]
pub struct Options {
    /// How long no ack and no reclaim must have come before an early settle.
    pub quiet_time: Duration,
    /// The port of the clients' rpcbind: 111 outside tests and the demo.
    pub rpcbind_port: u16,
    /// How long the plan waits for the clients' statds.
    pub probe_timeout: Duration,
    /// Prints a line of progress to the operator while the plan waits.
    pub say: fn(&str),
    /// Whether every lock gets a row in the record (`--record all`), not only those whose fate is
    /// worth one.
    pub record_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quiet_time: Duration::from_millis(500),
            rpcbind_port: rpcbind::PORT,
            probe_timeout: Duration::from_secs(3),
            say: |_| (),
            record_all: false,
        }
    }
}

/// Signals of the operator, by name: `SIGINT`, say. A closed channel means that none will come.
pub type Signals = mpsc::Receiver<&'static str>;
