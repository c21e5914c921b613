//! The client addresses that rpc.statd watches (`--nsm statd`), and its notices.
//!
//! An address is watched once statd said so *in this life*: a boot of the machine moves statd's
//! records away, so each is asked for again with the first lock taken after a start. A new lock waits
//! for that, and is refused without it. A reclaim waits for nlmd's own disk alone: its client forgets a
//! lock that is refused. The cookie is durable before statd gets it, and outlives restarts: news of a
//! client that has not called since still has its meaning.
//!
//! Where nlmd is the status monitor itself nothing is watched, and every reboot is heard of.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;

use super::records::{NotRecorded, Recorded};
use crate::host::{self, StatdDir};
use crate::lockd::persist::{self, Change, Persist, Watch};
use crate::lockd::statd::Statd;
use crate::wire::types::CallerName;

/// How often a statd is asked that does not watch: for about 15 minutes.
const ATTEMPTS: u32 = 20;
/// Between two times: doubles up to the second.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// This host's rpc.statd.
#[derive(Debug)]
pub struct StatdSetup {
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
    statd: Option<Statd>,
    pub(super) state_file: Option<StatdDir>,
    by_address: HashMap<IpAddr, ([u8; 16], Stage)>,
    /// Asked for beside reclaims: not once more for each, and no longer once its sender is gone.
    beside: HashMap<IpAddr, oneshot::Sender<()>>,
}

impl Watches {
    pub(super) fn new(setup: Option<StatdSetup>, found: Vec<Watch>) -> Self {
        let found = if setup.is_some() { found } else { Vec::new() };
        let by_address = found.into_iter().map(|watch| (watch.address, (watch.cookie, Stage::Asked))).collect();
        let (statd, state_file) = setup.map(|setup| (setup.statd, setup.state_file)).unzip();
        Self { statd, state_file, by_address, beside: HashMap::new() }
    }

    /// Whether a reboot at that address will be heard of, with either status monitor.
    pub(super) fn hears_of(&self, address: IpAddr) -> bool {
        self.statd.is_none() || self.by_address.get(&address).is_some_and(|(_, stage)| *stage == Stage::Watched)
    }

    /// What has to be asked for, so that all of these addresses are watched; `None`: not now.
    pub(super) fn take_up(&mut self, addresses: &[IpAddr]) -> Option<Vec<Watch>> {
        let mut asked = Vec::new();
        for &address in addresses.iter().filter(|_| self.statd.is_some()) {
            match self.by_address.entry(address).or_insert_with(|| (rand::random(), Stage::Asked)) {
                (cookie, Stage::Asked) => asked.push(Watch { address, cookie: *cookie }),
                (_, Stage::Watched) => {}
                (_, Stage::Leaving) => return None,
            }
        }
        Some(asked)
    }

    /// Has these watched: each cookie is on disk before statd can call with it.
    pub(super) fn watch(&self, persist: &Persist, asked: Vec<Watch>) -> impl Future<Output = Recorded> + use<> {
        let submitted: Result<Vec<_>, _> = asked.iter().map(|watch| persist.submit(Change::Watch(*watch))).collect();
        let statd = self.statd.clone();
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

    pub(super) fn watched(&mut self, asked: &[Watch]) {
        for watch in asked {
            if let Some((cookie, stage @ Stage::Asked)) = self.by_address.get_mut(&watch.address)
                && *cookie == watch.cookie
            {
                *stage = Stage::Watched;
            }
        }
    }

    /// Has an address watched while its reclaims are granted: those must not wait for a statd that
    /// is not there. The outcome is for [`watched_beside`](Self::watched_beside); there is none where it was left meanwhile.
    pub(super) fn watch_beside(
        &mut self,
        persist: &Persist,
        address: IpAddr,
    ) -> Option<impl Future<Output = Option<(Watch, Recorded)>> + use<>> {
        let asked = self.take_up(&[address])?.pop()?;
        let statd = self.statd.clone()?;
        if self.beside.contains_key(&address) {
            return None;
        }
        let (stop, stopped) = oneshot::channel::<()>();
        self.beside.insert(address, stop);
        let watching = self.watch(persist, vec![asked]);
        let watched = async move {
            let mut outcome = watching.await;
            let [mut pause, longest] = PAUSES;
            for _ in 1..ATTEMPTS {
                let Err(NotRecorded::Statd(error)) = &outcome else { break };
                tracing::warn!(%address, %error, "a client reclaims, and its next reboot would not be heard of");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
                outcome = statd.monitor(asked).await.map_err(NotRecorded::from);
            }
            (asked, outcome)
        };
        Some(async move {
            tokio::select! {
                biased;
                _ = stopped => None,
                watched = watched => Some(watched),
            }
        })
    }

    pub(super) fn watched_beside(&mut self, asked: Watch, outcome: Recorded) {
        let address = asked.address;
        self.beside.remove(&address);
        match outcome {
            Ok(()) => self.watched(&[asked]),
            Err(error) => {
                tracing::error!(%address, %error, "not watched: given up until the next lock or reclaim from there");
            }
        }
    }

    /// Has statd watch an address no longer; [`left`](Self::left) after that.
    pub(super) fn leave(&mut self, persist: &Persist, address: IpAddr) -> Option<impl Future<Output = ()> + use<>> {
        let (statd, persist) = (self.statd.clone()?, persist.clone());
        self.by_address.get_mut(&address)?.1 = Stage::Leaving;
        // Asked for once more, statd would have this cookie in place of the next one.
        self.beside.remove(&address);
        Some(async move {
            // At worst statd tells of a host that has nothing here.
            if let Err(error) = statd.unmonitor(address).await {
                tracing::info!(%address, %error, "rpc.statd was not told to stop watching it");
            }
            if let Err(error) = persist.write(Change::Unwatch(address)).await {
                tracing::warn!(%address, %error, "its record of being watched was not removed");
            }
        })
    }

    pub(super) fn left(&mut self, address: IpAddr) {
        self.by_address.remove(&address);
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// Whose cookie it is, if it comes with the address that it was given for.
    pub(super) fn source(&self, name: &CallerName, cookie: [u8; 16]) -> Option<IpAddr> {
        let address = host::address(name.as_str()).ok()?;
        let (given, stage) = self.by_address.get(&address)?;
        (*given == cookie && *stage != Stage::Leaving).then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_left_is_not_asked_for_any_more() {
        let (folder, address) = (tempfile::tempdir().unwrap(), "127.0.0.9".parse().unwrap());
        std::fs::create_dir(folder.path().join("sm")).unwrap();
        let state_file = StatdDir::find(&host::Machine::default(), Some(folder.path())).unwrap();
        let statd = Statd::new(1, CallerName::new("server").unwrap()).unwrap();
        let mut watches = Watches::new(Some(StatdSetup { statd, state_file }), Vec::new());
        let (persist, mut disk) = Persist::scripted();
        let watching = tokio::spawn(watches.watch_beside(&persist, address).unwrap());
        disk.recv().await.unwrap().1.send(Ok(())).unwrap();
        assert!(watches.watch_beside(&persist, address).is_none(), "it is asked for");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!watching.is_finished(), "no statd is there, and it is asked again");
        let _leaving = watches.leave(&persist, address).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(10), watching).await.expect("it ends").unwrap();
        assert!(ended.is_none());
        watches.left(address);
        assert!(watches.watch_beside(&persist, address).is_some());
    }
}
