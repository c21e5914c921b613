//! Facts about this machine, asked for in one place.
//!
//! Theory. All of it is files and a few system calls. Nothing is remembered: an answer is true at the
//! moment of the question. [`Machine`] reads below a root, `/` outside tests; a test makes a machine of
//! files. A file without the form that its manual gives is an error, not a guess. In a list one odd line
//! is left out, so that it does not hide the others. The functions with `parse` in their names are pure.
//!
//! | file | what |
//! |---|---|
//! | `files` | the machine's files below a root; a file replaced durably |
//! | `private` | folders and files that no other user can change; work in folders that belong to one |
//! | `privileges` | the capabilities of this process |
//! | `limits` | the limits of this process |
//! | `processes` | processes, their names, starts, descriptors; the boot |
//! | `locks` | `/proc/locks` |
//! | `sockets` | TCP and UDP sockets |
//! | `holder` | who has a port |
//! | `kernel` | the kernel's NFS server and its lockd |
//! | `memory` | memory of the running kernel, and how its types are laid out |
//! | `netlink` | the kernel asked by netlink |
//! | `netfilter` | packet rules and packet queues of other programs |
//! | `reply_route` | replies to calls in a client's name are kept here |
//! | `syslog` | lines in the system's log |
//! | `mounts` | NFSv3 mounts of this host whose locks a notice would lose |
//! | `addresses` | the addresses of this host |
//! | `interfaces` | network interfaces by name, behind link-local addresses |
//! | `names` | the names under which clients know this host |
//! | `statd` | the folder of this host's rpc.statd, and its NSM state number |
//! | `config` | what variables and a config file set for a program |
//! | `clock` | the time of day |

mod addresses;
mod clock;
#[cfg(feature = "tools")]
mod config;
mod files;
mod holder;
mod interfaces;
mod kernel;
mod limits;
#[cfg(feature = "tools")]
mod locks;
#[cfg(feature = "tools")]
mod memory;
mod mounts;
mod names;
#[cfg(feature = "tools")]
pub mod netfilter;
pub mod netlink;
mod private;
#[cfg(feature = "tools")]
mod privileges;
mod processes;
#[cfg(feature = "tools")]
mod reply_route;
mod sockets;
mod statd;
#[cfg(feature = "tools")]
mod syslog;

pub use addresses::{addresses, is_own_address, serving_addresses};
pub use clock::unix_ms;
#[cfg(feature = "tools")]
pub use config::{is_off, read_config, variable, variable_name};
pub use files::{FileError, Machine, draft_in, folder_of, is_full, read_if_there, remove, replace, replaceable};
pub use holder::Holder;
pub use interfaces::{BadAddress, address, text_of};
#[cfg(feature = "tools")]
pub use kernel::{ETAB, Lockd, NLM_END_GRACE};
#[cfg(test)]
pub use kernel::{
    LOCKD, NFSD, SERVER_GET, SERVER_GRACE, SERVER_SCOPE, SERVER_SET, SERVER_THREADS, THREADS_GET, THREADS_SET,
};
pub use limits::raise_open_files;
#[cfg(feature = "tools")]
pub(crate) use locks::common_and_rest;
#[cfg(feature = "tools")]
pub use locks::{Lock, Reading, parse_locks};
#[cfg(test)]
pub(crate) use memory::fake;
#[cfg(feature = "tools")]
pub use memory::{Btf, Field, Memory, MemoryError, Type, is_refusal};
pub use mounts::NlmMount;
pub use names::{OwnNameError, own_names};
#[cfg(test)]
pub use netlink::Netlink;
pub use private::{Folder, check_folder, open_plain, private_file, private_folder, try_lock};
#[cfg(feature = "tools")]
pub use privileges::{keep_capabilities, lacks_capabilities, may_administer_network, user};
#[cfg(feature = "tools")]
pub use reply_route::ReplyRoute;
pub use sockets::{Socket, SocketState};
pub use statd::{StatdDir, StatdDirError, statd_folders};
#[cfg(feature = "tools")]
pub use syslog::syslog;
