//! Blocked requests (`nlm_block`), file by file: the queue of all has a name that lockd has twice. Linux 6.12 keeps none for
//! local file systems: its clients ask again.

use super::clients::{Clients, client};
use super::error::Unsettled;
use super::locks::{OpenFile, held};
use super::reader::{Reader, number, number32, same};
use super::view::{HeldLock, Waiter};
use crate::wire::types::{Cookie, OwnerHandle};

/// The waiters of one file.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    pub(super) waiters: Vec<Waiter>,
    /// Requests that were granted, which their clients have not confirmed yet. The locks are held.
    offered: Vec<HeldLock>,
}

/// Reads those of the file whose record is at an address.
pub(super) fn read(reader: Reader<'_>, clients: &Clients, at: u64, file: &OpenFile) -> Result<Blocked, Unsettled> {
    let layout = &reader.layout.block;
    let head = at.wrapping_add(reader.layout.file.blocks.offset() as u64);
    let mut blocked = Blocked::default();
    reader.each((head, head), layout.size, layout.link, |block, record| {
        let call = reader.record(number(record, layout.call)?, layout.call_size)?;
        let oh = reader.netobj(number(&call, layout.oh)?, number(&call, layout.oh_size)?)?;
        let again = reader.record(block, layout.size)?;
        let call_again = reader.record(number(record, layout.call)?, layout.call_size)?;
        for field in [layout.call, layout.host, layout.file, layout.granted, layout.queued] {
            same(record, &again, field)?;
        }
        for field in [layout.svid, layout.kind, layout.start, layout.end, layout.oh, layout.oh_size] {
            same(&call, &call_again, field)?;
        }
        if number(record, layout.file)? != at {
            return Err(Unsettled::Changed("a blocked request is another file's"));
        }
        if number(record, layout.queued)? == block.wrapping_add(layout.queued.offset() as u64) {
            return Ok(());
        }
        let known = client(clients, number(record, layout.host)?)?;
        let range = (number(&call, layout.start)?, number(&call, layout.end)?);
        let Some(wanted) = held(known, number32(&call, layout.svid)?, file, number(&call, layout.kind)?, range)? else {
            return Ok(());
        };
        if number(record, layout.granted)? != 0 {
            blocked.offered.push(wanted);
            return Ok(());
        }
        let length = usize::try_from(number(&call, layout.cookie_size)?).unwrap_or(usize::MAX);
        let cookie = layout.cookie.bytes(&call).and_then(|bytes| Cookie::new(bytes.get(..length)?).ok());
        blocked.waiters.push(Waiter {
            wanted,
            oh: OwnerHandle::new(&oh).map_err(|_| Unsettled::Changed("a netobj is too long"))?,
            cookie: cookie.ok_or(Unsettled::Changed("a cookie is too long"))?,
        });
        Ok(())
    })?;
    Ok(blocked)
}

impl Blocked {
    /// Marks the locks that were granted so. One may have grown together with its owner's other locks.
    pub(super) fn mark(&self, locks: &mut [HeldLock]) {
        if self.offered.is_empty() {
            return;
        }
        for lock in locks {
            lock.offered |= self.offered.iter().any(|wanted| {
                (wanted.owner, &wanted.handle) == (lock.owner, &lock.handle)
                    && lock.start <= wanted.start
                    && wanted.end <= lock.end
            });
        }
    }
}
