//! The fan-out on real sockets: gives [`Fanout`] time, UDP sockets, the resolver and TCP.
//!
//! # Theory
//! One task owns the machine and its sockets, so nothing is locked. It goes round: take in
//! everything that has come (to the last datagram, before more is asked for), let time pass, hand
//! on events, send a burst. Names and TCP calls run in tasks of their own, few at a time, and only
//! hand their findings in: a resolver that hangs delays its own names and no datagram. Open files
//! are a handful of UDP sockets and at most [`STREAMS`] TCP connections, for any number of targets.
//! A full event channel makes events wait in the machine (it holds a few for each target), never sends.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::fanout::{Fanout, FanoutOptions, Job, Lane, Lookup, LookupError, StreamCall, Transmit};
use super::target::{FanoutEvent, Host, News, Target};
use crate::host::is_own_address;
use crate::rpc::client::{CallError, Request, Source, StreamClient};
use crate::rpc::udp::{Datagram, UdpEndpoint};
use crate::wire::control::Delivery;
use crate::wire::nsm;
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::types::{CallerName, NsmState};

/// The receive buffer that is asked for, in bytes.
const RECEIVE_BUFFER: usize = 16 << 20;
/// What the kernel charges a receive buffer for one answer, in bytes (measured on Linux).
const COST_OF_ANSWER: usize = 832;
/// With less than this window on IPv4, more sockets are opened.
const ENOUGH_WINDOW: usize = 2048;
/// Most sockets for IPv4.
const MOST_LANES: usize = 4;
/// Datagrams sent between two looks at what has come in.
const BURST: usize = 64;
/// Most TCP calls at a time.
const STREAMS: usize = 64;
/// Most names being resolved at a time: each takes a thread.
const LOOKUPS: usize = 32;
/// Longest wait for a place among [`LOOKUPS`], and then for the resolver. It goes on in its thread,
/// and keeps its place.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for a TCP connection, and for the answer on it.
const STREAM_PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer of a statd, in bytes.
const MAX_ANSWER: usize = 4096;
/// The wait before a datagram is offered again to a socket whose send buffer was full.
const SEND_AGAIN: Duration = Duration::from_millis(1);

/// How [`notify`] works.
#[derive(Debug, Clone)]
pub struct NotifyOptions {
    /// The port of the targets' rpcbind (111 outside tests and the demo).
    pub rpcbind_port: u16,
    /// The state number that every notice carries.
    pub state: NsmState,
    /// Where the clock starts on which `retry_until` and [`FanoutEvent::at`] are.
    pub epoch: Instant,
    /// When retries end, since `epoch`.
    pub retry_until: Duration,
    /// After how long without an ack a target is provisionally given up (10 s by statement 7).
    pub no_answer_after: Duration,
}

/// How [`probe`] works.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// The port of the targets' rpcbind (111 outside tests and the demo).
    pub rpcbind_port: u16,
    /// How long to wait, retransmitting, for all answers together.
    pub timeout: Duration,
    /// The name to ask SM_STAT about: one of this host's own.
    pub my_name: CallerName,
}

/// What a probe learned of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// [`Target::id`].
    pub id: u32,
    /// What was seen.
    pub outcome: ProbeOutcome,
    /// Details for people.
    pub error: Option<String>,
}

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Its statd answers; with its state number if SM_STAT does.
    Answered {
        /// The number.
        state: Option<NsmState>,
    },
    /// Nothing came in time.
    NoAnswer,
    /// Nothing could be sent to it: that says nothing about it.
    NotAsked,
    /// Its rpcbind knows no statd.
    NoStatd,
    /// Its name has no address.
    NameUnknown,
    /// Its host, rpcbind or statd refused the call.
    Refused,
}

/// Why a fan-out could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No socket.
    #[error("cannot open a UDP socket for notices: {0}; check the limit of open files (ulimit -n)")]
    Socket(#[source] io::Error),
    /// The socket failed.
    #[error("the UDP socket for notices failed: {0}")]
    Receive(#[source] io::Error),
}

/// Sends every target its notices, until each is acked or `retry_until` has come, and tells what it
/// learns through `events`. A full channel delays events, never sends. To cancel, drop the
/// receiver or this future: nothing is sent from then on.
pub async fn notify(
    targets: Vec<Target>,
    options: NotifyOptions,
    events: mpsc::Sender<FanoutEvent>,
) -> Result<(), DriverError> {
    let sockets = Sockets::open(&targets, RECEIVE_BUFFER)?;
    let fanout = FanoutOptions {
        job: Job::Notify { state: options.state },
        rpcbind_port: options.rpcbind_port,
        lanes: sockets.lanes.clone(),
        streams: STREAMS,
        no_answer_after: options.no_answer_after,
        end: options.retry_until,
        seed: rand::random(),
    };
    let sources: HashSet<IpAddr> = targets.iter().flat_map(|t| t.notices.iter().filter_map(|n| n.from)).collect();
    let mut driver = Driver::new(Fanout::new(options.epoch.elapsed(), targets, fanout), sockets, options.epoch);
    driver.foreign = sources.into_iter().filter(|&ip| !is_own_address(ip)).collect();
    driver.run(events).await
}

/// Asks every target's statd for its state number; results are in the order of `targets`.
pub async fn probe(targets: Vec<Target>, options: ProbeOptions) -> Result<Vec<ProbeResult>, DriverError> {
    let sockets = Sockets::open(&targets, RECEIVE_BUFFER)?;
    let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
    let fanout = FanoutOptions {
        job: Job::Probe { my_name: options.my_name },
        rpcbind_port: options.rpcbind_port,
        lanes: sockets.lanes.clone(),
        streams: STREAMS,
        no_answer_after: options.timeout,
        end: options.timeout,
        seed: rand::random(),
    };
    let fanout = Fanout::new(Duration::ZERO, targets, fanout);
    let (sender, mut receiver) = mpsc::channel::<FanoutEvent>(256);
    let gather = async {
        let mut found = HashMap::new();
        while let Some(event) = receiver.recv().await {
            if event.is_last() {
                found.insert(event.id, probed(event));
            }
        }
        found
    };
    let (ran, mut found) = tokio::join!(Driver::new(fanout, sockets, Instant::now()).run(sender), gather);
    ran?;
    let missing = |id| ProbeResult { id, outcome: ProbeOutcome::NotAsked, error: None };
    Ok(ids.into_iter().map(|id| found.remove(&id).unwrap_or_else(|| missing(id))).collect())
}

fn probed(event: FanoutEvent) -> ProbeResult {
    let (outcome, error) = match event.news {
        News::State(state) => (ProbeOutcome::Answered { state }, None),
        News::Acked { .. } => (ProbeOutcome::Answered { state: None }, None),
        // Never a last event.
        News::SentAgain => (ProbeOutcome::NoAnswer, None),
        News::GivenUp { delivery, error, .. } => {
            let outcome = match delivery {
                Delivery::NoStatd => ProbeOutcome::NoStatd,
                Delivery::NameUnknown => ProbeOutcome::NameUnknown,
                Delivery::Refused => ProbeOutcome::Refused,
                Delivery::NotTold => ProbeOutcome::NotAsked,
                Delivery::Acked | Delivery::Partial | Delivery::NoAnswer => ProbeOutcome::NoAnswer,
            };
            (outcome, error)
        }
    };
    ProbeResult { id: event.id, outcome, error }
}

/// The sockets of a fan-out, and what each has room for.
struct Sockets {
    endpoints: Vec<UdpEndpoint>,
    lanes: Vec<Lane>,
}

impl Sockets {
    /// Opens what the targets need. A name may turn out to have addresses of either family; a host
    /// without IPv6 does not fail for that. Each gets a receive buffer of `buffer` bytes, or what
    /// the kernel allows.
    fn open(targets: &[Target], buffer: usize) -> Result<Self, DriverError> {
        let (mut v4, mut v6) = (false, false);
        for target in targets {
            match &target.host {
                Host::Addresses(addresses) => {
                    v4 |= addresses.iter().any(IpAddr::is_ipv4);
                    v6 |= addresses.iter().any(IpAddr::is_ipv6);
                }
                Host::Name(name) => {
                    let address = name.parse::<IpAddr>().ok();
                    v4 |= address.is_none_or(|a| a.is_ipv4());
                    v6 |= address.is_none_or(|a| a.is_ipv6());
                }
            }
        }
        let mut sockets = Self { endpoints: Vec::new(), lanes: Vec::new() };
        let mut failed = None;
        if v4 {
            failed = sockets.add(Ipv4Addr::UNSPECIFIED.into(), buffer).err();
            while failed.is_none()
                && sockets.endpoints.len() < MOST_LANES
                && sockets.lanes.iter().map(|lane| lane.window).sum::<usize>() < ENOUGH_WINDOW
            {
                if sockets.add(Ipv4Addr::UNSPECIFIED.into(), buffer).is_err() {
                    break;
                }
            }
        }
        if v6 {
            failed = sockets.add(Ipv6Addr::UNSPECIFIED.into(), buffer).err().or(failed);
        }
        match failed {
            Some(error) if sockets.endpoints.is_empty() => Err(DriverError::Socket(error)),
            _ => Ok(sockets),
        }
    }

    fn add(&mut self, ip: IpAddr, buffer: usize) -> io::Result<()> {
        let endpoint = UdpEndpoint::bind_reserved(ip)?;
        endpoint.watch_refused()?;
        let room = endpoint.raise_receive_buffer(buffer);
        self.lanes.push(Lane { ipv6: ip.is_ipv6(), window: (room / COST_OF_ANSWER).max(1) });
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// Waits until one of them may have something.
    async fn readable(&self) -> io::Result<()> {
        let mut waits: Vec<Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>>> = Vec::new();
        for endpoint in &self.endpoints {
            waits.push(Box::pin(endpoint.readable()));
        }
        poll_fn(|context| {
            for wait in &mut waits {
                if let Poll::Ready(ready) = wait.as_mut().poll(context) {
                    return Poll::Ready(ready);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// What a task beside the machine found.
enum Finding {
    Addresses(u64, Result<Vec<IpAddr>, LookupError>),
    Stream(u64, Result<Result<Vec<u8>, RpcError>, String>),
}

struct Driver {
    fanout: Fanout,
    sockets: Sockets,
    epoch: Instant,
    findings: mpsc::Receiver<Finding>,
    finder: mpsc::Sender<Finding>,
    /// Aborted with the driver.
    tasks: JoinSet<()>,
    lookups: Arc<Semaphore>,
    inbox: Vec<Datagram>,
    /// Source addresses that this host does not have. What is sent from them is lost without an
    /// error, or with one that reads as if the receiver were to blame.
    foreign: HashSet<IpAddr>,
    /// Polled from the machine, not taken by its socket yet.
    unsent: Option<Transmit>,
}

impl Driver {
    fn new(fanout: Fanout, sockets: Sockets, epoch: Instant) -> Self {
        let (finder, findings) = mpsc::channel(STREAMS + LOOKUPS);
        Self {
            fanout,
            sockets,
            epoch,
            findings,
            finder,
            tasks: JoinSet::new(),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            inbox: Vec::new(),
            foreign: HashSet::new(),
            unsent: None,
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    async fn run(mut self, events: mpsc::Sender<FanoutEvent>) -> Result<(), DriverError> {
        loop {
            self.take_in()?;
            let now = self.now();
            self.fanout.handle_timeout(now);
            self.start_tasks(now);
            while self.fanout.has_events() {
                match events.try_reserve() {
                    Ok(place) => {
                        if let Some(event) = self.fanout.poll_event() {
                            place.send(event);
                        }
                    }
                    Err(mpsc::error::TrySendError::Full(())) => break,
                    Err(mpsc::error::TrySendError::Closed(())) => return Ok(()),
                }
            }
            if events.is_closed() || (self.fanout.is_done() && !self.fanout.has_events()) {
                return Ok(());
            }
            if self.send_burst() {
                // Also lets the runtime see which sockets have become readable.
                tokio::task::yield_now().await;
                continue;
            }
            self.wait(&events).await?;
        }
    }

    /// Everything that has come, to the last datagram.
    fn take_in(&mut self) -> Result<(), DriverError> {
        while let Ok(finding) = self.findings.try_recv() {
            self.hand_in(finding);
        }
        for (lane, endpoint) in self.sockets.endpoints.iter().enumerate() {
            loop {
                let came = endpoint.try_recv(&mut self.inbox, BURST).map_err(DriverError::Receive)?;
                let now = self.epoch.elapsed();
                for datagram in self.inbox.drain(..) {
                    self.fanout.handle_datagram(now, lane, datagram.peer, datagram.local_ip, &datagram.bytes);
                }
                if came == 0 {
                    break;
                }
            }
            for to in endpoint.take_refused() {
                self.fanout.handle_refused(self.epoch.elapsed(), to);
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
        for _ in 0..BURST {
            let now = self.now();
            let left = self.unsent.take().filter(|transmit| self.fanout.still_wants(transmit));
            let Some(transmit) = left.or_else(|| self.fanout.poll_transmit(now)) else { return false };
            let Some(endpoint) = self.sockets.endpoints.get(transmit.lane) else { continue };
            if let Some(from) = transmit.from.filter(|from| self.foreign.contains(from)) {
                if !is_own_address(from) {
                    self.fanout.handle_unsent(&transmit, &"this host does not have the address to send from");
                    continue;
                }
                // It has come back, as after a failover.
                self.foreign.remove(&from);
            }
            match endpoint.try_send(&transmit.bytes, transmit.to, transmit.from) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some(transmit);
                    return false;
                }
                // As good as lost on the way, and likely to fail again: people want to know why.
                Err(error) => self.fanout.handle_unsent(&transmit, &error),
                Ok(()) => {}
            }
        }
        true
    }

    async fn wait(&mut self, events: &mpsc::Sender<FanoutEvent>) -> Result<(), DriverError> {
        let timeout = self.fanout.next_timeout().map_or(Duration::MAX, |at| at.saturating_sub(self.now()));
        let nap = if self.unsent.is_some() { timeout.min(SEND_AGAIN) } else { timeout };
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

    fn start_tasks(&mut self, now: Duration) {
        while let Some(lookup) = self.fanout.poll_lookup() {
            self.tasks.spawn(look_up(lookup, self.lookups.clone(), self.finder.clone()));
        }
        while let Some(call) = self.fanout.poll_stream(now) {
            let finder = self.finder.clone();
            self.tasks.spawn(async move {
                let (token, went) = (call.token, call_over_tcp(call).await);
                // It fails only where the driver is gone.
                let _ = finder.send(Finding::Stream(token, went)).await;
            });
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Resolves a name. The resolver cannot be interrupted: after [`LOOKUP_PATIENCE`] it has given no
/// answer for now, and the thread's place is kept until it really ends. Names that wait as long for
/// a place are given back, to be tried later.
async fn look_up(lookup: Lookup, places: Arc<Semaphore>, finder: mpsc::Sender<Finding>) {
    let Ok(place) = tokio::time::timeout(LOOKUP_PATIENCE, places.acquire()).await else {
        let busy = LookupError::Unanswered("the resolver is busy with other names".to_owned());
        // It fails only where the driver is gone.
        let _ = finder.send(Finding::Addresses(lookup.token, Err(busy))).await;
        return;
    };
    let Ok(_place) = place else { return };
    let mut resolving = pin!(tokio::net::lookup_host((lookup.name.as_str(), 0)));
    let in_time = tokio::time::timeout(LOOKUP_PATIENCE, &mut resolving).await;
    let timed_out = in_time.is_err();
    let found = match in_time {
        Ok(Ok(sockets)) => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for socket in sockets {
                if !addresses.contains(&socket.ip()) {
                    addresses.push(socket.ip());
                }
            }
            Ok(addresses)
        }
        Ok(Err(error)) => Err(LookupError::Failed(error.to_string())),
        Err(_) => {
            let patience = LOOKUP_PATIENCE.as_secs();
            Err(LookupError::Unanswered(format!("the resolver gave no answer within {patience} s")))
        }
    };
    let _ = finder.send(Finding::Addresses(lookup.token, found)).await;
    if timed_out {
        let _ = resolving.await;
    }
}

async fn call_over_tcp(call: StreamCall) -> Result<Result<Vec<u8>, RpcError>, String> {
    // Any port will do: statd takes notices from all, and ports below 1024 are few.
    let source = Source { ip: call.from, reserved: false };
    let request = Request {
        program: nsm::PROGRAM,
        version: nsm::VERSION,
        procedure: call.procedure as u32,
        credential: &Credential::None,
        args: &call.args,
    };
    let answer = async {
        let client = StreamClient::connect_tcp(call.to, source, MAX_ANSWER, STREAM_PATIENCE).await?;
        client.call(request, STREAM_PATIENCE).await
    };
    match answer.await {
        Ok(results) => Ok(Ok(results)),
        Err(CallError::Rejected(error)) => Ok(Err(error)),
        Err(error) => Err(error.to_string()),
    }
}
