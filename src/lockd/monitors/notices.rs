//! Notifies monitored hosts that this host was down.

use tokio::sync::mpsc;

use crate::lockd::persist::ToTell;
use crate::lockd::recovery;
use crate::lockd::table::Clock;
use crate::nsm::{self, Host, News, Notice, Target};
use crate::wire::types::{CallerName, NsmState};

/// What is told, and how.
pub(super) struct Order {
    pub(super) state: NsmState,
    pub(super) names: Vec<CallerName>,
    pub(super) rpcbind_port: u16,
    pub(super) clock: Clock,
}

/// A host knows this one by the name that the program gave, or by one of this server's own.
fn target((id, host): (u32, &ToTell), names: &[CallerName]) -> Target {
    let literal = host.my_name.as_str().parse::<std::net::IpAddr>().is_ok();
    let by_program = (!literal && !names.contains(&host.my_name)).then_some(&host.my_name);
    let notice = |name: &CallerName| Notice { from: None, name: name.clone() };
    Target {
        id,
        host: Host::Addresses(host.addresses.clone()),
        notices: by_program.into_iter().chain(names).map(notice).collect(),
    }
}

/// Tells them all; `told` gets each that acked all its notices.
pub(super) async fn tell(hosts: Vec<ToTell>, order: Order, told: mpsc::UnboundedSender<ToTell>) {
    let Order { state, names, rpcbind_port, clock } = order;
    tracing::info!(hosts = hosts.len(), %state, "notifying hosts that programs here monitored");
    let targets = (0..).zip(&hosts).map(|host| target(host, &names)).collect();
    let options = recovery::options(state, rpcbind_port, clock);
    let outcome = recovery::fan_out(targets, options, |event| {
        let Some(host) = hosts.get(event.id as usize) else { return };
        match event.news {
            News::Answered { answered, of, .. } if answered == of => {
                let _ = told.send(host.clone());
            }
            News::GivenUp { failure, error, last, .. } if last => {
                let error = error.unwrap_or_default();
                tracing::warn!(host = %host.mon_name, delivery = ?nsm::delivery(failure), error, "a host was not notified; it will be after the next boot or SM_SIMU_CRASH");
            }
            News::Answered { .. } | News::SentAgain | News::GivenUp { .. } => {}
        }
    });
    if let Err(error) = outcome.await {
        tracing::error!(%error, "hosts that programs here monitored are not notified");
    }
}
