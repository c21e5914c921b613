//! A lock manager in front of the kernel's lockd: it gives lockd's clients a grace period that lockd knows nothing of.
//!
//! # Theory
//! Outside its grace period lockd refuses a LOCK that says `reclaim`, and grants an ordinary LOCK of what its owner holds
//! already. So a program that inverts the `reclaim` word of every LOCK call on its way in gives lockd's clients a grace period: an
//! ordinary LOCK is answered DENIED_GRACE_PERIOD, a reclaim is granted, and no lock is dropped for it. nfsd, NFSv4 and the
//! reply cache do not notice. With lockd's owners read from kernel memory (`manager/knfsd/owners`) and single locks freed by
//! UNLOCK in their owner's name (`manager/knfsd/unlock`) that is a whole run: mark, notify, reclaim, drop or keep, abort.
//!
//! Two processes, both started from nlmctl's own file:
//!
//! ```text
//!   nlmctl resync --- control protocol (Unix socket) --- keeper --- messages (socket pair) --- filter
//!                                                          |                                      |
//!                                                  nftables rules, walks,                 NFQUEUE: calls and replies
//!                                                  the run, UNLOCKs                       of lockd's ports
//! ```
//!
//! - The *filter* has one job: it takes packets from the queue, inverts what it is told to invert, and tells the keeper of
//!   each call and reply before it lets them pass. It knows nothing of runs. If it dies, packets wait in the kernel or are
//!   dropped, so clients send them again; the keeper starts another filter.
//! - The *keeper* is a lock manager that cooperates, as nlmd is one: it serves the control protocol, so a run is driven by
//!   the same controller. It has the nftables rules, which end with it or lapse by themselves, and the account of the run.
//!
//! What must hold:
//! - A call or reply is reported before it passes. So lockd or the client has not seen any that was not reported to
//!   the keeper.
//! - No reclaim passes unchanged while lockd is outside grace: its client would forget the lock for good. So a filter that takes
//!   another one's place lets nothing pass before it knows the mode.
//! - When lockd itself enters grace, or another lockd takes its place, inverting ends at once: lockd then grants reclaims
//!   and refuses ordinary requests itself.
//! - A call without a reply is unknown, and locks that it may concern are kept.
//! - A lock whose reclaim may have been refused even so is on disk, and kept by every later run
//!   (`manager/knfsd/unsure`).
//!
//! | file | what |
//! |---|---|
//! | `messages` | the messages between keeper and filter |
//! | `packets` | packets: what is reported of them, and their verdicts. Pure |
//! | `queue` | the queue that packets are taken from |
//! | `lockd` | whether lockd is still the one, and outside its own grace |
//! | `filter` | the filter's process |
//! | `child` | the filter, as the keeper's child |
//! | `rules` | the packet rules that lead packets to the queue |
//! | `proof` | the test that it works, before any client is notified |
//! | `announce` | lines in the system's log |
//! | `keeper` | the keeper's process |
//!
//! Start reading at [`messages`], then [`keeper`] and [`filter`].

pub mod announce;
pub mod child;
pub mod filter;
pub mod keeper;
mod lockd;
pub mod messages;
pub mod packets;
pub mod proof;
mod queue;
pub mod rules;
