//! The listening sockets of the simulated hosts: one each for rpcbind, statd and the lock callback, bound
//! to the wildcard address, answering from the address that was asked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::{Behaviour, ClientNo, Notice};
use super::hosts::{FarmError, FarmState, NOTICES_KEPT};
use crate::rpc::arrivals::Arrivals;
use crate::rpc::server::{Limits, Origin, Peer, Service, serve_udp, shared_cache};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::rpc::{Answer, IncomingCall};
use crate::wire::rpcbind::{Mapping, UniversalAddress, universal_address};
use crate::wire::types::Transport;
use crate::wire::xdr::{decode, encode};
use crate::wire::{nlm, nsm, rpcbind};

pub(super) struct Listeners {
    rpcbind: UdpEndpoint,
    statd: UdpEndpoint,
    lockd: UdpEndpoint,
}

/// Where a host's programs are; the same on every host.
#[derive(Debug, Clone, Copy)]
struct Ports {
    statd: u16,
    lockd: u16,
}

/// What one call does: the answer, and when it goes out. No answer is a host that keeps silent.
struct Reaction {
    answer: Option<Answer>,
    after: Duration,
}

impl Reaction {
    const SILENCE: Self = Self { answer: None, after: Duration::ZERO };

    fn now(answer: Answer) -> Self {
        Self { answer: Some(answer), after: Duration::ZERO }
    }
}

/// One of the programs of every host.
#[derive(Debug, Clone, Copy)]
enum Program {
    Rpcbind(Ports),
    Statd,
    Lockd,
}

/// That program's service.
struct Ear {
    program: Program,
    shared: Arc<FarmState>,
}

#[async_trait]
impl Service for Ear {
    async fn call(&self, origin: &Origin, call: &IncomingCall<'_>) -> Option<Answer> {
        let IncomingCall { program, version, procedure, args, .. } = *call;
        // The sockets are IPv4 ones.
        let (IpAddr::V4(at), Peer::Inet(peer)) = (origin.local_ip, origin.peer) else { return None };
        let IpAddr::V4(source) = peer.ip() else { return None };
        let asked = Asked { at, source, version, procedure, args };
        let reaction = match self.program {
            Program::Rpcbind(ports) if program == rpcbind::PROGRAM => self.shared.asked_where(&asked, ports),
            Program::Statd if program == nsm::PROGRAM => self.shared.asked_statd(&asked),
            Program::Lockd if program == nlm::PROGRAM => self.shared.asked_lockd(&asked),
            Program::Rpcbind(_) | Program::Statd | Program::Lockd => Reaction::now(Answer::ProgUnavail),
        };
        sleep(reaction.after).await;
        reaction.answer
    }
}

/// A call at a host.
struct Asked<'a> {
    /// The address that was asked.
    at: Ipv4Addr,
    /// Who asks.
    source: Ipv4Addr,
    version: u32,
    procedure: u32,
    args: &'a [u8],
}

impl Listeners {
    pub(super) fn open() -> Result<Self, FarmError> {
        let open = |what| {
            UdpEndpoint::bind((Ipv4Addr::UNSPECIFIED, 0).into()).map_err(|source| FarmError::Socket { what, source })
        };
        Ok(Self { rpcbind: open("rpcbind")?, statd: open("statd")?, lockd: open("lock callback")? })
    }

    pub(super) fn rpcbind_port(&self) -> u16 {
        self.rpcbind.local_addr().port()
    }

    /// Starts a task for each socket. They end with the returned sender, or with the task set.
    pub(super) fn listen(self, shared: &Arc<FarmState>, tasks: &mut JoinSet<()>) -> watch::Sender<bool> {
        let (shutdown, watched) = watch::channel(false);
        let ports = Ports { statd: self.statd.local_addr().port(), lockd: self.lockd.local_addr().port() };
        for (endpoint, program) in
            [(self.rpcbind, Program::Rpcbind(ports)), (self.statd, Program::Statd), (self.lockd, Program::Lockd)]
        {
            endpoint.raise_buffers(BUFFER);
            let service = Arc::new(Ear { program, shared: Arc::clone(shared) });
            let cache = shared_cache();
            let (arrivals, watched) = (Arrivals::default(), watched.clone());
            let limits = Limits::default();
            tasks.spawn(async move {
                // It ends with an error only where the socket is broken; then the hosts are deaf,
                // which is what their peers will see.
                if let Err(error) = serve_udp(Arc::new(endpoint), service, cache, arrivals, limits, watched).await {
                    tracing::warn!(%error, "a socket of the simulated clients is broken");
                }
            });
        }
        shutdown
    }
}

/// Wanted for each socket: thousands of hosts are asked at the same time. The kernel gives what it may.
const BUFFER: usize = 8 << 20;

impl FarmState {
    /// rpcbind: where statd and lockd are (RFC 1833).
    fn asked_where(&self, call: &Asked<'_>, ports: Ports) -> Reaction {
        let hosts = self.hosts();
        let Some(host) = hosts.at(call.at).first().and_then(|who| hosts.get(*who)) else { return Reaction::SILENCE };
        if !host.behaviour.answers {
            return Reaction::SILENCE;
        }
        let port = |program| match program {
            nsm::PROGRAM if host.behaviour.has_statd => ports.statd,
            nlm::PROGRAM => ports.lockd,
            _ => 0,
        };
        Reaction::now(match (call.version, rpcbind::Procedure::from_number(call.procedure)) {
            (_, Some(rpcbind::Procedure::Null)) => Answer::Success(Vec::new()),
            (rpcbind::V2, Some(rpcbind::Procedure::Get)) => match decode::<Mapping>(call.args) {
                Ok(wanted) if wanted.protocol == Transport::Udp as u32 => {
                    Answer::Success(encode(&u32::from(port(wanted.program))))
                }
                Ok(_) => Answer::Success(encode(&0u32)),
                Err(_) => Answer::GarbageArgs,
            },
            (rpcbind::V3 | rpcbind::V4, Some(rpcbind::Procedure::Get)) => match decode::<rpcbind::Rpcb>(call.args) {
                Ok(wanted) => Answer::Success(encode(&match port(wanted.program) {
                    0 => UniversalAddress::default(),
                    port => universal_address((call.at, port).into()),
                })),
                Err(_) => Answer::GarbageArgs,
            },
            (rpcbind::V2..=rpcbind::V4, _) => Answer::ProcUnavail,
            _ => Answer::ProgMismatch { low: rpcbind::V2, high: rpcbind::V4 },
        })
    }

    /// statd: SM_STAT and SM_NOTIFY (XNFS chapter 11).
    fn asked_statd(&self, call: &Asked<'_>) -> Reaction {
        match nsm::Procedure::from_number(call.procedure) {
            Some(nsm::Procedure::Null) => Reaction::now(Answer::Success(Vec::new())),
            Some(nsm::Procedure::Stat) => {
                let hosts = self.hosts();
                match hosts.at(call.at).first().and_then(|who| hosts.get(*who)) {
                    Some(host) if host.behaviour.answers => Reaction::now(Answer::Success(encode(&nsm::StatRes {
                        res_stat: nsm::ResStat::Success,
                        state: host.state,
                    }))),
                    _ => Reaction::SILENCE,
                }
            }
            Some(nsm::Procedure::Notify) => match decode::<nsm::NotifyArgs>(call.args) {
                Ok(notice) => self.notified(call.at, call.source, &notice),
                Err(_) => Reaction::now(Answer::GarbageArgs),
            },
            _ => Reaction::now(Answer::ProcUnavail),
        }
    }

    /// Every host at the address hears the notice; the first one answers for all of them.
    fn notified(&self, at: Ipv4Addr, source: Ipv4Addr, notice: &nsm::NotifyArgs) -> Reaction {
        let mut hosts = self.hosts();
        let mounted = hosts.server_names.iter().any(|name| name.matches(&notice.mon_name));
        let mut reaction = Reaction::SILENCE;
        for who in hosts.at(at).to_vec() {
            let Some(host) = hosts.get_mut(who) else { continue };
            if !host.behaviour.answers {
                continue;
            }
            let reclaims = mounted && host.told(notice.state);
            let Behaviour { acks, acks_at_most, ack_after: after, .. } = host.behaviour;
            let acked = acks && host.acks < acks_at_most;
            if acked {
                host.acks += 1;
                reaction = Reaction { answer: Some(Answer::Success(Vec::new())), after };
            }
            if reclaims {
                // The receiver lives as long as the farm; without it no client is left to reclaim.
                let _ = self.queue.send(who);
            }
            if hosts.notices.len() < NOTICES_KEPT {
                let (name, state) = (notice.mon_name.clone(), notice.state);
                hosts.notices.push(Notice { client: who, name, state, source, acked });
            }
        }
        drop(hosts);
        self.changed.notify_waiters();
        reaction
    }

    /// lockd's callback: GRANTED to a lock that is waited for (XNFS chapter 10).
    fn asked_lockd(&self, call: &Asked<'_>) -> Reaction {
        match nlm::Procedure::from_number(nlm::Version::V4, call.procedure) {
            Some(nlm::Procedure::Null) => Reaction::now(Answer::Success(Vec::new())),
            Some(nlm::Procedure::Granted) => match decode::<nlm::TestArgs>(call.args) {
                Ok(granted) => self.granted(call.at, granted),
                Err(_) => Reaction::now(Answer::GarbageArgs),
            },
            _ => Reaction::now(Answer::ProcUnavail),
        }
    }

    fn granted(&self, at: Ipv4Addr, granted: nlm::TestArgs) -> Reaction {
        let mut hosts = self.hosts();
        let at: Vec<ClientNo> = hosts.at(at).to_vec();
        let mut answers = false;
        let mut stat = nlm::Stat::Denied;
        for who in at {
            let Some(host) = hosts.get_mut(who) else { continue };
            if !host.behaviour.answers {
                continue;
            }
            answers = true;
            if host.behaviour.takes_grants && host.take_grant(&granted) {
                stat = nlm::Stat::Granted;
            }
        }
        drop(hosts);
        self.changed.notify_waiters();
        if !answers {
            return Reaction::SILENCE;
        }
        Reaction::now(Answer::Success(encode(&nlm::Res { cookie: granted.cookie, stat })))
    }
}
