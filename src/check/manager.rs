//! The lock manager as it describes itself, and what depends on its answers: its clients and names.

use std::time::Duration;

use super::{Places, clients, names};
use crate::manager::{Caution, LockManager, ManagerError, Owners, Weight};
use crate::report::{Failure, Finding, Severity, caveats};
use crate::resync::plan::{only_loopback, refuse_busy};
use crate::units::number;
use crate::wire::control::{Capabilities, Info, RunId, Status};
use crate::wire::types::NsmState;
use crate::wire::xdr::Text;

/// Longest wait for all that the manager is asked: one that lists many clients takes a moment.
const PATIENCE: Duration = Duration::from_secs(20);

struct Answers {
    info: Info,
    status: Status,
    cautions: Vec<Caution>,
    unfetched: Vec<RunId>,
    clients: Vec<crate::wire::control::ClientRow>,
}

async fn ask(manager: &dyn LockManager) -> Result<Answers, ManagerError> {
    Ok(Answers {
        info: manager.info().await?,
        status: manager.status().await?,
        cautions: manager.cautions().await?,
        unfetched: manager.unfetched().await?,
        clients: manager.clients().await?,
    })
}

/// What was seen of the manager.
#[derive(Debug, Default)]
pub(super) struct ManagerFindings {
    pub(super) reached: bool,
    /// Every address of every client is a loopback one.
    pub(super) all_loopback: bool,
    /// Its cautions, by topic.
    pub(super) cautioned: Vec<String>,
    pub(super) findings: Vec<Finding>,
}

fn unreached(words: String, remedy: impl Into<String>) -> ManagerFindings {
    ManagerFindings {
        findings: vec![Finding::new("manager", Severity::Problem, words, remedy)],
        ..ManagerFindings::default()
    }
}

pub(super) async fn look(manager: Result<&dyn LockManager, &Failure>, places: &Places) -> ManagerFindings {
    let manager = match manager {
        Ok(manager) => manager,
        Err(failure) => return unreached(failure.message.clone(), &failure.remedy),
    };
    let answering = tokio::time::timeout(PATIENCE, ask(manager));
    // Not one of the answers: without it the others are as good.
    let looking = tokio::time::timeout(PATIENCE, manager.owners());
    let (answers, owners) = tokio::join!(answering, looking);
    let answers = match answers {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => return unreached(error.to_string(), error.remedy()),
        Err(_) => {
            let (kind, endpoint) = (manager.kind(), manager.endpoint());
            let words = format!("{kind} at {endpoint} gave no answer within {} s", PATIENCE.as_secs());
            return unreached(words, "see whether it is stopped, and what it logged");
        }
    };
    let Answers { info, status, cautions, unfetched, clients } = answers;
    let mut findings = vec![Finding::ok(
        "manager",
        format!("{} answers at {}, NSM state {}", info.software.as_str(), manager.endpoint(), info.nsm_state),
    )];
    findings.push(busy(&status, &info.capabilities));
    findings.push(state(info.nsm_state));
    findings.extend(domains(&info));
    findings.extend(whose(owners.unwrap_or_else(|_| Ok(too_slow()))));
    findings.extend(caveats(&info).into_iter().map(|words| {
        Finding::new("manager-limits", Severity::Note, words, "nothing to do; the plan of a run says so too")
    }));
    let mut cautioned: Vec<String> = cautions.iter().map(|caution| caution.about.to_owned()).collect();
    if info.capabilities.mark {
        // Only a manager that cannot mark may stop the server, which a cluster would take for a failure.
        cautioned.push("cluster".to_owned());
    }
    findings.extend(cautions.into_iter().map(caution));
    findings.extend(owed(&unfetched));
    let (of_names, of_clients) =
        tokio::join!(names::look(&info, &clients, places), clients::look(&info, &status, &clients, places));
    findings.extend(of_names);
    findings.extend(of_clients);
    let all_loopback = clients.iter().all(|client| only_loopback(client.addresses.as_slice()));
    ManagerFindings { reached: true, all_loopback, cautioned, findings }
}

fn caution(caution: Caution) -> Finding {
    let severity = match caution.weight {
        Weight::Say => Severity::Note,
        Weight::Consent => Severity::Warning,
        Weight::Refuse => Severity::Problem,
    };
    let remedy = Some(caution.remedy).filter(|remedy| !remedy.is_empty());
    Finding { severity, remedy, ..Finding::ok(caution.about, caution.text) }
}

fn busy(status: &Status, can: &Capabilities) -> Finding {
    match refuse_busy(status, can, None) {
        Ok(()) => Finding::ok("grace", "no run and no grace period is active"),
        Err(Failure { message, remedy, .. }) => Finding::new("grace", Severity::Problem, message, remedy),
    }
}

fn state(state: NsmState) -> Finding {
    let about = "nsm-state";
    if !state.is_known() {
        return Finding::new(about, Severity::Warning, "the lock manager has no NSM state number", "see its log");
    }
    if !state.is_up() {
        let words = format!("the lock manager's NSM state number {state} is even: it says that this server is down");
        return Finding::new(about, Severity::Problem, words, "restart its status monitor, which makes it odd");
    }
    if state.0 < 0 {
        let words = format!("the lock manager's NSM state number {state} is negative; this is valid");
        return Finding::new(
            about,
            Severity::Note,
            words,
            "nothing to do: it is a signed number, and clients compare it for equality",
        );
    }
    Finding::ok(about, format!("the lock manager's NSM state number {state} is odd"))
}

fn domains(info: &Info) -> Option<Finding> {
    let domains: Vec<&str> = info.domains.as_slice().iter().map(Text::as_str).collect();
    // A lock domain that it sees, it also excludes.
    (domains == ["nlm"]).then(|| {
        Finding::new(
            "domains",
            Severity::Note,
            format!(
                "{} arbitrates NLM locks and nothing else: it neither sees nor excludes locks of local processes, NFSv4 or SMB",
                info.software.as_str()
            ),
            "use the files that it locks over NFSv3 only",
        )
    })
}

/// Whether lists can show the owners of locks, if the lock manager itself does not tell them.
fn whose(owners: Result<Owners, ManagerError>) -> Option<Finding> {
    let about = "owners";
    match owners.unwrap_or_else(|error| Owners::Unknown { why: error.to_string(), remedy: error.remedy() }) {
        Owners::Rows => None,
        Owners::View(view) => {
            let words =
                format!("lock owners are known: {} ({})", view.how, number(view.locks.len() as u64, "lock", "locks"));
            Some(Finding::ok(about, words))
        }
        Owners::Unknown { why, remedy } => {
            let remedy = Some(remedy).filter(|remedy| !remedy.is_empty());
            let words = format!("lock owners are not known: {why}");
            Some(Finding { severity: Severity::Note, remedy, ..Finding::ok(about, words) })
        }
    }
}

fn too_slow() -> Owners {
    let why = format!("this could not be found out within {} s", PATIENCE.as_secs());
    Owners::Unknown { why, remedy: "try again when this host is less busy".into() }
}

fn owed(unfetched: &[RunId]) -> Option<Finding> {
    (!unfetched.is_empty()).then(|| {
        Finding::new(
            "results",
            Severity::Note,
            format!(
                "{} to be fetched",
                number(unfetched.len() as u64, "result of an ended run waits", "results of ended runs wait")
            ),
            "`nlmctl runs list` with the record that made them (--db) fetches them",
        )
        .of(unfetched)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_number_is_odd_and_may_be_negative() {
        let weight = |n| state(NsmState(n)).severity;
        assert_eq!(
            [weight(0), weight(4), weight(-3), weight(41)],
            [Severity::Warning, Severity::Problem, Severity::Note, Severity::Ok]
        );
    }

    #[test]
    fn what_a_manager_cautions_of_weighs_what_it_says() {
        let of = |weight| caution(Caution { about: "nfsv4", weight, text: "3 clients".into(), remedy: String::new() });
        assert_eq!(of(Weight::Say).severity, Severity::Note);
        assert_eq!(of(Weight::Consent).severity, Severity::Warning);
        assert_eq!((of(Weight::Refuse).severity, of(Weight::Refuse).remedy), (Severity::Problem, None));
    }
}
