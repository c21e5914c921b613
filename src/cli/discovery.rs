//! Which lock manager to drive: the one that was named, or the one that is here.
//!
//! `auto` looks for each kind without touching anything. One is driven; of several none is guessed,
//! since a resync of the wrong one tells clients to reclaim locks where they hold none.

use std::path::Path;
use std::sync::Arc;

use super::args::{ManagerKind, Method};
use super::config::Settings;
use crate::manager::ganesha::{self, GaneshaOptions};
use crate::manager::knfsd::grace::{self, Grace};
use crate::manager::nlmd::Nlmd;
use crate::manager::{LockManager, ManagerError, knfsd};
use crate::report::Failure;
use crate::resync::plan::refuse_busy;

/// What it is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) enum For {
    Looks,
    /// What stands in the way of a new run.
    Check,
    /// Freeing locks outside of any run.
    Release,
    /// A run, by this method where there are several; one that an earlier nlmctl left goes on as it began. `soft`: its policy
    /// drops nothing.
    Run {
        soft: bool,
        method: Option<Method>,
        resume: bool,
    },
}

/// The lock manager that the settings name.
pub(super) async fn manager(settings: &Settings, wanted: For) -> Result<Arc<dyn LockManager>, Failure> {
    let kind = match settings.manager {
        ManagerKind::Auto if settings.control_named => ManagerKind::Nlmd,
        ManagerKind::Auto => only(&here(settings).await, &settings.control, knfsd::is_hidden())?,
        named => named,
    };
    if kind != ManagerKind::Knfsd && matches!(wanted, For::Run { method: Some(_), .. }) {
        return Err(Failure::usage(
            format!("--method is for the kernel's lockd only, and the lock manager here is {}", kind.word()),
            "leave out --method, or add --manager knfsd",
        ));
    }
    let soft = matches!(wanted, For::Run { soft: true, .. });
    Ok(match kind {
        ManagerKind::Auto | ManagerKind::Nlmd => Arc::new(Nlmd::new(&settings.control)),
        ManagerKind::Knfsd => of_lockd(wanted).await?,
        ManagerKind::Ganesha => {
            Arc::new(ganesha::manager(GaneshaOptions { soft, ..GaneshaOptions::new(ganesha::STATE_DIR) }))
        }
    })
}

/// What there is of the process in front of lockd.
#[derive(Debug, Clone, Copy)]
struct InFront {
    /// A run of its is active, or was when it was killed.
    active: bool,
    /// It has that, or a result to fetch.
    news: bool,
}

/// What the process in front of lockd has to do with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It is the lock manager: for a run by its method, for one that it has, for its results.
    Manager,
    /// It may have no run, and nothing else is asked of it. One that was killed in a run leaves it to the next one to end that
    /// run, so it is asked.
    MustBeIdle,
    None,
}

fn part(wanted: For, here: InFront) -> Part {
    let manager_if = |asked: bool| if asked { Part::Manager } else { Part::None };
    match wanted {
        For::Looks | For::Run { method: None, resume: true, .. } => manager_if(here.news),
        // Others may not start it.
        For::Check => manager_if(nix::unistd::geteuid().is_root() || here.news),
        For::Run { method: None | Some(Method::Grace), .. } => Part::Manager,
        For::Run { method: Some(Method::Reboot), resume: true, .. } => manager_if(here.active),
        For::Release | For::Run { method: Some(Method::Reboot), resume: false, .. } if here.active => Part::MustBeIdle,
        For::Release | For::Run { method: Some(Method::Reboot), resume: false, .. } => Part::None,
    }
}

async fn of_lockd(wanted: For) -> Result<Arc<dyn LockManager>, Failure> {
    // The guard and that process are this very program, also where its file was replaced or removed since.
    let program = "/proc/self/exe";
    match part(wanted, InFront { active: grace::is_active(), news: grace::has_news() }) {
        Part::Manager => return Ok(Arc::new(Grace::new(program))),
        Part::MustBeIdle => {
            let front = Grace::new(program);
            refuse_busy(&front.status().await?, &front.info().await?.capabilities, None)?;
        }
        Part::None => {}
    }
    Ok(Arc::new(knfsd::manager(knfsd::STATE_DIR, program)))
}

/// The kinds that are found on this host.
async fn here(settings: &Settings) -> Vec<ManagerKind> {
    let found = [
        (ManagerKind::Nlmd, tokio::fs::try_exists(&settings.control).await.unwrap_or(true)),
        (ManagerKind::Knfsd, knfsd::is_here()),
        (ManagerKind::Ganesha, ganesha::is_here().await),
    ];
    found.into_iter().filter_map(|(kind, is_here)| is_here.then_some(kind)).collect()
}

/// `hidden`: why nfsd's own file, which tells whether it serves, cannot be read.
fn only(found: &[ManagerKind], control: &Path, hidden: Option<String>) -> Result<ManagerKind, Failure> {
    match (found, hidden) {
        ([one], _) => Ok(*one),
        ([], Some(hidden)) => Err(ManagerError::Unreachable {
            endpoint: control.display().to_string(),
            what: format!("there is no such socket, and it is not known whether nfsd serves on this host: {hidden}"),
            remedy: "run this as root".into(),
        }
        .into()),
        ([], None) => Err(ManagerError::Unreachable {
            endpoint: control.display().to_string(),
            what: "there is no such socket, and neither nfsd nor NFS-Ganesha serves on this host".into(),
            remedy: "start one of them, or select one with --manager and --control".into(),
        }
        .into()),
        (several, _) => {
            let words: Vec<&str> = several.iter().map(|kind| kind.word()).collect();
            Err(Failure::usage(
                format!("this host has several lock managers: {}", words.join(", ")),
                format!("select the one that clients use, for example with --manager {}", words.first().unwrap_or(&"")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: InFront = InFront { active: false, news: false };
    const RESULT: InFront = InFront { active: false, news: true };
    const ACTIVE: InFront = InFront { active: true, news: true };

    #[test]
    fn a_run_by_the_method_reboot_is_never_made_by_the_other_one() {
        let run = |resume| For::Run { soft: false, method: Some(Method::Reboot), resume };
        assert_eq!(
            [NOTHING, RESULT, ACTIVE].map(|here| part(run(false), here)),
            [Part::None, Part::None, Part::MustBeIdle]
        );
        // One that is gone on with is the one that is there.
        assert_eq!(
            [NOTHING, RESULT, ACTIVE].map(|here| part(run(true), here)),
            [Part::None, Part::None, Part::Manager]
        );
    }

    #[test]
    fn locks_are_released_without_the_process_in_front_of_lockd_also_while_it_has_a_result() {
        assert_eq!(
            [NOTHING, RESULT, ACTIVE].map(|here| part(For::Release, here)),
            [Part::None, Part::None, Part::MustBeIdle]
        );
    }

    #[test]
    fn one_lock_manager_is_driven_none_is_unreachable_and_several_are_a_question() {
        let control = Path::new("/run/nlmd/control.sock");
        assert_eq!(only(&[ManagerKind::Knfsd], control, None).ok(), Some(ManagerKind::Knfsd));
        let none = only(&[], control, None).unwrap_err();
        assert_eq!(none.kind.exit(), 5);
        assert!(none.to_string().contains("/run/nlmd/control.sock"), "{none}");
        let hidden = only(&[], control, Some("/proc/fs/nfsd/threads: Permission denied".into())).unwrap_err();
        assert!(
            hidden.to_string().contains("/proc/fs/nfsd/threads") && hidden.remedy == "run this as root",
            "{hidden}"
        );
        let both = only(&[ManagerKind::Nlmd, ManagerKind::Ganesha], control, None).unwrap_err();
        assert_eq!(both.kind.exit(), 2);
        assert!(both.to_string().contains("nlmd, ganesha"), "{both}");
    }
}
