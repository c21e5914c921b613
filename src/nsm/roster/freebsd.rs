//! FreeBSD's statd maps `/var/db/statd.status` (usr.sbin/rpc.statd/statd.h), a C struct of its own
//! machine:
//!
//! | offset | of the file | offset | of a record |
//! |---|---|---|---|
//! | 0 | int `ourState` | 0 | char `hostname[1025]`, ended by a NUL |
//! | 4 | int `noOfHosts` | 1028 | int `notifyReqd` |
//! | 8 | 248 bytes, reserved | 1032 | a pointer of 4 or 8 bytes: not null while it is monitored |
//! | 256 | the records | | |
//!
//! A record is 1,036 bytes where pointers have 4 and 1,040 where they have 8; the file has the size
//! of its header and its records. That tells byte order and pointer size. A slot that is neither
//! monitored nor to be notified is free, and keeps the name of whom it was for.

use std::path::Path;

use super::entry::{Kind, MAX_HOSTS, Roster, RosterEntry, RosterError, host_name, read_capped, unreadable};
use crate::wire::types::NsmState;

/// statd maps no more of it than this.
const MAX_STATUS_FILE: u64 = 0x1000_0000;
const HEADER: usize = 256;
const HOST_NAME: usize = 1025;
const NOTIFY_REQUIRED: usize = 1028;
const POINTER: usize = 1032;
/// Records by which byte order and pointer size are judged where the file's size does not tell.
const LOOKED_AT: usize = 64;

/// A machine's byte order and pointer size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    big_endian: bool,
    pointer: usize,
}

const MACHINES: [Machine; 4] = [
    Machine { big_endian: false, pointer: 8 },
    Machine { big_endian: false, pointer: 4 },
    Machine { big_endian: true, pointer: 8 },
    Machine { big_endian: true, pointer: 4 },
];

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot<'a> {
    Free,
    Host { name: &'a str, overdue: bool },
    Odd,
}

impl Machine {
    fn int(self, bytes: &[u8], at: usize) -> Option<i32> {
        let word = bytes.get(at..)?.first_chunk::<4>()?;
        Some(if self.big_endian { i32::from_be_bytes(*word) } else { i32::from_le_bytes(*word) })
    }

    fn record_size(self) -> usize {
        POINTER + self.pointer
    }

    /// The records that the header counts; `None` if no file can have as many.
    fn count(self, bytes: &[u8]) -> Option<usize> {
        usize::try_from(self.int(bytes, 4)?).ok().filter(|&count| count <= MAX_HOSTS)
    }

    /// The whole records that are there, up to those counted.
    fn records(self, bytes: &[u8], count: usize) -> impl Iterator<Item = &[u8]> {
        bytes.get(HEADER..).unwrap_or_default().chunks_exact(self.record_size()).take(count)
    }

    fn slot(self, record: &[u8]) -> Slot<'_> {
        let name = record.get(..HOST_NAME).unwrap_or_default();
        let name = name.iter().position(|&b| b == 0).and_then(|end| name.get(..end));
        let notify_required = self.int(record, NOTIFY_REQUIRED).unwrap_or_default() != 0;
        let monitored = record.get(POINTER..).unwrap_or_default().iter().any(|&b| b != 0);
        if !notify_required && !monitored {
            return Slot::Free;
        }
        match name.and_then(|name| std::str::from_utf8(name).ok()).and_then(host_name) {
            Some(name) => Slot::Host { name, overdue: notify_required },
            None => Slot::Odd,
        }
    }

    /// How ill the bytes fit this machine; the smallest fits best. The size decides, then the
    /// records; a file without any leaves the state number, which is small on all but a few hosts.
    fn misfit(self, bytes: &[u8]) -> Option<(bool, bool, usize, u32)> {
        let count = self.count(bytes)?;
        let size = HEADER + count * self.record_size();
        let odd = |record: &&[u8]| self.slot(record) == Slot::Odd;
        let odd = self.records(bytes, count.min(LOOKED_AT)).filter(odd).count();
        Some((size != bytes.len(), size > bytes.len(), odd, self.int(bytes, 0)?.unsigned_abs()))
    }
}

/// Reads a `statd.status` of any machine.
pub(super) fn read_status_file(path: &Path) -> Result<Roster, RosterError> {
    let bytes = read_capped(path, MAX_STATUS_FILE).map_err(unreadable(path))?;
    if bytes.len() as u64 > MAX_STATUS_FILE {
        return Err(RosterError::TooLarge { path: path.into(), max: MAX_STATUS_FILE, what: "bytes" });
    }
    parse(path, &bytes).ok_or_else(|| RosterError::NoStatusFile { path: path.into() })
}

fn parse(path: &Path, bytes: &[u8]) -> Option<Roster> {
    if bytes.len() < HEADER {
        return None;
    }
    let (machine, misfit) = MACHINES
        .iter()
        .filter_map(|&machine| Some((machine, machine.misfit(bytes)?)))
        .min_by_key(|(_, misfit)| *misfit)?;
    let count = machine.count(bytes)?;
    let (_, cut_short, odd, _) = misfit;
    let whole = machine.records(bytes, count).count();
    // A file cut short of which not one record makes sense is something else.
    if cut_short && odd == whole.min(LOOKED_AT) {
        return None;
    }
    let mut roster = Roster::new(Kind::FreeBsd, path);
    roster.state = machine.int(bytes, 0).map(NsmState);
    for (number, record) in machine.records(bytes, count).enumerate() {
        match machine.slot(record) {
            Slot::Free => {}
            Slot::Host { name, overdue } => roster.entries.push(RosterEntry::new(name, overdue)),
            Slot::Odd => roster.warn(path, Some(number + 1), "skipped: the record's name is not that of a host"),
        }
    }
    if cut_short {
        let problem = format!("cut short: {count} records are counted, {whole} are there; the others are lost");
        roster.warn(path, None, problem);
    }
    Some(roster)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Row {
        name: Vec<u8>,
        notify_required: bool,
        monitored: bool,
    }

    fn row(name: &str, notify_required: bool, monitored: bool) -> Row {
        Row { name: name.into(), notify_required, monitored }
    }

    fn file(machine: Machine, state: i32, rows: &[Row]) -> Vec<u8> {
        let int = |value: i32| if machine.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&int(state));
        bytes[4..8].copy_from_slice(&int(rows.len().try_into().unwrap()));
        for row in rows {
            let mut record = vec![0; machine.record_size()];
            record[..row.name.len()].copy_from_slice(&row.name);
            record[NOTIFY_REQUIRED..POINTER].copy_from_slice(&int(row.notify_required.into()));
            if row.monitored {
                record[POINTER..].fill(0x5A);
            }
            bytes.extend(record);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Roster> {
        parse(Path::new("statd.status"), bytes)
    }

    fn hosts(roster: &Roster) -> Vec<(&str, bool)> {
        roster.entries.iter().map(|entry| (entry.host.as_str(), entry.overdue)).collect()
    }

    #[test]
    fn hosts_are_read_from_files_of_every_machine_and_free_slots_are_not() {
        let rows = [
            row("a.example.org", false, true),
            row("left", false, false),
            row("192.0.2.7", true, false),
            row("b", true, true),
        ];
        for machine in MACHINES {
            let roster = read(&file(machine, 1_001, &rows)).unwrap();
            assert_eq!(hosts(&roster), [("a.example.org", false), ("192.0.2.7", true), ("b", true)], "{machine:?}");
            assert_eq!(roster.state, Some(NsmState(1_001)), "{machine:?}");
            assert_eq!(roster.warnings, [], "{machine:?}");
        }
    }

    #[test]
    fn a_record_has_the_size_that_the_compiler_of_its_machine_gave_it() {
        assert_eq!(MACHINES.map(Machine::record_size), [1040, 1036, 1040, 1036]);
        assert_eq!(file(MACHINES[0], 1, &[row("a", true, true)]).len(), 256 + 1040);
    }

    #[test]
    fn a_file_without_hosts_has_its_state_all_the_same() {
        for machine in MACHINES {
            assert_eq!(read(&file(machine, 7, &[])).unwrap().state, Some(NsmState(7)), "{machine:?}");
        }
    }

    #[test]
    fn a_file_longer_than_its_records_is_judged_by_them() {
        for machine in MACHINES {
            let mut bytes = file(machine, 3, &[row("a", false, true), row("b", false, true)]);
            bytes.extend([0; 700]);
            assert_eq!(hosts(&read(&bytes).unwrap()), [("a", false), ("b", false)], "{machine:?}");
        }
    }

    #[test]
    fn of_a_file_cut_short_the_whole_records_are_read_and_the_loss_is_told() {
        for machine in MACHINES {
            let mut bytes = file(machine, 3, &[row("a", false, true), row("b", false, true)]);
            bytes.truncate(bytes.len() - 10);
            let roster = read(&bytes).unwrap();
            assert_eq!(hosts(&roster), [("a", false)], "{machine:?}");
            assert!(roster.warnings[0].to_string().contains("2 records are counted, 1 are there"));
        }
    }

    #[test]
    fn a_record_that_names_no_host_is_told_with_its_number() {
        let mut endless = row("", true, false);
        endless.name = vec![b'a'; HOST_NAME];
        let mut binary = row("", true, false);
        binary.name = b"\xff\xfe".to_vec();
        let rows = [row("a", true, true), row("a b", true, false), endless, binary, row("", true, false)];
        let roster = read(&file(MACHINES[0], 3, &rows)).unwrap();
        assert_eq!(hosts(&roster), [("a", true)]);
        let told: Vec<_> = roster.warnings.iter().map(|warning| warning.at).collect();
        assert_eq!(told, [Some(2), Some(3), Some(4), Some(5)]);
    }

    #[test]
    fn what_is_no_status_file_is_refused() {
        for bad in [&b""[..], b"hello", &[0xFF; 256], &[0x7F; 4096], "10.0.0.1\n".repeat(500).as_bytes()] {
            assert!(read(bad).is_none(), "{} bytes", bad.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..4000), count: u8) {
            let _ = read(&bytes);
            let mut counted = bytes;
            if let Some(low) = counted.get_mut(4..8) {
                low.copy_from_slice(&u32::from(count).to_le_bytes());
            }
            if let Some(roster) = read(&counted) {
                prop_assert!(roster.entries.len() + roster.warnings.len() <= usize::from(count) + 1);
            }
        }

        #[test]
        fn what_a_machine_wrote_is_read(
            machine in 0..4_usize,
            state: i32,
            names in prop::collection::vec("[a-z][a-z0-9.]{0,10}[a-z]", 1..20),
        ) {
            let names: Vec<_> = names.into_iter().filter(|name| host_name(name).is_some()).collect();
            prop_assume!(!names.is_empty());
            let rows: Vec<_> = names.iter().map(|name| row(name, false, true)).collect();
            let roster = read(&file(MACHINES[machine], state, &rows)).unwrap();
            prop_assert_eq!(roster.state, Some(NsmState(state)));
            let read: Vec<_> = roster.entries.iter().map(|entry| &entry.host).collect();
            prop_assert_eq!(read, names.iter().collect::<Vec<_>>());
        }
    }
}
