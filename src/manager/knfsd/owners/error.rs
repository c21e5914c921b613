//! Why owners are not known.

use crate::host::{FileError, MemoryError};

/// Why the view was not got. Nothing was changed, as nothing ever is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnersError {
    /// In a container, say.
    #[error("this process is not in the host's own process namespace")]
    Namespace,
    /// There is no lockd.
    #[error("the kernel's lockd is not loaded")]
    NotLoaded,
    /// The kernel hides its memory from root too (`lockdown=confidentiality`).
    #[error("the kernel is locked down for confidentiality, so its memory cannot be read")]
    LockedDown,
    /// Not root, or root without its capabilities.
    #[error("the kernel does not let this process read its memory ({0})")]
    Forbidden(FileError),
    #[error("the kernel hides its addresses (/proc/kallsyms shows zeros)")]
    Hidden,
    /// A name that is looked for.
    #[error("/proc/kallsyms does not list {0} of lockd")]
    NoSymbol(&'static str),
    /// The kernel was built without it, or has no /proc/kcore.
    #[error("this kernel does not describe its memory ({0})")]
    NotDescribed(FileError),
    /// It is laid out in a way that this version does not know.
    #[error("this kernel's lockd is laid out in a way that this version does not know: {0}")]
    Layout(String),
    /// lockd serves clients of another network namespace too.
    #[error("lockd serves clients in another network namespace than this one")]
    ForeignNetwork,
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Locks came and went during each pass.
    #[error("lockd's memory and /proc/locks did not agree in {passes} passes: {why}")]
    NoAgreement {
        /// How many were made.
        passes: usize,
        /// What was in the way in the last one.
        why: String,
    },
}

impl OwnersError {
    /// What can be done about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Namespace => "run nlmctl on the host itself, not in a container",
            Self::NotLoaded => "start the NFS server with NFSv3",
            Self::LockedDown => {
                "boot with lockdown=integrity (the usual one with Secure Boot) or none; until then locks are listed without \
                 owners"
            }
            Self::Forbidden(_) => "run nlmctl as root, with the capabilities SYS_RAWIO and SYSLOG",
            Self::Hidden => "set the sysctl kernel.kptr_restrict to 0 or 1, and run nlmctl as root",
            Self::NoSymbol(_) | Self::NotDescribed(_) => {
                "use a kernel with KALLSYMS_ALL, DEBUG_INFO_BTF_MODULES and PROC_KCORE, as distributions build them"
            }
            Self::Layout(_) => "report this with the kernel's version; until then locks are listed without owners",
            Self::ForeignNetwork => {
                "run nlmctl in the network namespace of the NFS server; with several, owners are not known"
            }
            Self::File(_) => "see what the error says of the file",
            Self::NoAgreement { .. } => "try again; if it persists, report this with the kernel's version",
        }
    }
}

/// What was read is not how lockd's records can be at one moment: try again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    /// A record is not what it must be.
    #[error("{0}")]
    Changed(&'static str),
    /// A pointer led nowhere.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
