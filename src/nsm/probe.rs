//! SM_STAT to every target's statd.

use std::time::Duration;

use super::target::{STATD, Target};
use crate::host::is_own_address;
use crate::rpc::fanout::{self, Call, DriverError, Failure, Outcome};
use crate::wire::nsm::{Procedure, SmName, StatRes};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{decode, encode};

#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// The port of the targets' rpcbind (111 outside tests and the demo).
    pub rpcbind_port: u16,
    /// How long to wait, retransmitting, for all answers together.
    pub timeout: Duration,
    /// The name to ask SM_STAT about: one of this host's own.
    pub my_name: CallerName,
}

/// A statd's state number, if it answers and tells one; or why it does not answer.
pub type StatdState = Result<Option<NsmState>, Failure>;

/// Asks every target's statd for its state number; what they say is in the order of `targets`. `waits` is told once,
/// after a second, which targets have not answered.
pub async fn probe(
    targets: Vec<Target>,
    options: ProbeOptions,
    waits: impl FnOnce(&[u32]),
) -> Result<Vec<StatdState>, DriverError> {
    let calls = questions(&options.my_name);
    let targets = targets.into_iter().map(|Target { id, host, .. }| fanout::Target { id, host, calls: calls.clone() });
    let ProbeOptions { rpcbind_port, timeout, .. } = options;
    let outcomes = fanout::ask(targets.collect(), STATD, rpcbind_port, timeout, is_own_address, waits).await?;
    Ok(outcomes.iter().map(probed).collect())
}

/// Does a statd answer, and with which state number? Some statds refuse the second question.
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

fn probed(outcome: &Outcome) -> StatdState {
    match outcome.failure {
        Some((failure, _)) if failure != Failure::Partial => Err(failure),
        _ => {
            let stat = outcome.results.get(1).and_then(|results| results.as_deref());
            // `res_stat` says whether that statd can resolve our name; the state is its own either way.
            Ok(stat.and_then(|results| decode::<StatRes>(results).ok()).map(|res| res.state))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::fanout::Heard;

    fn seen(results: Vec<Option<Vec<u8>>>, failure: Option<Failure>) -> StatdState {
        let failure = failure.map(|failure| (failure, Heard::Nothing));
        probed(&Outcome { results, failure })
    }

    #[test]
    fn a_probe_that_could_not_leave_is_no_silence() {
        let given_up = |failure| seen(vec![None, None], Some(failure));
        assert_eq!(given_up(Failure::NotSent), Err(Failure::NotSent));
        assert_eq!(given_up(Failure::NoAnswer), Err(Failure::NoAnswer));
    }

    #[test]
    fn an_answer_is_an_answer_whatever_comes_with_it() {
        assert_eq!(seen(vec![Some(vec![]), Some(vec![])], None), Ok(None));
    }
}
