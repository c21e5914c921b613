//! Files that lockd has open, with their locks, blocked requests and shares: chain by chain of the table.

use std::collections::HashSet;

use super::clients::{Clients, client};
use super::error::Unsettled;
use super::locks::{OpenFile, held};
use super::names::Names;
use super::reader::{Reader, number, number32, same, undisturbed};
use super::view::{HeldLock, Share, Waiter, Way};
use super::waiters;
use crate::wire::types::{FileHandle, OwnerHandle};

/// `FILE_NRHASH`. A larger table would show in locks that are missing.
pub(super) const TABLE: u64 = 128;
/// Most shares of one file. A longer list is taken for one that changed while it was read.
const MAX_SHARES: usize = 1 << 16;

/// What a record of a file says by itself; the same before and after its locks were read.
#[derive(Debug, PartialEq, Eq)]
struct Raw {
    handle: FileHandle,
    opened: Vec<u64>,
    shares: u64,
}

/// A file's record, and where its locks are.
struct Entry {
    at: u64,
    raw: Raw,
    file: OpenFile,
    context: u64,
}

#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) locks: Vec<HeldLock>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) shares: Vec<Share>,
}

/// One chain of the table.
struct Chain<'a> {
    reader: Reader<'a>,
    clients: &'a Clients,
    /// `nlmsvc_lock_operations`: a lock that has these is lockd's.
    operations: u64,
    found: Records,
}

/// Reads files, locks, blocked requests and shares.
pub(super) fn read(reader: Reader<'_>, clients: &Clients, table: u64, operations: u64) -> Result<Records, Unsettled> {
    let (mut names, mut all) = (Names::new(reader), Records::default());
    for place in 0..TABLE {
        let found = undisturbed(|| {
            let mut chain = Chain { reader, clients, operations, found: Records::default() };
            chain.read(table + 8 * place, &mut names)?;
            Ok(chain.found)
        })?;
        all.locks.extend(found.locks);
        all.waiters.extend(found.waiters);
        all.shares.extend(found.shares);
    }
    Ok(all)
}

impl Records {
    /// Drops the locks of clients that are not among these: `/proc/locks` shows them, so another pass looks for them. Of what
    /// it does not show the whole pass must be made again.
    pub(super) fn keep_only(&mut self, clients: &Clients) -> Result<(), Unsettled> {
        let known: HashSet<Way> = clients.values().map(|known| known.client.way).collect();
        self.locks.retain(|lock| known.contains(&lock.owner.way));
        let waiters = self.waiters.iter().map(|waiter| waiter.wanted.owner.way);
        let is_whole = waiters.chain(self.shares.iter().map(|share| share.way)).all(|way| known.contains(&way));
        if is_whole { Ok(()) } else { Err(Unsettled::Changed("a client came or went")) }
    }
}

impl Chain<'_> {
    fn read(&mut self, head: u64, names: &mut Names<'_>) -> Result<(), Unsettled> {
        let entries = self.entries(head, names)?;
        for entry in &entries {
            if entry.context != 0 {
                self.locks(entry)?;
            }
            self.shares(entry)?;
            self.blocked(entry)?;
        }
        for entry in &entries {
            if self.raw(&self.reader.record(entry.at, self.reader.layout.file.size)?)? != entry.raw {
                return Err(Unsettled::Changed("a file was closed or opened anew"));
            }
        }
        Ok(())
    }

    fn entries(&self, head: u64, names: &mut Names<'_>) -> Result<Vec<Entry>, Unsettled> {
        let (reader, layout) = (self.reader, &self.reader.layout.file);
        let mut entries = Vec::new();
        reader.each((head, 0), layout.size, layout.link, |at, record| {
            let raw = self.raw(record)?;
            // A record that is being made has nothing open yet.
            let Some(opened) = raw.opened.iter().copied().find(|opened| *opened != 0) else { return Ok(()) };
            let inode = reader.number_at(opened, layout.inode)?;
            let device = reader.number_at(reader.number_at(inode, layout.superblock)?, layout.device)?;
            let device = u32::try_from(device).map_err(|_| Unsettled::Changed("a device is too large"))?;
            let (dentry, mount) = (reader.number_at(opened, layout.dentry)?, reader.number_at(opened, layout.mount)?);
            let (path, deleted) = names.path(dentry, mount)?;
            let file = OpenFile {
                handle: raw.handle.clone(),
                device: (device >> 20, device & 0xf_ffff),
                inode: reader.number_at(inode, layout.number)?,
                path,
                deleted,
            };
            entries.push(Entry { at, raw, file, context: reader.number_at(inode, layout.context)? });
            Ok(())
        })?;
        Ok(entries)
    }

    fn raw(&self, record: &[u8]) -> Result<Raw, Unsettled> {
        let layout = &self.reader.layout.file;
        let length = usize::try_from(number(record, layout.handle_size)?).unwrap_or(usize::MAX);
        let handle = layout.handle.bytes(record).and_then(|bytes| bytes.get(..length));
        let handle = handle.ok_or(Unsettled::Changed("a file handle is too long"))?;
        let opened = layout.opened.bytes(record).unwrap_or_default().chunks_exact(8);
        let pointer = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        let shares = self.reader.layout.share.as_ref().map(|share| number(record, share.first)).transpose()?;
        Ok(Raw {
            handle: FileHandle::new(handle).map_err(|_| Unsettled::Changed("a file handle is too long"))?,
            opened: opened.map(pointer).collect(),
            shares: shares.unwrap_or_default(),
        })
    }

    /// The locks on a file's inode that came by this handle of it.
    fn locks(&mut self, entry: &Entry) -> Result<(), Unsettled> {
        let (reader, layout) = (self.reader, &self.reader.layout.lock);
        let head = entry.context.wrapping_add(reader.layout.file.locks.offset() as u64);
        reader.each((head, head), layout.size, layout.link, |at, record| {
            let is_ours = number(record, layout.operations)? == self.operations;
            if !is_ours || !entry.raw.opened.contains(&number(record, layout.opened)?) {
                return Ok(());
            }
            let owner_at = number(record, layout.owner)?;
            let owner = reader.record(owner_at, layout.owner_size)?;
            // lockd gives the room of an owner that is gone to the next one, so the owner counts only if lock and owner are
            // the same once more after both were read.
            let again = reader.record(at, layout.size)?;
            let owner_again = reader.record(owner_at, layout.owner_size)?;
            for field in [layout.owner, layout.operations, layout.start, layout.end, layout.kind, layout.opened] {
                same(record, &again, field)?;
            }
            for field in [layout.owner_host, layout.owner_svid] {
                same(&owner, &owner_again, field)?;
            }
            // The lock of a client that came after the hosts were read is found in the next pass: `/proc/locks` shows
            // it.
            let Some(known) = self.clients.get(&number(&owner, layout.owner_host)?) else { return Ok(()) };
            let svid = number32(&owner, layout.owner_svid)?;
            let range = (number(record, layout.start)?, number(record, layout.end)?);
            self.found.locks.extend(held(known, svid, &entry.file, number(record, layout.kind)?, range)?);
            Ok(())
        })
    }

    fn blocked(&mut self, entry: &Entry) -> Result<(), Unsettled> {
        let blocked = waiters::read(self.reader, self.clients, entry.at, &entry.file)?;
        blocked.mark(&mut self.found.locks);
        self.found.waiters.extend(blocked.waiters);
        Ok(())
    }

    fn shares(&mut self, entry: &Entry) -> Result<(), Unsettled> {
        let Some(layout) = &self.reader.layout.share else { return Ok(()) };
        let mut next = entry.raw.shares;
        let mut left = MAX_SHARES;
        while next != 0 {
            left = left.checked_sub(1).ok_or(Unsettled::Changed("a list of shares does not end"))?;
            let record = self.reader.record(next, layout.size)?;
            if number(&record, layout.file)? != entry.at {
                return Err(Unsettled::Changed("a share is another file's"));
            }
            let known = client(self.clients, number(&record, layout.host)?)?;
            let oh = self.reader.netobj(number(&record, layout.oh)?, number(&record, layout.oh_size)?)?;
            let file = &entry.file;
            self.found.shares.push(Share {
                way: known.client.way,
                caller: known.client.caller.clone(),
                handle: file.handle.clone(),
                device: file.device,
                inode: file.inode,
                path: file.path.clone(),
                deleted: file.deleted,
                oh: OwnerHandle::new(&oh).map_err(|_| Unsettled::Changed("a netobj is too long"))?,
                access: number32(&record, layout.access)?,
                mode: number32(&record, layout.mode)?,
                monitored: known.client.monitored,
            });
            next = number(&record, layout.next)?;
        }
        Ok(())
    }
}
