//! Reads records of lockd's: fields, lists, strings, addresses. All that is in memory may change at any moment, so each
//! list is followed only as long as each link points back to the one before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::Unsettled;
use super::layout::{Layout, Link};
use crate::host::{Field, Memory};
use crate::wire::scope;
use crate::wire::types::{CallerName, MAX_NETOBJ};

/// Strings are read in steps that do not cross into another page, which may not be there.
const STEP: usize = 64;

/// How often one chain of a table is read, at most, until it does not change meanwhile.
const TRIES: usize = 8;

/// Memory, and how records lie in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) memory: &'a Memory,
    pub(super) layout: &'a Layout,
}

/// Reads a chain of a table until it does not change meanwhile. A chain takes far less time than the table, so this ends soon
/// where lockd is busy too.
pub(super) fn undisturbed<T>(mut read: impl FnMut() -> Result<T, Unsettled>) -> Result<T, Unsettled> {
    for _ in 1..TRIES {
        if let Ok(chain) = read() {
            return Ok(chain);
        }
    }
    read()
}

/// A number in a record that was read in full; its field lies in it, as BTF was asked.
pub(super) fn number(record: &[u8], field: Field) -> Result<u64, Unsettled> {
    field.number(record).ok_or(Unsettled::Changed("a record is too short"))
}

/// A number that has 32 bits there.
pub(super) fn number32(record: &[u8], field: Field) -> Result<u32, Unsettled> {
    u32::try_from(number(record, field)?).map_err(|_| Unsettled::Changed("a number is too large"))
}

/// Whether a record that was read twice has the same in a field.
pub(super) fn same(record: &[u8], again: &[u8], field: Field) -> Result<(), Unsettled> {
    let is_same = number(record, field)? == number(again, field)?;
    if is_same { Ok(()) } else { Err(Unsettled::Changed("a record changed while it was read")) }
}

impl Reader<'_> {
    pub(super) fn record(&self, address: u64, size: usize) -> Result<Vec<u8>, Unsettled> {
        Ok(self.memory.bytes(address, size)?)
    }

    /// A number in the record at an address, of which nothing else is wanted. No field of bits.
    pub(super) fn number_at(&self, address: u64, field: Field) -> Result<u64, Unsettled> {
        let mut buffer = [0; 8];
        let bytes = buffer.get_mut(..field.size()).ok_or(Unsettled::Changed("a number is too large"))?;
        self.memory.read(address.wrapping_add(field.offset() as u64), bytes)?;
        number(bytes, field.at_start())
    }

    /// Visits the records of a list, each with its address. `head` is where the list begins, `end` what its last link holds.
    pub(super) fn each(
        &self,
        (head, end): (u64, u64),
        size: usize,
        link: Link,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), Unsettled>,
    ) -> Result<(), Unsettled> {
        let (mut before, mut next) = (head, self.memory.pointer(head)?);
        let mut record = vec![0; size];
        while next != end {
            let address = next.wrapping_sub(link.next.offset() as u64);
            self.memory.read(address, &mut record)?;
            if number(&record, link.back)? != before {
                return Err(Unsettled::Changed("a link does not point back to the one before it"));
            }
            visit(address, &record)?;
            before = next;
            next = number(&record, link.next)?;
        }
        Ok(())
    }

    /// The name at an address: up to its zero byte. None at no address.
    pub(super) fn name(&self, mut address: u64) -> Result<Option<CallerName>, Unsettled> {
        if address == 0 {
            return Ok(None);
        }
        let mut text = Vec::new();
        while text.len() <= MAX_NETOBJ {
            let used = usize::try_from(address % STEP as u64).unwrap_or_default();
            let mut buffer = [0; STEP];
            let part = buffer.get_mut(used..).unwrap_or_default();
            self.memory.read(address, part)?;
            let end = part.iter().position(|byte| *byte == 0);
            text.extend_from_slice(part.get(..end.unwrap_or(part.len())).unwrap_or_default());
            if end.is_some() {
                break;
            }
            address = address.wrapping_add((STEP - used) as u64);
        }
        CallerName::of_bytes(&text).map(Some).map_err(|_| Unsettled::Changed("a name does not end"))
    }

    /// Bytes whose number a client chose, and lockd bounded.
    pub(super) fn netobj(&self, address: u64, length: u64) -> Result<Vec<u8>, Unsettled> {
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_NETOBJ);
        let length = length.ok_or(Unsettled::Changed("a netobj is too long"))?;
        if length == 0 { Ok(Vec::new()) } else { self.record(address, length) }
    }
}

/// An address as a `sockaddr` has it.
pub(super) fn address(record: &[u8], field: Field) -> Result<IpAddr, Unsettled> {
    const INET: u16 = 2;
    const INET6: u16 = 10;
    let odd = || Unsettled::Changed("an address is neither IPv4 nor IPv6");
    let bytes = field.bytes(record).ok_or_else(odd)?;
    let part = |from: usize, length: usize| bytes.get(from..from + length);
    let family = u16::from_ne_bytes(part(0, 2).and_then(|part| part.try_into().ok()).ok_or_else(odd)?);
    match family {
        INET => {
            let v4: [u8; 4] = part(4, 4).and_then(|part| part.try_into().ok()).ok_or_else(odd)?;
            Ok(Ipv4Addr::from(v4).into())
        }
        INET6 => {
            let v6: [u8; 16] = part(8, 16).and_then(|part| part.try_into().ok()).ok_or_else(odd)?;
            let index = u32::from_ne_bytes(part(24, 4).and_then(|part| part.try_into().ok()).ok_or_else(odd)?);
            Ok(scope::on(Ipv6Addr::from(v6).into(), index).ok_or_else(odd)?.to_canonical())
        }
        _ => Err(odd()),
    }
}
