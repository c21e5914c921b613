//! Which client addresses rpc.statd watches (`--nsm statd`), and what it tells.
//!
//! An address is watched once statd said so *in this life*: a boot of the machine moves statd's
//! records away, so each is asked for again with the first lock taken after a start. A new lock waits
//! for that, and is refused without it. A reclaim waits for nlmd's own disk alone: its client forgets a
//! lock that is refused. The cookie is durable before statd gets it, and outlives restarts: news of a client that has not called since
//! still has its meaning.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;

use super::owner::{Done, Owner};
use super::records::NotRecorded;
use crate::host::StatdDir;
use crate::lockd::persist::{self, Change, Watch};
use crate::lockd::statd::Statd;
use crate::locks::Reboot;
use crate::wire::types::{CallerName, NsmState};

/// How often a statd is asked that does not watch: for about 15 minutes.
const ATTEMPTS: u32 = 20;
/// Between two times: doubles up to the second.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// This host's rpc.statd.
#[derive(Debug)]
pub struct StatdSetup {
    /// The way to it.
    pub statd: Statd,
    /// Where its state number is.
    pub state_file: StatdDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It was asked, by this life or one before; it may watch or not.
    Asked,
    Watched,
    /// SM_UNMON is under way: an SM_MON now could be overtaken by it.
    Leaving,
}

#[derive(Debug)]
pub(super) struct Watches {
    pub(super) statd: Statd,
    pub(super) state_file: StatdDir,
    by_address: HashMap<IpAddr, ([u8; 16], Stage)>,
    /// Asked for beside reclaims: not once more for each.
    beside: HashSet<IpAddr>,
}

impl Watches {
    pub(super) fn new(setup: StatdSetup, found: Vec<Watch>) -> Self {
        let by_address = found.into_iter().map(|watch| (watch.address, (watch.cookie, Stage::Asked))).collect();
        Self { statd: setup.statd, state_file: setup.state_file, by_address, beside: HashSet::new() }
    }

    fn is_watched(&self, address: IpAddr) -> bool {
        self.by_address.get(&address).is_some_and(|(_, stage)| *stage == Stage::Watched)
    }

    /// What has to be asked for, so that all of these addresses are watched; `None`: not now.
    pub(super) fn take_up(&mut self, addresses: &[IpAddr]) -> Option<Vec<Watch>> {
        let mut asked = Vec::new();
        for &address in addresses {
            match self.by_address.entry(address).or_insert_with(|| (rand::random(), Stage::Asked)) {
                (cookie, Stage::Asked) => asked.push(Watch { address, cookie: *cookie }),
                (_, Stage::Watched) => {}
                (_, Stage::Leaving) => return None,
            }
        }
        Some(asked)
    }

    pub(super) fn watched(&mut self, asked: &[Watch]) {
        for watch in asked {
            if let Some((_, stage @ Stage::Asked)) = self.by_address.get_mut(&watch.address) {
                *stage = Stage::Watched;
            }
        }
    }

    /// Whose cookie it is, if it comes with the address that it was given for.
    fn source(&self, name: &CallerName, cookie: [u8; 16]) -> Option<IpAddr> {
        let address: IpAddr = name.as_str().parse().ok()?;
        let (given, stage) = self.by_address.get(&address)?;
        (*given == cookie && *stage != Stage::Leaving).then_some(address)
    }
}

impl Owner {
    /// Whether a reboot at that address will be heard of, whoever the status monitor is.
    pub(super) fn hears_of(&self, address: IpAddr) -> bool {
        self.watches.as_ref().is_none_or(|watches| watches.is_watched(address))
    }

    /// Has these watched: each cookie is on disk before statd can call with it.
    pub(super) fn watching(&self, asked: Vec<Watch>) -> impl Future<Output = Result<(), NotRecorded>> + use<> {
        let submitted: Result<Vec<_>, _> =
            asked.iter().map(|watch| self.persist.submit(Change::Watch(*watch))).collect();
        let statd = self.watches.as_ref().map(|watches| watches.statd.clone());
        async move {
            for durable in submitted? {
                persist::durable(durable).await?;
            }
            if let Some(statd) = statd {
                for watch in asked {
                    statd.monitor(watch).await?;
                }
            }
            Ok(())
        }
    }

    /// Has an address watched while its reclaims are granted: those must not wait for a statd that
    /// is not there.
    pub(super) fn watch_beside(&mut self, address: IpAddr) {
        let Some(watches) = &mut self.watches else { return };
        let Some(asked) = watches.take_up(&[address]).filter(|asked| !asked.is_empty()) else { return };
        if !watches.beside.insert(address) {
            return;
        }
        let (statd, watching) = (watches.statd.clone(), self.watching(asked.clone()));
        self.work.spawn(async move {
            let mut outcome = watching.await;
            let [mut pause, longest] = PAUSES;
            for _ in 1..ATTEMPTS {
                let Err(NotRecorded::Statd(error)) = &outcome else { break };
                tracing::warn!(%address, %error, "a client reclaims, and its next reboot would not be heard of");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
                for watch in &asked {
                    outcome = statd.monitor(*watch).await.map_err(NotRecorded::from);
                }
            }
            Done::Watched { asked, outcome }
        });
    }

    pub(super) fn watched_beside(&mut self, asked: &[Watch], outcome: Result<(), NotRecorded>) {
        let Some(watches) = &mut self.watches else { return };
        for watch in asked {
            watches.beside.remove(&watch.address);
        }
        match outcome {
            Ok(()) => watches.watched(asked),
            Err(error) => {
                let addresses: Vec<_> = asked.iter().map(|watch| watch.address).collect();
                tracing::error!(?addresses, %error, "not watched: given up until the next lock or reclaim from there");
            }
        }
    }

    /// Those watched addresses at which no client is left need no watching.
    pub(super) fn leave_unused(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if !self.table.names_at(address).is_empty() {
                continue;
            }
            let Some(watches) = &mut self.watches else { return };
            let Some((_, stage)) = watches.by_address.get_mut(&address) else { continue };
            *stage = Stage::Leaving;
            let (statd, persist) = (watches.statd.clone(), self.persist.clone());
            self.work.spawn(async move {
                // At worst statd tells of a host that has nothing here.
                if let Err(error) = statd.unmonitor(address).await {
                    tracing::info!(%address, %error, "rpc.statd was not told to watch it no longer");
                }
                if let Err(error) = persist.write(Change::Unwatch(address)).await {
                    tracing::warn!(%address, %error, "its record of being watched was not removed");
                }
                Done::Left(address)
            });
        }
    }

    /// Those of a former life at which no client is left, but for those to keep.
    pub(super) fn leave_all_unused(&mut self, kept: &HashSet<IpAddr>) {
        let all = self.watches.iter().flat_map(|watches| watches.by_address.keys().copied());
        let addresses: Vec<_> = all.filter(|address| !kept.contains(address)).collect();
        self.leave_unused(addresses);
    }

    pub(super) fn left(&mut self, address: IpAddr) {
        if let Some(watches) = &mut self.watches {
            watches.by_address.remove(&address);
        }
    }

    /// rpc.statd says that a host has rebooted. It says which address it watched, not which name the
    /// notice had: where several clients share the address none of them can be taken for the one.
    pub(super) fn statd_calls(
        &mut self,
        name: &CallerName,
        state: NsmState,
        cookie: [u8; 16],
        answer: oneshot::Sender<Reboot>,
    ) {
        let Some(source) = self.watches.as_ref().and_then(|watches| watches.source(name, cookie)) else {
            tracing::warn!(%name, %state, "a statd's callback with a cookie that it was not given; nothing is released");
            let _ = answer.send(Reboot::Unknown);
            return;
        };
        let mut names = self.table.names_at(source);
        match (names.pop(), names.is_empty()) {
            (Some(only), true) => self.reboot(source, only, state, answer),
            (last, _) => {
                for name in names.iter().chain(&last) {
                    if let Some(client) = self.table.find(source, name) {
                        self.table.suspect(client, "rpc.statd tells of a reboot at the address that it shares");
                    }
                }
                let _ = answer.send(Reboot::Unknown);
            }
        }
    }
}
