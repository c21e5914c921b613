//! Makes a plan from the operator's request and the observed state.

use super::checks::{InScope, chosen, grace, in_scope, mode, refuse_busy, refuse_own_mounts, refuse_what_begin_loses};
use super::summary::{consent, effects, fingerprint};
use super::{Observation, Plan, PlannedClient, Probed, Request};
use crate::report::{self, Failure, Probe, ScopeReport};
use crate::wire::control::{Capabilities, ClientRef, ClientRow, Policy, Scope, Silent, Unreachable};
use crate::wire::types::{Address, CallerName, NsmState};
use crate::wire::xdr::Maybe;

/// A plan that lacks only what the clients' statds say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    plan: Plan,
    states: Vec<NsmState>,
    capabilities: Capabilities,
    /// What the manager's own wishes for consent are about.
    cautions: Vec<&'static str>,
}

impl Draft {
    /// Checks the request against what was seen.
    ///
    /// # Errors
    /// Everything that forbids the run and can be seen before the probes.
    pub fn new(request: &Request, scope: Scope, seen: Observation<'_>) -> Result<Self, Failure> {
        let mode = mode(request, &scope, seen.info)?;
        let (grace, grace_max) = grace(request)?;
        refuse_busy(seen.status, &seen.info.capabilities, None)?;
        let chosen = chosen(request, &scope, &seen)?;
        refuse_own_mounts(request, &chosen, seen.mounts)?;

        let policy = Policy {
            unreachable: request.unreachable,
            silent: request.silent,
            include_unmonitored: request.include_unmonitored,
        };
        let all = in_scope(&chosen, &seen);
        let marked =
            |counts: &InScope| counts.monitored + if policy.include_unmonitored { counts.unmonitored } else { 0 };
        let knows_owners = seen.info.capabilities.knows_owners;
        // Those that `begin` will give: clients with a lock in scope and, unless files limit it, clients that
        // have a monitor record.
        let told = chosen
            .iter()
            .filter(|(row, counts)| marked(counts) > 0 || (row.monitored && scope.files.as_slice().is_empty()));
        let unanswered = unanswered(&policy, &scope, &seen.info.capabilities);
        let planned = |row, counts| planned(row, knows_owners.then(|| marked(counts)), unanswered);
        let (clients, states) = told.map(|(row, counts)| (planned(row, counts), row.nsm_state)).unzip();
        let names = if request.names.is_empty() { seen.info.names.as_slice().to_vec() } else { request.names.clone() };
        if names.is_empty() {
            return Err(Failure::usage(
                "the lock manager gives no name under which clients know this server",
                "give one with --name",
            ));
        }
        let plan = Plan {
            manager: seen.info.software.as_str().to_owned(),
            instance: seen.info.instance,
            nsm_state: seen.info.nsm_state,
            names,
            own_locks_lost: request.own_locks_lost,
            asked: ScopeReport {
                clients: request.clients.clone(),
                exports: request.exports.clone(),
                files: request.files.clone(),
            },
            scope,
            mode,
            policy,
            grace,
            grace_max,
            clients,
            in_scope: marked(&all),
            locks_listed: seen.info.capabilities.sees_locks(),
            begin_frees: seen.info.capabilities.begin_releases,
            unmonitored: all.unmonitored,
            may_drop: Vec::new(),
            consent: Vec::new(),
            caveats: report::caveats(seen.info),
            refusal: None,
            effects: Vec::new(),
            fingerprint: String::new(),
        };
        Ok(Self { plan, states, capabilities: seen.info.capabilities, cautions: Vec::new() })
    }

    /// What the manager itself adds: effects that users notice, other remarks, and what needs consent, each beside the word
    /// for what it is about.
    #[must_use]
    pub fn cautioned(mut self, felt: Vec<String>, said: Vec<String>, agreed_to: Vec<(&'static str, String)>) -> Self {
        self.plan.effects = felt;
        self.plan.caveats.extend(said);
        (self.cautions, self.plan.consent) = agreed_to.into_iter().unzip();
        self
    }

    /// The names that notices will carry, in order; never empty.
    pub fn names(&self) -> &[CallerName] {
        &self.plan.names
    }

    /// The clients whose statds to ask.
    pub fn clients(&self) -> &[PlannedClient] {
        &self.plan.clients
    }

    /// The plan, with what those statds said: one probe for each of [`clients`](Self::clients), in
    /// their order. What is missing counts as not asked.
    pub fn finish(self, probes: &[Probed]) -> Plan {
        let Self { mut plan, states, capabilities, cautions } = self;
        let missing = std::iter::repeat(Probed::Silent(Probe::NotAsked));
        let probes = probes.iter().copied().chain(missing);
        for ((client, locked_with), probed) in plan.clients.iter_mut().zip(states).zip(probes) {
            let suspicion;
            (client.probe, suspicion) = probed.beside(locked_with);
            client.suspicions.extend(suspicion);
        }
        if plan.policy.unreachable == Unreachable::Drop {
            plan.may_drop = plan
                .untellable()
                .into_iter()
                .map(|client| ClientRef {
                    name: Maybe(Some(client.name.clone())),
                    address: Maybe(client.addresses.first().copied().map(Address)),
                })
                .collect();
        }
        if capabilities.begin_releases {
            plan.refusal = refuse_what_begin_loses(&plan, &capabilities).err();
        }
        let said = std::mem::take(&mut plan.effects);
        plan.effects = effects(&plan, &capabilities, said);
        let wanted = consent(&plan, &capabilities);
        plan.consent.extend(wanted);
        plan.fingerprint = fingerprint(&plan, cautions);
        plan
    }
}

/// What happens to locks through a server address through which nothing is reclaimed.
fn unanswered(policy: &Policy, scope: &Scope, capabilities: &Capabilities) -> &'static str {
    let named = !scope.clients.as_slice().is_empty();
    match policy.silent {
        _ if capabilities.begin_releases => "locks that are not reclaimed through the others are lost",
        Silent::Drop => "locks that are not reclaimed through the others are dropped even so (--silent drop)",
        Silent::Auto if named => {
            "locks that are not reclaimed through the others are dropped even so (the scope names the client)"
        }
        Silent::Auto | Silent::Keep => "its locks through an address are kept if none of them is reclaimed",
    }
}

fn planned(row: &ClientRow, locks: Option<u64>, unanswered: &str) -> PlannedClient {
    let called = row.server_addresses.as_slice();
    let addresses = || called.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let note = (called.len() > 1 && locks != Some(0)).then(|| {
        format!(
            "it called {}; if these share a name, its statd may ack each notice and pass on only one; {unanswered}",
            addresses()
        )
    });
    PlannedClient {
        note,
        name: row.name.clone(),
        addresses: row.addresses.as_slice().iter().map(|a| a.0).collect(),
        server_addresses: row.server_addresses.as_slice().iter().map(|a| a.0).collect(),
        locks,
        probe: Probe::NotAsked,
        suspicions: row.suspicions.as_slice().iter().map(|s| s.as_str().to_owned()).collect(),
    }
}
