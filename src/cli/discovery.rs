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

/// What it is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) enum For {
    Looks,
    /// What stands in the way of a new run.
    Check,
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
            format!("--method is about the kernel's lockd, and the lock manager here is {}", kind.word()),
            "leave out --method, or name --manager knfsd",
        ));
    }
    Ok(the(kind, settings, wanted))
}

/// Whether the process in front of lockd is asked: for a run by its method, for one that it has, for its results.
fn in_front(wanted: For) -> bool {
    match wanted {
        For::Looks | For::Run { method: None, resume: true, .. } => grace::has_news(),
        // Others may not start it.
        For::Check => nix::unistd::geteuid().is_root() || grace::has_news(),
        For::Run { method: None | Some(Method::Grace), .. } => true,
        // It refuses another run beside its own.
        For::Run { method: Some(Method::Reboot), .. } => grace::is_active(),
    }
}

fn the(kind: ManagerKind, settings: &Settings, wanted: For) -> Arc<dyn LockManager> {
    let soft = matches!(wanted, For::Run { soft: true, .. });
    match kind {
        ManagerKind::Auto | ManagerKind::Nlmd => Arc::new(Nlmd::new(&settings.control)),
        ManagerKind::Knfsd if in_front(wanted) => Arc::new(Grace::new("/proc/self/exe")),
        // The guard is this very program, also where its file was replaced or removed since.
        ManagerKind::Knfsd => Arc::new(knfsd::manager(knfsd::STATE_DIR, "/proc/self/exe")),
        ManagerKind::Ganesha => {
            Arc::new(ganesha::manager(GaneshaOptions { soft, ..GaneshaOptions::new(ganesha::STATE_DIR) }))
        }
    }
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
            what: format!("there is no such socket, and whether nfsd serves on this host cannot be seen: {hidden}"),
            remedy: "run this as root".into(),
        }
        .into()),
        ([], None) => Err(ManagerError::Unreachable {
            endpoint: control.display().to_string(),
            what: "there is no such socket, and neither nfsd nor NFS-Ganesha serves on this host".into(),
            remedy: "start one of them, or say with --manager and --control which one is meant".into(),
        }
        .into()),
        (several, _) => {
            let words: Vec<&str> = several.iter().map(|kind| kind.word()).collect();
            Err(Failure::usage(
                format!("several lock managers are here: {}", words.join(", ")),
                format!("name the one that clients lock with, for example --manager {}", words.first().unwrap_or(&"")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
