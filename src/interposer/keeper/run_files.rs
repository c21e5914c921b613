//! Runs on disk: the one that is active, and the results of those that have ended, until a controller has fetched them.
//!
//! A result can have a million rows, and late reclaims may still come one by one: their rows are appended to a file of their
//! own. As long as they may come, a result that was fetched is only set aside: a late reclaim makes it one that is to be
//! fetched again.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::host::{private_folder, read_if_there, remove, replace};
use crate::manager::knfsd::keeper_files::{ACTIVE, DRAIN, RESULT};
use crate::manager::knfsd::unsure::{Doubt, DoubtKind, UnsureClient, UnsureLocks};
use crate::wire::control::{
    BeginArgs, Begun, ClientResult, Counts, Fate, FullResult, LockFate, Outcome, RunClient, RunId, RunResult,
};
use crate::wire::xdr::{List, Text, Unpack as _, XdrCodec, decode, encode};

/// Results that are kept at most.
const KEPT: usize = 16;
/// How the name of a result ends that a controller has fetched, and to which late reclaims may still be added.
const FETCHED: &str = "fetched";
/// How the name of the late reclaims of a run ends: one row behind the other.
const LATE: &str = "late";

/// The active run, as a keeper that comes after this one must know it.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub(super) struct Journal {
    /// What was asked for.
    pub(super) args: BeginArgs,
    /// What was answered.
    pub(super) begun: Begun,
    /// When, in milliseconds since 1970.
    pub(super) began_unix_ms: u64,
    /// The clients that the run covers.
    pub(super) clients: List<RunClient, 16_777_216>,
    /// What an UNLOCK is about to be sent for.
    pub(super) dropping: List<LockFate, 16_777_216>,
}

#[derive(Debug, Clone)]
pub(super) struct KeeperFiles {
    dir: PathBuf,
}

impl KeeperFiles {
    /// Those in `dir`, which is made if it is missing.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        private_folder(dir)?;
        Ok(Self { dir: dir.into() })
    }

    fn path(&self, run: RunId, end: &str) -> PathBuf {
        self.dir.join(format!("{run}.{end}"))
    }

    /// What earlier runs left unsure.
    pub(super) fn unsure(&self) -> io::Result<UnsureLocks> {
        UnsureLocks::read(&self.dir)
    }

    /// Writes that down.
    pub(super) fn write_unsure(&self, unsure: &mut UnsureLocks) -> io::Result<()> {
        unsure.write(&self.dir)
    }

    /// Writes down the active run.
    pub(super) fn keep(&self, journal: &Journal) -> io::Result<()> {
        replace(&self.dir.join(ACTIVE), &encode(journal), 0o600)
    }

    /// Writes down until when late reclaims are taken, for messages of others.
    pub(super) fn drains_until(&self, unix_ms: u64) -> io::Result<()> {
        replace(&self.dir.join(DRAIN), format!("{}\n", unix_ms / 1000).as_bytes(), 0o600)
    }

    /// They are not any more.
    pub(super) fn drained(&self) -> io::Result<()> {
        self.forget_fetched()?;
        remove(&self.dir.join(DRAIN))
    }

    /// No late reclaim will be added to these.
    pub(super) fn forget_fetched(&self) -> io::Result<()> {
        for path in self.ending_with(FETCHED)? {
            remove(&path.with_extension(LATE))?;
            remove(&path)?;
        }
        Ok(())
    }

    /// The run that was active when a keeper died.
    pub(super) fn left(&self) -> io::Result<Option<Journal>> {
        read_if_there(&self.dir.join(ACTIVE))?.map(|bytes| decode(&bytes).map_err(io::Error::other)).transpose()
    }

    /// The run has ended so; it is not active any more.
    pub(super) fn end(&self, full: &FullResult) -> io::Result<()> {
        replace(&self.path(full.result.run, RESULT), &encode(full), 0o600)?;
        // With its result on disk it has ended, whatever becomes of the other files: a keeper looks for the result first.
        if let Err(error) = self.tidy_up() {
            tracing::warn!(%error, "files of runs that have ended cannot be removed");
        }
        Ok(())
    }

    fn tidy_up(&self) -> io::Result<()> {
        remove(&self.dir.join(ACTIVE))?;
        let ended = self.ended()?;
        let extra = ended.len().saturating_sub(KEPT);
        ended.iter().take(extra).try_for_each(|result| self.forget(result.run))
    }

    /// A late reclaim is added to the result, which is to be fetched then.
    pub(super) fn append(&self, run: RunId, row: &LockFate) -> io::Result<()> {
        let (result, fetched) = (self.path(run, RESULT), self.path(run, FETCHED));
        match (result.try_exists()?, fetched.try_exists()?) {
            (true, _) => {}
            (false, true) => fs::rename(fetched, result)?,
            // Newer ones have pushed it out.
            (false, false) => return Ok(()),
        }
        let mut file = fs::File::options().append(true).create(true).mode(0o600).open(self.path(run, LATE))?;
        file.write_all(&encode(row))
    }

    /// How a run has ended, if it is known.
    pub(super) fn result(&self, run: RunId) -> io::Result<Option<FullResult>> {
        let unfetched = read_if_there(&self.path(run, RESULT))?;
        let bytes = if unfetched.is_some() { unfetched } else { read_if_there(&self.path(run, FETCHED))? };
        let Some(bytes) = bytes else { return Ok(None) };
        let mut full = decode(&bytes).map_err(io::Error::other)?;
        let late = read_if_there(&self.path(run, LATE))?.unwrap_or_default();
        let mut late = late.as_slice();
        // The last row may be half written.
        while let Ok((row, _)) = LockFate::unpack(&mut late) {
            add_late(&mut full, row);
        }
        Ok(Some(full))
    }

    /// The ends that no controller has acknowledged, the oldest first. A file that makes no sense is left alone.
    pub(super) fn ended(&self) -> io::Result<Vec<RunResult>> {
        let mut ended = Vec::new();
        for path in self.ending_with(RESULT)? {
            if let Ok(full) = decode::<FullResult>(&fs::read(&path)?) {
                ended.push(full.result);
            }
        }
        ended.sort_by_key(|result| (result.ended_unix_ms, result.run));
        Ok(ended)
    }

    /// A controller has it. `grows`: late reclaims may still be added.
    pub(super) fn acknowledge(&self, run: RunId, grows: bool) -> io::Result<()> {
        let result = self.path(run, RESULT);
        // Without its result a run that is still there as active would be one whose keeper was killed.
        if result.try_exists()? && self.left()?.is_some_and(|journal| journal.args.run == run) {
            remove(&self.dir.join(ACTIVE))?;
        }
        if !grows {
            return self.forget(run);
        }
        if result.try_exists()? { fs::rename(result, self.path(run, FETCHED)) } else { Ok(()) }
    }

    fn forget(&self, run: RunId) -> io::Result<()> {
        [LATE, FETCHED, RESULT].into_iter().try_for_each(|end| remove(&self.path(run, end)))
    }

    fn ending_with(&self, end: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == end) {
                found.push(path);
            }
        }
        Ok(found)
    }
}

/// A late reclaim is in the result. One that was refused has a row too, and counts for nothing.
pub(super) fn add_late(full: &mut FullResult, row: LockFate) {
    full.result.late += u64::from(row.fate == Fate::Resurrected);
    let mut locks = std::mem::take(&mut full.locks).into_vec();
    locks.push(row);
    full.locks = List::clipped(locks);
}

/// All clients of a run: what they have is unsure.
pub(super) fn all_unsure(journal: &Journal, why: &str) -> Vec<UnsureClient> {
    let all = journal.clients.as_slice().iter();
    all.map(|client| unsure(client, journal.args.run, DoubtKind::Refused, why)).collect()
}

/// One of them.
pub(super) fn unsure(client: &RunClient, run: RunId, kind: DoubtKind, why: &str) -> UnsureClient {
    let (addresses, name, why) = (client.addresses.clone(), client.name.clone(), Text::clipped(why));
    UnsureClient { addresses, name, doubt: Doubt { run, kind, why } }
}

/// How a run has ended whose keeper died: it is not known what became of what was pending.
pub(super) fn interrupted(journal: Journal, now_unix_ms: u64) -> FullResult {
    let Journal { args, begun, began_unix_ms, clients, dropping } = journal;
    let dropped = match dropping.as_slice().len() {
        0 => "nothing was dropped".to_owned(),
        some => format!("it had sent, or was about to send, UNLOCK for {some} locks"),
    };
    let reason = format!(
        "the process in front of lockd was killed; {dropped}; reclaims that came after it may have been refused: runs keep \
         these locks, and `nlmctl locks` names them"
    );
    let (states, times) = ((begun.old_state, begun.new_state), (began_unix_ms, now_unix_ms));
    FullResult::cut_off((args.run, args.mode), states, times, &reason, begun.in_scope, clients.as_slice().iter())
}

/// What was kept in this result is not known to be there: lockd was not asked by us alone.
pub(super) fn superseded(full: FullResult) -> FullResult {
    let FullResult { mut result, clients, locks } = full;
    let unverified = |counts: &mut Counts| counts.unverified += std::mem::take(&mut counts.kept);
    unverified(&mut result.counts);
    result.outcome = Outcome::Superseded;
    let mut clients = clients.into_vec();
    for client in &mut clients {
        unverified(&mut client.counts);
    }
    FullResult { result, clients: List::clipped(clients), locks }
}

/// Of these locks it is not known whether they are free: they were to be, and lockd has not answered, or its records cannot
/// be read.
pub(super) fn unverified(full: FullResult, rows: &[LockFate]) -> FullResult {
    let FullResult { mut result, clients, locks } = full;
    let mut clients = clients.into_vec();
    for row in rows.iter().filter(|row| !row.partial) {
        let is_its = |client: &&mut ClientResult| client.name == row.owner.name && client.address == row.owner.address;
        let of_client = clients.iter_mut().find(is_its).map(|client| &mut client.counts);
        for counts in of_client.into_iter().chain([&mut result.counts]) {
            counts.unverified += u64::from(counts.kept > 0);
            counts.kept = counts.kept.saturating_sub(1);
        }
    }
    let is_one = |kept: &LockFate| {
        rows.iter().any(|row| row.owner == kept.owner && row.file == kept.file && row.range == kept.range)
    };
    let mut locks = locks.into_vec();
    locks.retain(|row| row.fate != Fate::Kept || !is_one(row));
    FullResult { result, clients: List::clipped(clients), locks: List::clipped(locks) }
}
