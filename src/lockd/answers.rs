//! Answers of the asynchronous procedures: `_RES` calls to a client's lockd.
//!
//! # Theory
//! A `_RES` is sent once and nothing is waited for: BSD, Apple and Solaris lockds never reply to it, and a
//! client whose answer is lost sends its `_MSG` again. Over UDP it leaves from the listening socket of NLM,
//! with the address that the client called, since Apple's lockd takes it from nowhere else. A reply to it
//! comes to that socket too, where the server ignores what is no call.
//!
//! The answers to one client stand in a line of their own ([`Outbox`]), which one task works off. The task asks
//! the client's rpcbind for the port, sends what waits and what comes within [`LIFE`], and ends: the
//! next answer begins a new line, and asks again, because a client that rebooted has another port.
//!
//! What must hold:
//! - Answers take no turn of GRANTED: a client that is flooded with them, or whose rpcbind is silent, delays
//!   no other client's grant. Their look-ups have turns of their own ([`LOOK_UPS`]).
//! - What waits is bounded, in all and for each client. One more is dropped, with a warning now and then.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::callbacks::Callbacks;
use crate::locks::Via;
use crate::rpc::client::{CallError, Request, Source, StreamClient, UdpSender};
use crate::rpc::program::Listener;
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nlm::{self, Procedure};
use crate::wire::types::Transport;

/// Answers that wait: in all, and of one line. A client may send a thousand calls in the second that its
/// rpcbind takes to answer.
const WAITING: usize = 32_768;
const WAITING_IN_LINE: usize = 2_048;
/// Lines at once, each a task of its own: beyond them an answer is dropped. And rpcbinds asked at once, as many as GRANTED
/// has turns: an answer beyond waits in its line.
const LINES: usize = 4_096;
const LOOK_UPS: usize = 256;
/// How long a port that was learned is good for.
const LIFE: Duration = Duration::from_secs(1);
/// Patience with a TCP connection: until it is there, and until it has taken what was written.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest reply that is read (and ignored) from a TCP connection.
const MAX_REPLY: usize = 4096;
/// Between two warnings of dropped answers.
const WARN_EVERY: Duration = Duration::from_mins(1);

#[derive(Debug, Clone)]
pub struct Answers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    callbacks: Callbacks,
    /// On the sockets that NLM is served on.
    senders: Vec<UdpSender>,
    lines: Mutex<HashMap<Outbox, mpsc::Sender<Waiting>>>,
    room: Arc<Semaphore>,
    look_ups: Semaphore,
    dropped: Mutex<Dropped>,
}

/// The answers that share a port: those to one client, called back the way it called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Outbox {
    client: IpAddr,
    via: Via,
}

#[derive(Debug)]
struct Waiting {
    procedure: Procedure,
    args: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// Answers dropped since the last warning.
#[derive(Debug, Default)]
struct Dropped {
    count: u64,
    warned: Option<Instant>,
}

impl Answers {
    /// Sends from `listening`, the sockets of NLM over UDP; `callbacks` finds the clients' lockds.
    pub(super) fn new(callbacks: Callbacks, listening: &[Arc<UdpEndpoint>]) -> Self {
        let shared = Shared {
            callbacks,
            senders: listening.iter().cloned().map(UdpSender::new).collect(),
            lines: Mutex::default(),
            room: Arc::new(Semaphore::new(WAITING)),
            look_ups: Semaphore::new(LOOK_UPS),
            dropped: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sends an answer soon, or drops it. Wants a tokio runtime.
    pub(super) fn send(&self, client: IpAddr, via: Via, procedure: Procedure, args: Vec<u8>) {
        let line = Outbox { client, via };
        let put = Arc::clone(&self.shared.room).try_acquire_owned().is_ok_and(|room| {
            let waiting = Waiting { procedure, args, _room: room };
            self.put(line, waiting)
        });
        if !put {
            self.shared.dropped(line, procedure);
        }
    }

    /// False: there is no room.
    fn put(&self, line: Outbox, mut waiting: Waiting) -> bool {
        let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = lines.get(&line) {
            match queue.try_send(waiting) {
                Ok(()) => return true,
                Err(TrySendError::Full(_)) => return false,
                // Its task panicked; another one takes its place.
                Err(TrySendError::Closed(back)) => waiting = back,
            }
        } else if lines.len() >= LINES {
            return false;
        }
        let (sender, queue) = mpsc::channel(WAITING_IN_LINE);
        let put = sender.try_send(waiting).is_ok();
        lines.insert(line, sender);
        tokio::spawn(work_off(Arc::clone(&self.shared), line, queue));
        put
    }
}

/// Works a line off.
async fn work_off(shared: Arc<Shared>, line: Outbox, mut queue: mpsc::Receiver<Waiting>) {
    let way = shared.way_to(line).await;
    let end = Instant::now() + LIFE;
    let mut sent = Ok(());
    if let Ok(way) = &way {
        while let (true, Ok(Some(waiting))) = (sent.is_ok(), timeout_at(end, queue.recv()).await) {
            sent = shared.send(way, line, waiting).await;
        }
    }
    // From here on an answer begins a new line; those that came before are in the queue.
    shared.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(&line);
    if let Ok(way) = &way {
        while let (true, Ok(waiting)) = (sent.is_ok(), queue.try_recv()) {
            sent = shared.send(way, line, waiting).await;
        }
    }
    if let Err(error) = way.as_ref().map(drop).and(sent.as_ref().map(drop)) {
        tracing::debug!(client = %line.client, %error, "answers were not sent");
    }
    if let Ok(Way::Tcp(_)) = way {
        // Closed at once, the connection would lose what is not yet written.
        sleep(PATIENCE).await;
    }
}

/// How the answers of a line travel.
enum Way<'a> {
    Udp(&'a UdpSender, Listener),
    Tcp(StreamClient),
}

impl Shared {
    async fn way_to(&self, Outbox { client, via }: Outbox) -> Result<Way<'_>, CallError> {
        let listener = {
            let _turn = self.look_ups.acquire().await.map_err(|_| CallError::TimedOut)?;
            self.callbacks.find_lockd(client, via).await?
        };
        match listener.transport {
            Transport::Udp => {
                let sender = self.sender_at(via.server_address).ok_or(CallError::NotThere)?;
                Ok(Way::Udp(sender, listener))
            }
            Transport::Tcp => {
                let source = Source { ip: Some(via.server_address), reserved: true };
                let stream = StreamClient::connect_tcp(listener.address, source, MAX_REPLY, PATIENCE).await?;
                Ok(Way::Tcp(stream))
            }
        }
    }

    /// The listening socket that the address belongs to: its own, or the wildcard's of its family.
    fn sender_at(&self, address: IpAddr) -> Option<&UdpSender> {
        let bound_to = |wanted: &dyn Fn(IpAddr) -> bool| {
            self.senders.iter().find(|sender| wanted(sender.endpoint().local_addr().ip()))
        };
        bound_to(&|ip| ip == address)
            .or_else(|| bound_to(&|ip| ip.is_unspecified() && ip.is_ipv4() == address.is_ipv4()))
    }

    async fn send(&self, way: &Way<'_>, line: Outbox, waiting: Waiting) -> Result<(), CallError> {
        let request = Request {
            program: nlm::PROGRAM,
            version: line.via.version,
            procedure: waiting.procedure.number(),
            credential: self.callbacks.credential(),
            args: &waiting.args,
        };
        match way {
            Way::Udp(sender, listener) => {
                // The next one may be sent, and of this one the client sends its request again.
                if let Err(error) = sender.cast(listener.address, line.via.server_address, request).await {
                    tracing::debug!(client = %line.client, %error, "an answer was not sent");
                }
                Ok(())
            }
            Way::Tcp(stream) => stream.cast(request, PATIENCE).await,
        }
    }

    fn dropped(&self, Outbox { client, .. }: Outbox, procedure: Procedure) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.count += 1;
        if dropped.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        tracing::warn!(
            %client,
            ?procedure,
            dropped = dropped.count,
            "too many answers to asynchronous calls wait; one is dropped, and its client must ask again"
        );
        *dropped = Dropped { count: 0, warned: Some(Instant::now()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_for_a_silent_rpcbind_is_bounded_and_given_up_with_the_look_up() {
        let silent = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let answers = Answers::new(Callbacks::new(silent.local_addr().port(), "server").unwrap(), &[]);
        let here = IpAddr::from([127, 0, 0, 1]);
        let via = Via { server_address: here, transport: Transport::Udp, version: 3 };
        for _ in 0..WAITING_IN_LINE + 3 {
            answers.send(here, via, Procedure::LockRes, Vec::new());
        }
        assert_eq!(answers.shared.room.available_permits(), WAITING - WAITING_IN_LINE);
        assert_eq!(answers.shared.dropped.lock().unwrap().count, 2, "the first of three was warned of");
        while answers.shared.room.available_permits() < WAITING {
            sleep(Duration::from_millis(20)).await;
        }
        assert!(answers.shared.lines.lock().unwrap().is_empty());
    }
}
