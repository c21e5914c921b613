//! What the operator asked for, and which locks those are. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::report::{Failure, LockdProbe, ScopeReport};
use crate::resync::plan::{self as run_plan, names};
use crate::wire::control::{ClientRow, ClientSeen, Info, LockRow, LockState, PAGE, RELEASE, ReleaseArgs, Scope};
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, OwnerHandle, Svid};
use crate::wire::xdr::List;

/// A process, as `--owner` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerChoice {
    pub svid: Svid,
    /// Its handle; any, if none was given.
    pub oh: Option<OwnerHandle>,
}

impl OwnerChoice {
    fn is(&self, row: &LockRow) -> bool {
        self.svid == row.owner.svid && self.oh.as_ref().is_none_or(|oh| *oh == row.owner.oh)
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReleaseRequest {
    /// `--client`: names or addresses.
    pub clients: Vec<String>,
    /// Paths of exports (`--export`).
    pub exports: Vec<String>,
    /// `--file`: handles in hexadecimal, or paths.
    pub files: Vec<String>,
    /// `--owner`: only locks of these processes.
    pub owners: Vec<OwnerChoice>,
    /// `--range`: only locks of exactly these bytes.
    pub ranges: Vec<ByteRange>,
    /// `--live`: also of clients that answer.
    pub live: bool,
    /// `--if-held`: it is all right if there is nothing to release.
    pub if_held: bool,
}

impl ReleaseRequest {
    /// Clients, exports and files as those of a run.
    pub(super) fn as_run(&self) -> run_plan::Request {
        run_plan::Request {
            clients: self.clients.clone(),
            exports: self.exports.clone(),
            files: self.files.clone(),
            ..run_plan::Request::default()
        }
    }
    /// The same choice of clients, as a run has it.
    pub(super) fn as_run_of_clients(&self) -> run_plan::Request {
        run_plan::Request { clients: self.clients.clone(), ..run_plan::Request::default() }
    }
    /// Whether it is all that some clients have.
    pub(super) fn is_of_whole_clients(&self) -> bool {
        self.exports.is_empty() && self.files.is_empty() && self.owners.is_empty() && self.ranges.is_empty()
    }
    /// A request that waits is thrown away only with all that its client has: where single locks are chosen, it is there
    /// to get what becomes free.
    fn wants(&self, row: &LockRow) -> bool {
        (row.state != LockState::Waiting || self.is_of_whole_clients())
            && (self.owners.is_empty() || self.owners.iter().any(|owner| owner.is(row)))
            && (self.ranges.is_empty() || self.ranges.contains(&row.range))
    }
    /// What narrows the scope, in words.
    pub(super) fn only(&self) -> Vec<String> {
        let owners = self.owners.iter().map(|owner| match &owner.oh {
            Some(oh) => format!("owner {}:{oh}", owner.svid),
            None => format!("owner {}", owner.svid),
        });
        owners.chain(self.ranges.iter().map(|range| format!("bytes {range}"))).collect()
    }
    pub(super) fn scope(&self) -> ScopeReport {
        ScopeReport { clients: self.clients.clone(), exports: self.exports.clone(), files: self.files.clone() }
    }
}

/// What was seen of the manager.
#[derive(Debug)]
pub(super) struct ReleaseObservation<'a> {
    pub(super) info: &'a Info,
    pub(super) clients: &'a [ClientRow],
    /// The locks in scope, or why their owners are not known.
    pub(super) rows: Result<Vec<LockRow>, String>,
}

/// What a client's statd and lockd said.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostProbe {
    pub(super) statd: run_plan::Probed,
    pub(super) lockd: LockdProbe,
}

/// What is chosen; it lacks who waits for it, and what the clients say.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) args: ReleaseArgs,
    pub(super) scope: ScopeReport,
    pub(super) only: Vec<String>,
    pub(super) live: bool,
    pub(super) targeted: bool,
    pub(super) knows_owners: bool,
    pub(super) whole: bool,
    pub(super) clients: Vec<ClientRow>,
    /// The locks of each client, in the order of the clients.
    pub(super) rows: Vec<Vec<LockRow>>,
}

fn nothing(why: &str) -> Failure {
    Failure::usage(format!("no lock is selected: {why}"), "see `nlmctl locks`, with the same --client and --file")
}

impl Chosen {
    pub(super) fn new(request: &ReleaseRequest, scope: &Scope, seen: &ReleaseObservation<'_>) -> Result<Self, Failure> {
        if request.clients.is_empty() && request.exports.is_empty() && request.files.is_empty() {
            return Err(Failure::usage(
                "neither a client nor a file is named",
                "name a client (--client) or a file (--file)",
            ));
        }
        let whole = request.is_of_whole_clients();
        let knows_owners = match &seen.rows {
            Err(why) if !whole => {
                return Err(Failure::usage(
                    format!("only whole clients can be released: {why}"),
                    "name clients (--client), without --export, --file, --owner and --range",
                ));
            }
            rows => rows.is_ok(),
        };
        let (clients, rows) = chosen(request, scope, seen);
        if clients.is_empty() && !request.if_held {
            return Err(nothing(if whole { "the client has no lock" } else { "no such lock is held" }));
        }
        let seen_of = |(client, rows): (&ClientRow, &Vec<LockRow>)| {
            // A lock manager that does not tell owners finds it by its name.
            let unknown = Address(Ipv4Addr::UNSPECIFIED.into());
            let address = client.addresses.as_slice().first().copied().unwrap_or(unknown);
            ClientSeen::new(client.name.clone(), address, rows)
        };
        let too_many = |what: &str, max: usize| {
            Failure::usage(format!("more than {max} {what} are selected"), "select fewer at a time")
        };
        let (whole_clients, single) = if whole {
            (clients.iter().zip(&rows).map(seen_of).collect(), Vec::new())
        } else {
            (Vec::new(), rows.iter().flatten().cloned().collect())
        };
        let args = ReleaseArgs {
            instance: seen.info.instance,
            clients: List::new(whole_clients).map_err(|_| too_many("clients", PAGE))?,
            locks: List::new(single).map_err(|_| too_many("single locks", RELEASE))?,
        };
        Ok(Self {
            args,
            scope: request.scope(),
            only: request.only(),
            live: request.live,
            targeted: seen.info.capabilities.targeted,
            knows_owners,
            whole,
            clients,
            rows,
        })
    }

    /// The clients whose statds are to be asked.
    pub(super) fn clients(&self) -> &[ClientRow] {
        &self.clients
    }

    /// The files with chosen locks, each once.
    pub(super) fn files(&self) -> Vec<FileHandle> {
        let files: HashSet<&FileHandle> = self.rows.iter().flatten().map(|row| &row.file).collect();
        files.into_iter().cloned().collect()
    }
}

/// The clients in scope that have a wanted lock, or may have, and their rows.
fn chosen(
    request: &ReleaseRequest,
    scope: &Scope,
    seen: &ReleaseObservation<'_>,
) -> (Vec<ClientRow>, Vec<Vec<LockRow>>) {
    let mut of_client: HashMap<(&CallerName, IpAddr), Vec<LockRow>> = HashMap::new();
    for row in seen.rows.iter().flatten().filter(|row| request.wants(row)) {
        of_client.entry((&row.owner.name, row.owner.address.0)).or_default().push(row.clone());
    }
    let wanted = scope.clients.as_slice();
    let (mut clients, mut rows) = (Vec::new(), Vec::new());
    for client in seen.clients {
        if !wanted.is_empty() && !wanted.iter().any(|reference| names(reference, client)) {
            continue;
        }
        let first = client.addresses.as_slice().first();
        let its = first.and_then(|first| of_client.remove(&(&client.name, first.0))).unwrap_or_default();
        if !its.is_empty() || seen.rows.is_err() {
            clients.push(client.clone());
            rows.push(its);
        }
    }
    (clients, rows)
}
