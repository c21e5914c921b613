//! The keeper's link to the filter: standing orders, and events that are not taken into account yet.
//!
//! While the keeper waits for anything, it waits in [`FilterLink::meanwhile`], so that the filter never waits for the keeper. A filter
//! that dies is replaced, and the new one is told all that stands. The filter is asked every second whether it is there: what
//! it did not hear, or heard late, does not count against clients.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::platform::Gate;
use crate::interposer::messages::{Claim, FilterEvent, Mode, Order};
use crate::wire::types::Address;

/// How long the filter may take to obey.
const OBEYS_WITHIN: Duration = Duration::from_secs(10);
/// Between two times that the rules' life is lengthened.
const KEEP_RULES_EVERY: Duration = Duration::from_secs(1);
/// A filter that has not answered for so long stood still: clients repeat their calls later than usual by then.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// Most events that wait to be taken into account. Beyond it the filter waits, and packets wait in the kernel.
const MOST_HEARD: usize = 100_000;
/// Filters that are started in place of others before that is given up.
const MOST_FILTERS: u32 = 8;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large kind")]
pub(super) enum LinkEvent {
    /// The filter told this.
    FilterEvent(FilterEvent),
    /// Another filter took the place of one that died.
    NewFilter,
    /// The filter stood still until now, or packets did not reach it.
    StoodStill,
}

pub(super) struct FilterLink {
    gate: Box<dyn Gate>,
    heard: VecDeque<LinkEvent>,
    mode: Mode,
    pending: HashSet<Claim>,
    waiters: HashSet<Claim>,
    held: BTreeSet<Address>,
    asked: u64,
    obeyed: u64,
    /// The order to answer that tells whether the filter is there, until it is answered.
    open: Option<(u64, Instant)>,
    filters: u32,
    rules_kept: Instant,
    superseded: Option<String>,
}

impl fmt::Debug for FilterLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterLink")
            .field("mode", &self.mode)
            .field("superseded", &self.superseded)
            .finish_non_exhaustive()
    }
}

impl FilterLink {
    pub(super) fn new(gate: Box<dyn Gate>) -> Self {
        Self {
            gate,
            heard: VecDeque::new(),
            mode: Mode::Off,
            pending: HashSet::new(),
            waiters: HashSet::new(),
            held: BTreeSet::new(),
            asked: 0,
            obeyed: 0,
            open: None,
            filters: 1,
            rules_kept: Instant::now(),
            superseded: None,
        }
    }

    /// Why grace in front of lockd cannot go on.
    pub(super) fn superseded(&self) -> Option<&str> {
        self.superseded.as_deref()
    }

    fn supersede(&mut self, why: String) {
        self.superseded.get_or_insert(why);
    }

    /// What was heard since this was asked last.
    pub(super) fn heard(&mut self) -> VecDeque<LinkEvent> {
        std::mem::take(&mut self.heard)
    }

    /// Gives an order, which stands for filters to come too.
    pub(super) async fn order(&mut self, order: Order) {
        match &order {
            Order::Mode(mode) => self.mode = *mode,
            Order::Pending(claim) => drop(self.pending.insert(claim.clone())),
            Order::NotPending(claim) => drop(self.pending.remove(claim)),
            Order::Waiter(claim) => drop(self.waiters.insert(claim.clone())),
            Order::Hold(client) => drop(self.held.insert(*client)),
            Order::LetGo(client) => drop(self.held.remove(client)),
            Order::Answer(_) => {}
        }
        // A filter that cannot be written to has died, and that is heard when all that it told was read.
        let _ = self.gate.order(order).await;
    }

    /// What stood for a former run does not for the next one.
    pub(super) async fn forget_claims(&mut self) {
        self.waiters.clear();
        for claim in std::mem::take(&mut self.pending) {
            let _ = self.gate.order(Order::NotPending(claim)).await;
        }
    }

    /// Waits for something that the filter tells. The caller may stop waiting.
    pub(super) async fn listen(&mut self) -> Option<FilterEvent> {
        self.gate.told().await
    }

    /// Takes what was listened to. None: the filter has died, and another one is started.
    pub(super) async fn take(&mut self, told: Option<FilterEvent>) {
        match told {
            Some(FilterEvent::Obeyed(number)) => self.has_obeyed(number),
            Some(FilterEvent::Superseded(why)) => self.supersede(why.as_str().to_owned()),
            Some(FilterEvent::Lost) => self.heard.push_back(LinkEvent::StoodStill),
            Some(told) => self.heard.push_back(LinkEvent::FilterEvent(told)),
            None => self.replace().await,
        }
    }

    fn has_obeyed(&mut self, number: u64) {
        self.obeyed = self.obeyed.max(number);
        if let Some((_, asked)) = self.open.take_if(|(open, _)| *open <= number)
            && asked.elapsed() > STOOD_STILL
        {
            self.heard.push_back(LinkEvent::StoodStill);
        }
    }

    async fn replace(&mut self) {
        self.filters += 1;
        self.open = None;
        if self.filters > MOST_FILTERS {
            return self.supersede("filters die again and again".to_owned());
        }
        if let Err(error) = self.gate.restart().await {
            return self.supersede(format!("the filter died, and another one cannot be started: {error}"));
        }
        self.heard.push_back(LinkEvent::NewFilter);
        // First what stands, then the mode by which it counts: the filter takes no packet before it.
        let claims = self.pending.iter().cloned().map(Order::Pending);
        let waiters = self.waiters.iter().cloned().map(Order::Waiter);
        let held = self.held.iter().copied().map(Order::Hold);
        let orders: Vec<Order> = held.chain(claims).chain(waiters).chain([Order::Mode(self.mode)]).collect();
        for order in orders {
            let _ = self.gate.order(order).await;
        }
    }

    /// Asks the filter for an answer; gives its number.
    async fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.open.get_or_insert((self.asked, Instant::now()));
        let _ = self.gate.order(Order::Answer(self.asked)).await;
        self.asked
    }

    /// Keeps the rules, and sees whether the filter is there. To be called often.
    pub(super) async fn keep_up(&mut self) {
        if self.rules_kept.elapsed() < KEEP_RULES_EVERY {
            return;
        }
        self.keep_rules();
        if self.open.is_none() {
            self.ask().await;
        }
    }

    fn keep_rules(&mut self) {
        self.rules_kept = Instant::now();
        if let Err(error) = self.gate.keep_rules() {
            self.supersede(format!("the packet filter rules are gone, and calls passed unseen: {error}"));
        }
    }

    /// Whether all that came until now has passed the filter, and is heard.
    ///
    /// # Errors
    /// Something may have passed it by, or it does not answer.
    pub(super) async fn stood_until_now(&mut self) -> Result<(), String> {
        self.keep_rules();
        self.all_obeyed().await?;
        self.superseded.clone().map_or(Ok(()), Err)
    }

    /// Waits for the work, and meanwhile hears the filter. The work may need the filter itself.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.wait_and_hear(work, usize::MAX).await
    }

    /// The same where the work is to look only: then the filter is not heard without a bound.
    pub(super) async fn meanwhile_looking<T>(&mut self, look: impl Future<Output = T>) -> T {
        self.wait_and_hear(look, MOST_HEARD).await
    }

    async fn wait_and_hear<T>(&mut self, work: impl Future<Output = T>, most: usize) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                told = self.gate.told(), if self.superseded.is_none() && self.heard.len() < most => self.take(told).await,
                () = tokio::time::sleep(KEEP_RULES_EVERY) => {}
            }
            self.keep_up().await;
        }
    }

    /// Waits until the filter has obeyed all orders: what it told before then is heard.
    ///
    /// # Errors
    /// It does not, or nothing can be ordered any more.
    pub(super) async fn all_obeyed(&mut self) -> Result<(), String> {
        let obeyed = async {
            let (mut number, mut filters) = (self.ask().await, self.filters);
            while self.obeyed < number {
                if let Some(why) = &self.superseded {
                    return Err(why.clone());
                }
                if filters != self.filters {
                    filters = self.filters;
                    number = self.ask().await;
                }
                let told = self.gate.told().await;
                self.take(told).await;
                self.keep_up().await;
            }
            Ok(())
        };
        match timeout(OBEYS_WITHIN, obeyed).await {
            Ok(done) => done,
            Err(_) => Err(format!("the filter did not answer within {} s", OBEYS_WITHIN.as_secs())),
        }
    }
}
