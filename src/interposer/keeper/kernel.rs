//! The real platform: this host's lockd, read from kernel memory, with the packet rules and the filter in front of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::timeout;

use super::platform::{Gate, Platform};
use crate::host::{self, Machine};
use crate::interposer::announce;
use crate::interposer::child::Filter;
use crate::interposer::messages::{FilterEvent, Mode, Order};
use crate::interposer::proof;
use crate::interposer::rules::{Refreshed, Rules};
use crate::manager::Weight;
use crate::manager::adapter::run_files::{DriverLock, RunFiles};
use crate::manager::knfsd::owners::{HeldLock, LockdMemory, View};
use crate::manager::knfsd::port::lockd_ports;
use crate::manager::knfsd::single::WhyThere;
use crate::manager::knfsd::{Knfsd, STATE_DIR, obstacles, single};
use crate::wire::control::{ClientRow, InstanceId};
use crate::wire::types::{CallerName, NsmState};

/// Rules that are not refreshed for so long end. Until then lockd's packets wait or are dropped where no filter is.
const LAPSE: Duration = Duration::from_secs(20);
/// How long a filter may take until it works.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// How long an nlmctl that leaves just now is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Kernel {
    knfsd: Knfsd,
    machine: Machine,
    program: PathBuf,
    memory: Arc<Mutex<Option<LockdMemory>>>,
}

impl Kernel {
    /// `program` is nlmctl's own file: the filter is started from it.
    pub(super) fn new(program: &Path) -> Self {
        let (knfsd, machine) = (Knfsd::new(STATE_DIR, program), Machine::default());
        Self { knfsd, machine, program: program.into(), memory: Arc::default() }
    }
}

/// Work with files, off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("a thread died".to_owned()))
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[async_trait]
impl Platform for Kernel {
    async fn instance(&self) -> Result<InstanceId, String> {
        let knfsd = self.knfsd.clone();
        blocking(move || knfsd.grace_instance().map_err(words)).await
    }

    async fn names(&self) -> Result<Vec<CallerName>, String> {
        host::own_names(&[]).await.map_err(words)
    }

    fn addresses(&self) -> Result<BTreeSet<IpAddr>, String> {
        host::addresses().map_err(words)
    }

    async fn state(&self) -> Result<NsmState, String> {
        let knfsd = self.knfsd.clone();
        blocking(move || knfsd.state().map_err(words)).await
    }

    async fn raise_state(&self, last: NsmState) -> Result<NsmState, String> {
        let knfsd = self.knfsd.clone();
        blocking(move || knfsd.raise_state(last).map_err(words)).await
    }

    async fn monitored(&self) -> Result<Vec<ClientRow>, String> {
        self.knfsd.rows().await.map_err(words)
    }

    async fn view(&self) -> Result<View, String> {
        let (machine, memory) = (self.machine.clone(), Arc::clone(&self.memory));
        blocking(move || {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            // Where lockd was loaded anew, what was found before is another's memory by now.
            if let Some(view) = memory.as_ref().and_then(|known| known.look().ok()) {
                return Ok(view);
            }
            memory.insert(LockdMemory::find(&machine).map_err(words)?).look().map_err(words)
        })
        .await
    }

    async fn unlock(&self, view: &View, locks: Vec<HeldLock>) -> Vec<WhyThere> {
        single::unlock_all(&self.machine, view, locks).await
    }

    async fn gate(&self, seen: &View) -> Result<Box<dyn Gate>, String> {
        let in_the_way = obstacles::look(&self.machine, Some(seen)).await;
        if let Some(stop) = in_the_way.into_iter().find(|caution| caution.weight == Weight::Refuse) {
            return Err(format!("{}; {}", stop.text, stop.remedy));
        }
        let run_files = RunFiles::new(STATE_DIR);
        let driving = blocking(move || patient(|| run_files.try_drive().map_err(words))).await?;
        let driving = driving.ok_or("another nlmctl drives this lock manager")?;
        blocking(|| Rules::remove_left().map_err(words)).await?;
        let ports = BTreeSet::from_iter(lockd_ports().await?);
        // rpcbind may say otherwise than a moment ago.
        if let Some(stop) = obstacles::unseen(&seen.hosts, &ports) {
            return Err(format!("{}; {}", stop.text, stop.remedy));
        }
        let queue = self.machine.free_packet_queue(obstacles::FIRST_QUEUE).map_err(words)?;
        let mut filter = Filter::start(&self.program, queue).map_err(words)?;
        works(&mut filter).await?;
        let rules = Rules::install(&ports, queue, LAPSE).map_err(words)?;
        announce::began(std::process::id(), queue);
        Ok(Box::new(KernelGate { rules, filter, knfsd: self.knfsd.clone(), _driving: driving }))
    }

    async fn prove(&self, mode: Mode, seen: &View) -> Result<(), String> {
        proof::prove(&self.machine, mode, seen).await
    }
    fn log(&self, line: &str) {
        host::syslog(line);
    }
}

/// Tries until something is there that another nlmctl is about to let go of, for a few seconds. Blocks.
pub(super) fn patient<T>(mut attempt: impl FnMut() -> Result<Option<T>, String>) -> Result<Option<T>, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = attempt()?;
        if found.is_some() || Instant::now() >= until {
            return Ok(found);
        }
        std::thread::sleep(TRY_EVERY);
    }
}

/// Waits until the filter does, and lets everything pass.
async fn works(filter: &mut Filter) -> Result<(), String> {
    let answers = async {
        filter.send(&Order::Mode(Mode::Off)).await.map_err(words)?;
        filter.send(&Order::Answer(0)).await.map_err(words)?;
        loop {
            match filter.told().await {
                Some(FilterEvent::Obeyed(0)) => return Ok(()),
                Some(FilterEvent::Superseded(why)) => return Err(why.as_str().to_owned()),
                Some(_) => {}
                None => return Err("the filter ended at once".to_owned()),
            }
        }
    };
    let answered = timeout(STARTS_WITHIN, answers).await;
    answered.unwrap_or_else(|_| Err("the filter does not answer".to_owned()))
}

/// Rules and filter. The rules go first: without a filter nothing of lockd's would pass.
struct KernelGate {
    rules: Rules,
    filter: Filter,
    knfsd: Knfsd,
    _driving: DriverLock,
}

impl Drop for KernelGate {
    fn drop(&mut self) {
        let _ = self.knfsd.give_kernel_its_state();
        announce::ended(std::process::id());
    }
}

#[async_trait]
impl Gate for KernelGate {
    async fn order(&mut self, order: Order) -> Result<(), String> {
        self.filter.send(&order).await.map_err(words)
    }

    async fn told(&mut self) -> Option<FilterEvent> {
        self.filter.told().await
    }

    async fn restart(&mut self) -> Result<(), String> {
        self.filter.restart().await.map_err(words)
    }

    fn keep_rules(&mut self) -> Result<(), String> {
        match self.rules.refresh() {
            Ok(Refreshed::InTime) => Ok(()),
            Ok(Refreshed::Lapsed) => Err("they had lapsed".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
