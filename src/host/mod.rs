//! What is known of this machine, asked for in one place.
//!
//! Theory. All of it is files and a few system calls. Nothing is remembered: an answer is true at the
//! moment of the question. [`Machine`] reads below a root, `/` outside tests; a test makes a machine of
//! files. A file without the form that its manual gives is an error, not a guess. In a list one odd line
//! is left out, so that it does not hide the others. The functions with `parse` in their names are pure.
//!
//! | file | what |
//! |---|---|
//! | `files` | the machine's files below a root; a file replaced durably |
//! | `private` | folders and files that no other user can change |
//! | `privileges` | the capabilities of this process |
//! | `processes` | processes, their names, starts, descriptors; the boot |
//! | `locks` | `/proc/locks` |
//! | `sockets` | TCP and UDP sockets |
//! | `holder` | who has a port |
//! | `kernel` | the kernel's NFS server and its lockd |
//! | `mounts` | NFSv3 mounts of this host whose locks a notice would lose |
//! | `addresses` | the addresses of this host |
//! | `names` | the names under which clients know this host |
//! | `statd` | the folder of this host's rpc.statd, and its NSM state number |

mod addresses;
mod files;
mod holder;
mod kernel;
mod locks;
mod mounts;
mod names;
mod private;
mod privileges;
mod processes;
mod sockets;
mod statd;

pub use addresses::{addresses, is_own_address, serving_addresses};
pub use files::{FileError, Machine, remove, replace};
pub use holder::Holder;
pub use kernel::{ETAB, Lockd, NLM_END_GRACE};
pub use locks::{ListedLock, Lock, Reading, parse_locks};
pub use mounts::NlmMount;
pub use names::{OwnNameError, own_names};
pub use private::{check_folder, private_file, private_folder, try_lock};
pub use privileges::keep_capabilities;
pub use sockets::{Socket, SocketState};
pub use statd::{StatdDir, StatdDirError, statd_folders};
