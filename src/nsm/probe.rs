//! SM_STAT to every target's statd.

use std::time::Duration;

use super::target::{STATD, Target};
use crate::rpc::fanout::{self, Call, DriverError, Failure, Outcome};
use crate::wire::nsm::{Procedure, SmName, StatRes};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{decode, encode};

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

/// Asks every target's statd for its state number; results are in the order of `targets`.
pub async fn probe(targets: Vec<Target>, options: ProbeOptions) -> Result<Vec<ProbeResult>, DriverError> {
    let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
    let calls = questions(&options.my_name);
    let targets = targets.into_iter().map(|Target { id, host, .. }| fanout::Target { id, host, calls: calls.clone() });
    let outcomes = fanout::ask(targets.collect(), STATD, options.rpcbind_port, options.timeout).await?;
    Ok(ids.into_iter().zip(outcomes).map(|(id, outcome)| probed(id, outcome)).collect())
}

/// Is somebody there, and with which state number? Some statds refuse the second question.
fn questions(my_name: &CallerName) -> Vec<Call> {
    let call = |name, procedure: Procedure, args: Vec<u8>| Call {
        name,
        procedure: procedure as u32,
        args: args.into(),
        from: None,
    };
    let stat = encode(&SmName { mon_name: my_name.clone() });
    vec![call("NULL", Procedure::Null, Vec::new()), call("SM_STAT", Procedure::Stat, stat)]
}

fn probed(id: u32, outcome: Outcome) -> ProbeResult {
    let Outcome { results, failure, error } = outcome;
    let seen = match failure {
        None | Some((Failure::Partial, _)) => {
            let stat = results.into_iter().nth(1).flatten();
            // `res_stat` says whether that statd can resolve our name; the state is its own either way.
            let state = stat.and_then(|results| decode::<StatRes>(&results).ok()).map(|res| res.state);
            return ProbeResult { id, outcome: ProbeOutcome::Answered { state }, error: None };
        }
        Some((Failure::NoAnswer, _)) => ProbeOutcome::NoAnswer,
        Some((Failure::NotSent, _)) => ProbeOutcome::NotAsked,
        Some((Failure::NotRegistered, _)) => ProbeOutcome::NoStatd,
        Some((Failure::NameUnknown, _)) => ProbeOutcome::NameUnknown,
        Some((Failure::Refused, _)) => ProbeOutcome::Refused,
    };
    ProbeResult { id, outcome: seen, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::fanout::Heard;

    fn seen(results: Vec<Option<Vec<u8>>>, failure: Option<Failure>) -> ProbeOutcome {
        let failure = failure.map(|failure| (failure, Heard::Nothing));
        probed(1, Outcome { results, failure, error: None }).outcome
    }

    #[test]
    fn a_probe_that_could_not_leave_is_no_silence() {
        let given_up = |failure| seen(vec![None, None], Some(failure));
        assert_eq!(given_up(Failure::NotSent), ProbeOutcome::NotAsked);
        assert_eq!(given_up(Failure::NoAnswer), ProbeOutcome::NoAnswer);
    }

    #[test]
    fn an_answer_is_an_answer_whatever_comes_with_it() {
        assert_eq!(seen(vec![Some(vec![]), Some(vec![])], None), ProbeOutcome::Answered { state: None });
    }
}
