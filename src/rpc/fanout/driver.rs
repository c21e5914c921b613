//! The fan-out on real sockets: gives [`Fanout`] time, UDP sockets, the resolver and TCP.
//!
//! # Theory
//! One task owns the machine and its sockets, so nothing is locked. It goes round: take in
//! everything that has come before more is asked for, let time pass, hand on events, send a burst. What is beyond a
//! socket's window nobody here has asked for: it waits for the next round. A socket without room for sending delays no
//! other. TCP calls and names that the hosts file does not have run in tasks of their own, few at a time, and only
//! hand their findings in: a resolver that hangs delays its own names and no datagram. Open files
//! are a handful of UDP sockets and at most [`STREAMS`] TCP connections, for any number of targets.
//! The machine's clock stands still while the process does not run: what it could not hear then gives no host up.
//! A full event channel makes events wait in the machine (it holds a few for each target), never sends.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::mem;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::machine::{Lookup, StreamCall, Transmit};
use super::queue::Lane;
use super::sockets::{BUFFER, Sockets};
use super::state::{Fanout, Question};
use super::target::{Event, Host, Options, RunOptions, Target};
use crate::rpc::client::{CallError, Request, Source, StreamClient};
use crate::rpc::heartbeat::{BEAT, Heartbeat, Moment};
use crate::rpc::resolver::{self, Unresolved};
use crate::rpc::udp::Datagram;
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::rpcbind;
use crate::wire::types::CallerName;

/// Datagrams sent between two looks at what has come in.
const BURST: usize = 64;
/// Most TCP calls at a time, port look-ups included.
const STREAMS: usize = 192;
/// Findings that wait to be taken in; the tasks that have more wait.
const FINDINGS: usize = 2 * STREAMS;
/// Longest wait for a TCP connection, and for the answer on it; of a port look-up, which mostly goes to the dead.
const STREAM_PATIENCE: Duration = Duration::from_secs(3);
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer over TCP, in bytes.
const MAX_ANSWER: usize = 4096;
/// The wait before a datagram is offered again to a socket whose send buffer was full.
const SEND_AGAIN: Duration = Duration::from_millis(1);

/// Why a fan-out could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("cannot open a UDP socket for notices: {0}; check the limit of open files (ulimit -n)")]
    Socket(#[source] io::Error),
    /// The socket failed.
    #[error("the UDP socket for notices failed: {0}")]
    Receive(#[source] io::Error),
}

/// Calls every target, until each has answered or is given up for good, and tells what it learns through `events`. A full
/// channel delays events, never sends. `epoch` is where the clock starts on which [`RunOptions::end`] and [`Event::at`] are.
/// To cancel, drop this future or close the receiver: nothing is sent from then on. Where the receiver was closed the
/// events that it could not take are returned, with the last one of each target.
pub async fn run(
    mut targets: Vec<Target>,
    options: RunOptions,
    epoch: Instant,
    events: mpsc::Sender<Event>,
) -> Result<Vec<Event>, DriverError> {
    for target in &mut targets {
        let host = mem::replace(&mut target.host, Host::Addresses(Vec::new()));
        target.host = host.canonical();
    }
    if targets.iter().any(|target| matches!(target.host, Host::Name(_))) {
        resolver::read_hosts_file().await;
    }
    let sockets = Sockets::open(&targets, BUFFER).map_err(DriverError::Socket)?;
    let sources: HashSet<IpAddr> = targets.iter().flat_map(|t| t.calls.iter().filter_map(|call| call.from)).collect();
    let foreign = sources.into_iter().filter(|&ip| !(options.has_address)(ip)).collect();
    let options = Options { run: options, lanes: sockets.lanes.clone(), streams: STREAMS, seed: rand::random() };
    let mut driver = Driver::new(Fanout::new(epoch.elapsed(), targets, options), sockets, epoch);
    driver.foreign = foreign;
    driver.run(events).await
}

/// What a task beside the machine found.
enum Finding {
    Addresses(u64, Result<Vec<IpAddr>, Unresolved>),
    Stream(u64, Result<Result<Vec<u8>, RpcError>, String>),
}

struct Driver {
    fanout: Fanout,
    sockets: Sockets,
    epoch: Instant,
    pulse: Heartbeat,
    /// For how long the process did not run.
    not_run: Duration,
    findings: mpsc::Receiver<Finding>,
    finder: mpsc::Sender<Finding>,
    /// Aborted with the driver.
    tasks: JoinSet<()>,
    inbox: Vec<Datagram>,
    /// Source addresses that this host does not have. What is sent from them is lost without an
    /// error, or with one that reads as if the receiver were to blame.
    foreign: HashSet<IpAddr>,
    /// Polled from the machine, not taken by their sockets yet.
    unsent: Vec<Transmit>,
}

impl Driver {
    fn new(fanout: Fanout, sockets: Sockets, epoch: Instant) -> Self {
        let (finder, findings) = mpsc::channel(FINDINGS);
        Self {
            fanout,
            sockets,
            epoch,
            pulse: Heartbeat::default(),
            not_run: Duration::ZERO,
            findings,
            finder,
            tasks: JoinSet::new(),
            inbox: Vec::new(),
            foreign: HashSet::new(),
            unsent: Vec::with_capacity(BURST),
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed().saturating_sub(self.not_run)
    }

    fn beat(&mut self) {
        let now = Moment::now();
        self.pulse.start(now);
        if let Some(lag) = self.pulse.beat(now) {
            self.not_run += lag.counted;
        }
    }

    async fn run(mut self, events: mpsc::Sender<Event>) -> Result<Vec<Event>, DriverError> {
        loop {
            self.beat();
            self.take_in()?;
            let now = self.now();
            self.fanout.handle_timeout(now);
            while let Ok(place) = events.try_reserve()
                && let Some(event) = self.next_event()
            {
                place.send(event);
            }
            if events.is_closed() {
                return Ok(self.stopped(now));
            }
            if self.fanout.is_done() && !self.fanout.has_events() {
                return Ok(Vec::new());
            }
            let more_names = self.start_tasks(now);
            if self.send_burst() || more_names {
                // Also lets the runtime see which sockets have become readable.
                tokio::task::yield_now().await;
                continue;
            }
            self.wait(&events).await?;
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        let event = self.fanout.poll_event()?;
        Some(Event { at: event.at + self.not_run, ..event })
    }

    /// The events that are left when nothing more is sent.
    fn stopped(mut self, now: Duration) -> Vec<Event> {
        for transmit in mem::take(&mut self.unsent) {
            self.fanout.handle_unsent(&transmit, &"stopped before");
        }
        self.fanout.end(now);
        std::iter::from_fn(|| self.next_event()).collect()
    }

    /// Everything that has come, to the last datagram.
    fn take_in(&mut self) -> Result<(), DriverError> {
        while let Ok(finding) = self.findings.try_recv() {
            self.hand_in(finding);
        }
        for (lane, (endpoint, Lane { window, .. })) in
            self.sockets.endpoints.iter().zip(&self.sockets.lanes).enumerate()
        {
            for _ in 0..=window / BURST {
                let came = endpoint.try_recv(&mut self.inbox, BURST).map_err(DriverError::Receive)?;
                let now = self.now();
                for datagram in self.inbox.drain(..) {
                    self.fanout.handle_datagram(now, lane, datagram.peer, datagram.local_ip, &datagram.bytes);
                }
                if came == 0 {
                    break;
                }
            }
            for to in endpoint.take_refused() {
                self.fanout.handle_refused(self.now(), to);
            }
        }
        Ok(())
    }

    fn hand_in(&mut self, finding: Finding) {
        let now = self.now();
        match finding {
            Finding::Addresses(token, found) => self.fanout.handle_lookup(now, token, found),
            Finding::Stream(token, went) => self.fanout.handle_stream(now, token, went),
        }
    }

    /// Whether there may be more to send at once.
    fn send_burst(&mut self) -> bool {
        let now = self.now();
        self.unsent.retain(|transmit| self.fanout.still_wants(transmit));
        self.offer();
        let more = (0..BURST).all(|_| {
            let Some(transmit) = self.fanout.poll_transmit(now) else { return false };
            if self.can_leave(&transmit) {
                self.unsent.push(transmit);
            }
            true
        });
        self.offer();
        more
    }

    /// Offers what was polled to its sockets. For one that is full nothing more is polled until it takes the rest.
    fn offer(&mut self) {
        let mut full = BTreeSet::new();
        let (mut at, mut kept) = (0, 0);
        while let Some(next) = self.unsent.get(at) {
            let Some(endpoint) = self.sockets.endpoints.get(next.lane) else { break };
            let same =
                self.unsent.iter().skip(at).take_while(|other| (other.lane, other.from) == (next.lane, next.from));
            let sent = if full.contains(&next.lane) {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                endpoint.try_send_many(same.map(|t| (t.bytes.as_slice(), t.to)), next.from)
            };
            at += match sent {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    full.insert(next.lane);
                    self.unsent.swap(kept, at);
                    kept += 1;
                    1
                }
                // As good as lost on the way, and likely to fail again: people want to know why.
                Err(error) => {
                    self.fanout.handle_unsent(next, &error);
                    1
                }
            };
        }
        self.unsent.truncate(kept);
        self.fanout.queue.full = full;
    }

    /// Whether this host has the address that it is to be sent from.
    fn can_leave(&mut self, transmit: &Transmit) -> bool {
        let Some(from) = transmit.from.filter(|from| self.foreign.contains(from)) else { return true };
        if (self.fanout.options.run.has_address)(from) {
            // It has come back, as after a failover.
            self.foreign.remove(&from);
            return true;
        }
        self.fanout.handle_unsent(transmit, &"this host does not have the address to send from");
        false
    }

    async fn wait(&mut self, events: &mpsc::Sender<Event>) -> Result<(), DriverError> {
        let timeout = self.fanout.next_timeout().map_or(Duration::MAX, |at| at.saturating_sub(self.now()));
        let nap = timeout.min(if self.unsent.is_empty() { BEAT } else { SEND_AGAIN });
        let delayed_events = self.fanout.has_events();
        tokio::select! {
            ready = self.sockets.readable() => ready.map_err(DriverError::Receive)?,
            Some(finding) = self.findings.recv() => self.hand_in(finding),
            // A place that is free now is taken in the next round.
            _ = events.reserve(), if delayed_events => {}
            () = events.closed() => {}
            () = tokio::time::sleep(nap) => {}
        }
        Ok(())
    }

    /// Whether there may be more names to look up at once.
    fn start_tasks(&mut self, now: Duration) -> bool {
        let more_names = (0..BURST).all(|_| {
            let Some(lookup) = self.fanout.poll_lookup() else { return false };
            let known = CallerName::typed(&lookup.name).ok().and_then(|name| resolver::known(&name));
            match known {
                Some(found) => self.hand_in(Finding::Addresses(lookup.token, Ok(found))),
                None => _ = self.tasks.spawn(look_up(lookup, self.finder.clone())),
            }
            true
        });
        while let Some(call) = self.fanout.poll_stream(now) {
            let finder = self.finder.clone();
            self.tasks.spawn(async move {
                let (token, went) = (call.token, call_over_tcp(call).await);
                // It fails only where the driver is gone.
                let _ = finder.send(Finding::Stream(token, went)).await;
            });
        }
        while self.tasks.try_join_next().is_some() {}
        more_names
    }
}

/// Resolves a name. It waits as long as the resolver answers for others, or until the driver is gone.
async fn look_up(lookup: Lookup, finder: mpsc::Sender<Finding>) {
    let found = match CallerName::typed(&lookup.name) {
        Ok(name) => resolver::addresses(&name, resolver::PATIENCE).await,
        Err(bad) => Err(Unresolved::Unknown(bad.to_string())),
    };
    // It fails only where the driver is gone.
    let _ = finder.send(Finding::Addresses(lookup.token, found)).await;
}

async fn call_over_tcp(call: StreamCall) -> Result<Result<Vec<u8>, RpcError>, String> {
    // Any port will do: statd takes notices from all, and ports below 1024 are few.
    let source = Source { ip: call.from, reserved: false };
    let Question { program, version, procedure, args } = &call.question;
    let (program, version, procedure) = (*program, *version, *procedure);
    let request = Request { program, version, procedure, credential: &Credential::None, args };
    let patience = if program == rpcbind::PROGRAM { LOOK_UP_PATIENCE } else { STREAM_PATIENCE };
    let answer = async {
        let client = StreamClient::connect_tcp(call.to, source, MAX_ANSWER, patience).await?;
        client.call(request, patience).await
    };
    match answer.await {
        Ok(results) => Ok(Ok(results)),
        Err(CallError::Rejected(error)) => Ok(Err(error)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::rpc::fanout::farm::{Farm, Manner};
    use crate::rpc::fanout::sockets::MOST_LANES;
    use crate::rpc::fanout::target::{Call, News, Program};
    use crate::wire::nsm;
    use crate::wire::types::NsmState;

    const SOON: Duration = Duration::from_secs(20);
    const STATD: Program = Program { name: "statd", number: nsm::PROGRAM, versions: &[nsm::VERSION] };

    fn target(id: u32) -> Target {
        let notice = nsm::NotifyArgs { mon_name: CallerName::new("filer.example.org").unwrap(), state: NsmState(11) };
        let args = crate::wire::xdr::encode(&notice).into();
        let call = Call { name: "SM_NOTIFY", procedure: nsm::Procedure::Notify as u32, args, from: None };
        let host = Host::Addresses(vec![Ipv4Addr::from(0x7F10_0000 + id).into()]);
        Target { id, host, calls: vec![call] }
    }

    fn options(farm: &Farm, sockets: &Sockets) -> Options {
        let run = RunOptions {
            program: STATD,
            keep_on: true,
            rpcbind_port: farm.rpcbind_port,
            no_answer_after: SOON,
            has_address: |_| true,
            end: SOON,
        };
        Options { run, lanes: sockets.lanes.clone(), streams: 1, seed: 1 }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn small_receive_buffers_are_made_up_for_by_more_sockets() {
        let farm = Farm::start(Ipv4Addr::UNSPECIFIED.into(), |_| Manner::Healthy).await;
        let targets: Vec<_> = (0..2_000).map(target).collect();
        // As an unprivileged process has it where rmem_max was not raised.
        let sockets = Sockets::open(&targets, 106_496).unwrap();
        assert!(sockets.lanes.len() > 1 && sockets.lanes.len() <= MOST_LANES, "{:?}", sockets.lanes);
        assert!(sockets.lanes.iter().all(|lane| lane.window == 256), "{:?}", sockets.lanes);
        let options = options(&farm, &sockets);
        let (sender, mut receiver) = mpsc::channel(64);
        let driver = Driver::new(Fanout::new(Duration::ZERO, targets, options), sockets, Instant::now());
        let running = tokio::spawn(driver.run(sender));
        let mut acked = 0;
        while let Some(event) = tokio::time::timeout(SOON, receiver.recv()).await.expect("it ends") {
            if event.news == News::SentAgain {
                continue;
            }
            assert!(matches!(event.news, News::Answered { answered: 1, .. }), "{event:?}");
            acked += 1;
        }
        assert_eq!(acked, 2_000);
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_time_in_which_the_process_did_not_run_gives_nobody_up() {
        let farm = Farm::start(Ipv4Addr::UNSPECIFIED.into(), |_| Manner::Healthy).await;
        let targets = vec![target(1)];
        let sockets = Sockets::open(&targets, 106_496).unwrap();
        let options = options(&farm, &sockets);
        let (sender, mut receiver) = mpsc::channel(64);
        // It began, and was stopped for longer than all may last.
        let stopped = SOON * 3;
        let fanout = Fanout::new(Duration::ZERO, targets, options);
        let mut driver = Driver::new(fanout, sockets, Instant::now().checked_sub(stopped).unwrap());
        driver.not_run = stopped;
        let running = tokio::spawn(driver.run(sender));
        let event = tokio::time::timeout(SOON, receiver.recv()).await.expect("it ends").unwrap();
        assert!(matches!(event.news, News::Answered { .. }), "{event:?}");
        assert!(event.at >= stopped, "by the clock of who asked: {event:?}");
        running.await.unwrap().unwrap();
    }
}
