//! SM_NOTIFY to every target.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::target::{Notice, STATD, Target};
use crate::host::is_own_address;
use crate::rpc::fanout::{self, Call, DriverError, Event, Failure, RunOptions};
use crate::wire::control::Delivery;
use crate::wire::nsm::{NotifyArgs, Procedure};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::encode;

/// Statement 7: after this long without an ack a client is given up, for now.
pub const NO_ANSWER_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct NotifyOptions {
    /// The port of the targets' rpcbind (111 outside tests and the demo).
    pub rpcbind_port: u16,
    /// The state number that every notice carries.
    pub state: NsmState,
    /// Where the clock starts on which `retry_until` and [`Event::at`] are.
    pub epoch: Instant,
    /// When retries end, since `epoch`.
    pub retry_until: Duration,
    /// After how long without an ack a target is provisionally given up: [`NO_ANSWER_AFTER`] outside tests.
    pub no_answer_after: Duration,
}

/// Sends every target its notices, until each is acked (that is, answered with success, whatever comes with it) or `retry_until` has come, and tells what it
/// learns through `events`. A full channel delays events, never sends. To cancel, drop this future or close the receiver:
/// nothing is sent from then on, and what the receiver could not take is returned, with the last event of each target.
pub async fn notify(
    targets: Vec<Target>,
    options: NotifyOptions,
    events: mpsc::Sender<Event>,
) -> Result<Vec<Event>, DriverError> {
    let NotifyOptions { rpcbind_port, state, epoch, retry_until, no_answer_after } = options;
    let options = RunOptions {
        program: STATD,
        keep_on: true,
        rpcbind_port,
        end: retry_until,
        no_answer_after,
        has_address: is_own_address,
    };
    fanout::run(called(targets, state), options, epoch, events).await
}

/// What to call where. Thousands of notices have a few names, and each is encoded once.
fn called(targets: Vec<Target>, state: NsmState) -> Vec<fanout::Target> {
    let mut encoded: HashMap<CallerName, Arc<[u8]>> = HashMap::new();
    let mut call = |Notice { name, from }| {
        let args = encoded.entry(name);
        let args = args.or_insert_with_key(|name| encode(&NotifyArgs { mon_name: name.clone(), state }).into());
        Call { name: "SM_NOTIFY", procedure: Procedure::Notify as u32, args: Arc::clone(args), from }
    };
    let mut target = |Target { id, host, notices }| {
        let calls = notices.into_iter().map(&mut call).collect();
        fanout::Target { id, host, calls }
    };
    targets.into_iter().map(&mut target).collect()
}

/// What a failure means of the delivery of notices.
pub fn delivery(failure: Failure) -> Delivery {
    match failure {
        Failure::NotSent => Delivery::NotTold,
        Failure::Partial => Delivery::Partial,
        Failure::Elsewhere => Delivery::Elsewhere,
        Failure::NoAnswer => Delivery::NoAnswer,
        Failure::NotRegistered => Delivery::NoStatd,
        Failure::NameUnknown => Delivery::NameUnknown,
        Failure::Refused => Delivery::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::fanout::Host;
    use crate::wire::xdr::decode;

    #[test]
    fn each_name_is_encoded_once() {
        let notice = |text| Notice { name: CallerName::new(text).unwrap(), from: None };
        let target = |id| Target { id, host: Host::Name("c".into()), notices: vec![notice("a"), notice("b")] };
        let targets = called(vec![target(1), target(2)], NsmState(3));
        let call = |target: usize, call: usize| &targets[target].calls[call];
        assert!(Arc::ptr_eq(&call(0, 0).args, &call(1, 0).args));
        assert_ne!(call(0, 0), call(0, 1));
        assert_eq!(call(0, 0).procedure, Procedure::Notify as u32);
        let args: NotifyArgs = decode(&call(0, 0).args).unwrap();
        assert_eq!(args, NotifyArgs { mon_name: CallerName::new("a").unwrap(), state: NsmState(3) });
    }
}
