//! Server settings that a run changes for a moment, on disk until they are restored.
//!
//! Written before the first change, removed after the last one was undone: a process that finds the file
//! (the guard, or the next nlmctl) knows what to restore, and that this may be half done.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::KnfsdError;
use super::records::SavedRecords;
use super::settings::Settings;
use crate::host::{FileError, Machine, read_if_there, remove, replace};

/// `nlm_grace_period`, in seconds: read when a grace period begins.
const NLM_GRACE: &str = "proc/sys/fs/nfs/nlm_grace_period";
/// `nlm_timeout`, in seconds: grace lasts a multiple of it.
const NLM_TIMEOUT: &str = "proc/sys/fs/nfs/nlm_timeout";
/// The longest that the kernel takes.
const LONGEST_GRACE: u64 = 240;
const FILE: &str = "put-back.json";
/// How often putting nfsd back is tried by who is waited for; the guard goes on.
const TRIES: u32 = 3;
/// How often the records are read at most until they are the same twice.
const LOOKS: u32 = 8;
/// After the first try; longer after each one.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    boot_id: String,
    /// None where nfsd was not to be stopped.
    pub(super) settings: Option<Settings>,
    nlm_grace: u64,
    /// Where it was set by netlink, and `nlm_grace_period` says nothing.
    #[serde(default)]
    lockd_grace: Option<u32>,
    records: SavedRecords,
}

impl Saved {
    pub(super) fn read(
        machine: &Machine,
        settings: Option<Settings>,
        records: SavedRecords,
    ) -> Result<Self, FileError> {
        let (nlm_grace, lockd_grace) = (machine.number(NLM_GRACE)?, machine.lockd_grace()?);
        Ok(Self { boot_id: machine.boot_id()?, settings, nlm_grace, lockd_grace, records })
    }

    fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// Whether something is to be put back, as far as this process may see that.
    pub(super) fn is_there(dir: &Path) -> bool {
        Self::path(dir).exists()
    }

    /// On disk when this returns.
    pub(super) fn keep(&self, dir: &Path) -> Result<(), FileError> {
        let path = Self::path(dir);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        text.and_then(|text| replace(&path, &text, 0o600)).map_err(FileError::write(&path))
    }

    /// Keeps the records as they are now: read again until what is on disk is what was read last, as
    /// far as clients that come meanwhile let that happen.
    pub(super) fn renew_records(
        &mut self,
        dir: &Path,
        read: impl Fn() -> Result<SavedRecords, FileError>,
    ) -> Result<(), FileError> {
        for _ in 0..LOOKS {
            let now = read()?;
            if now == self.records {
                break;
            }
            self.records = now;
            self.keep(dir)?;
        }
        Ok(())
    }

    /// Whether it was written for a signal to this boot's lockd, which may or may not have been sent.
    pub(super) fn may_have_sent_a_signal(&self, machine: &Machine) -> Result<bool, FileError> {
        Ok(self.settings.is_none() && machine.boot_id()? == self.boot_id)
    }

    pub(super) fn find(dir: &Path) -> Result<Option<Self>, FileError> {
        let path = Self::path(dir);
        let Some(text) = read_if_there(&path).map_err(FileError::read(&path))? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| FileError::Odd(path, error.to_string()))
    }

    fn forget(dir: &Path) -> Result<(), FileError> {
        let path = Self::path(dir);
        remove(&path).map_err(FileError::write(&path))
    }

    /// Makes the next grace period of lockd as long as is wanted, as far as it goes.
    pub(super) fn want_grace(&self, machine: &Machine, wanted: std::time::Duration) -> Result<(), FileError> {
        let seconds = wanted.as_secs().clamp(1, LONGEST_GRACE);
        if self.lockd_grace.is_some() {
            return machine.set_lockd_grace(u32::try_from(seconds).unwrap_or(u32::MAX));
        }
        machine.write(NLM_GRACE, &format!("{seconds}\n"))
    }

    /// How long a grace period that begins now lasts.
    pub(super) fn grace(machine: &Machine) -> Result<std::time::Duration, FileError> {
        if let Some(seconds) = machine.lockd_grace()? {
            // The kernel takes it as it is, without making a multiple of the time-out of it.
            return Ok(std::time::Duration::from_secs(seconds.into()));
        }
        let (period, timeout): (u64, u64) = (machine.number(NLM_GRACE)?, machine.number(NLM_TIMEOUT)?);
        Ok(std::time::Duration::from_secs(effective_grace(period, timeout)))
    }

    /// Brings nfsd back, and says what is not as it was. What fails is tried again.
    pub(super) fn bring_nfsd_back(&self, machine: &Machine) -> Result<Vec<String>, KnfsdError> {
        let Some(settings) = &self.settings else { return Ok(Vec::new()) };
        let mut tries = 1;
        loop {
            match settings.put_back(machine) {
                Ok(differences) => return Ok(differences),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => {
                    std::thread::sleep(PAUSE * tries);
                    tries += 1;
                }
            }
        }
    }

    /// Puts the rest back and forgets this; says what was done.
    pub(super) fn put_back(&self, machine: &Machine, dir: &Path) -> Result<Vec<String>, KnfsdError> {
        let mut done = Vec::new();
        let same_boot = machine.boot_id()? == self.boot_id;
        if same_boot {
            let threads = machine.nfsd_threads()?;
            done.extend(self.bring_nfsd_back(machine)?);
            if let Some(settings) = self.settings.as_ref().filter(|settings| settings.threads != threads) {
                done.push(format!("nfsd had {threads} threads and has {} again", settings.threads));
            }
            // It comes first: the kernel lets the file follow.
            if let Some(seconds) = self.lockd_grace
                && machine.lockd_grace()? != Some(seconds)
            {
                machine.set_lockd_grace(seconds)?;
            }
            if machine.number::<u64>(NLM_GRACE)? != self.nlm_grace {
                machine.write(NLM_GRACE, &format!("{}\n", self.nlm_grace))?;
            }
        }
        let restored = self.records.put_back()?;
        if !restored.is_empty() {
            let since =
                if same_boot { "" } else { "; they were not notified of this reboot, and the next run notifies them" };
            done.push(format!("statd had lost the records of {}{since}: they are there again", restored.join(", ")));
        }
        Self::forget(dir)?;
        Ok(done)
    }
}

/// lockd's own rule: a multiple of its time-out, five of them if nothing is set.
fn effective_grace(period: u64, timeout: u64) -> u64 {
    let timeout = timeout.max(1);
    if period == 0 { 5 * timeout } else { period.next_multiple_of(timeout) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::host::{self, Netlink};
    use crate::wire::netlink::Attribute;

    const BOOT: &str = "proc/sys/kernel/random/boot_id";

    #[test]
    fn grace_lasts_multiples_of_the_time_out() {
        assert_eq!(effective_grace(0, 10), 50);
        assert_eq!(effective_grace(1, 10), 10);
        assert_eq!(effective_grace(90, 10), 90);
        assert_eq!(effective_grace(91, 10), 100);
    }

    #[test]
    fn what_was_saved_is_found_until_it_is_put_back() {
        let (root, machine) = Machine::fake(&[(BOOT, "b\n"), (NLM_GRACE, "10\n"), ("proc/fs/nfsd/threads", "8\n")]);
        let dir = root.path();
        assert_eq!((Saved::find(dir).unwrap(), Saved::is_there(dir)), (None, false));
        let records = SavedRecords { dir: dir.into(), records: Vec::new() };
        let saved = Saved::read(&machine, None, records).unwrap();
        saved.keep(dir).unwrap();
        saved.want_grace(&machine, std::time::Duration::from_secs(1000)).unwrap();
        assert_eq!(machine.number::<u64>(NLM_GRACE).unwrap(), LONGEST_GRACE);
        let found = Saved::find(dir).unwrap().unwrap();
        assert_eq!((&found, Saved::is_there(dir)), (&saved, true));
        assert!(found.may_have_sent_a_signal(&machine).unwrap());
        machine.lay(BOOT, "another\n");
        assert!(!found.may_have_sent_a_signal(&machine).unwrap());
        machine.lay(BOOT, "b\n");
        found.put_back(&machine, dir).unwrap();
        assert_eq!(machine.number::<u64>(NLM_GRACE).unwrap(), 10);
        assert_eq!(Saved::find(dir).unwrap(), None);
    }

    /// A kernel that knows the family `lockd`, in the first network namespace: the file follows.
    #[derive(Debug)]
    struct LockdByNetlink(PathBuf, Mutex<u32>);

    impl Netlink for LockdByNetlink {
        fn ask(&self, family: &str, command: u8, attributes: &[Attribute]) -> io::Result<Vec<Attribute>> {
            let mut grace = self.1.lock().unwrap();
            match (family, command) {
                (host::LOCKD, host::SERVER_GET) => Ok(vec![Attribute::number(host::SERVER_GRACE, *grace)]),
                (host::LOCKD, host::SERVER_SET) => {
                    *grace = Attribute::find(attributes, host::SERVER_GRACE).unwrap().as_number().unwrap();
                    assert!(u64::from(*grace) <= LONGEST_GRACE);
                    fs::write(&self.0, format!("{grace}\n")).map(|()| Vec::new())
                }
                _ => Err(io::Error::from_raw_os_error(nix::libc::ENOENT)),
            }
        }
    }

    #[test]
    fn the_grace_that_counts_is_set_and_put_back_by_netlink_where_it_was_set_so_and_in_the_file_where_not() {
        for (by_netlink, file, wanted, lasts) in [(45, 10, 95, 95), (45, 45, 1000, 240), (0, 10, 95, 100), (7, 0, 7, 7)]
        {
            let (root, machine) = Machine::fake(&[
                (BOOT, "b\n"),
                ("proc/fs/nfsd/threads", "8\n"),
                (NLM_TIMEOUT, "10\n"),
                (NLM_GRACE, &format!("{file}\n")),
            ]);
            let lockd = Arc::new(LockdByNetlink(root.path().join(NLM_GRACE), Mutex::new(by_netlink)));
            let (machine, dir) = (machine.answered_by(lockd.clone()), root.path());
            let saved = Saved::read(&machine, None, SavedRecords { dir: dir.into(), records: Vec::new() }).unwrap();
            saved.keep(dir).unwrap();
            saved.want_grace(&machine, std::time::Duration::from_secs(wanted)).unwrap();
            assert_eq!(Saved::grace(&machine).unwrap().as_secs(), lasts, "{by_netlink} {file}");
            Saved::find(dir).unwrap().unwrap().put_back(&machine, dir).unwrap();
            assert_eq!(*lockd.1.lock().unwrap(), by_netlink);
            assert_eq!(machine.number::<u32>(NLM_GRACE).unwrap(), file);
        }
    }

    #[test]
    fn a_client_that_comes_while_records_are_written_is_in_what_is_kept() {
        let (root, machine) = Machine::fake(&[(BOOT, "b\n"), (NLM_GRACE, "10\n")]);
        let dir = root.path();
        // Each look sees another folder until the third one.
        let looks = std::cell::Cell::new(0);
        let read = || {
            looks.set(looks.get() + 1);
            Ok(SavedRecords { dir: dir.join(looks.get().min(3).to_string()), records: Vec::new() })
        };
        let first = read().unwrap();
        let mut saved = Saved::read(&machine, None, first).unwrap();
        saved.keep(dir).unwrap();
        saved.renew_records(dir, read).unwrap();
        assert_eq!((looks.get(), saved.records.dir.clone()), (4, dir.join("3")));
        assert_eq!(Saved::find(dir).unwrap().unwrap(), saved);
    }
}
