//! statd's monitor records, as they were.
//!
//! Live records are read, never moved, changed or deleted. When nfsd's last thread goes, newer
//! kernels unmonitor every client, and statd removes its record; a client that does not reclaim in
//! this run would then never be told of a reboot again. So the records are read before, and one
//! that has vanished is put back as it was, if there is no new one by then.
//!
//! The folder is statd's user's, who may swap what is in it while root reads and writes there. So it is opened once,
//! no link is followed, and what is read and what gets an owner is an open file.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::syncfs;
use serde::{Deserialize, Serialize};

use crate::host::{FileError, Folder, StatdDir, draft_in, open_plain};

/// Longest record that is kept, in bytes; statd writes a few hundred.
const MAX_RECORD: u64 = 64 << 10;

/// A monitor record as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedRecord {
    /// Its file's name.
    pub(super) host: String,
    /// Its bytes, in hexadecimal.
    pub(super) bytes: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Records and where they belong.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct SavedRecords {
    pub(super) dir: PathBuf,
    pub(super) records: Vec<SavedRecord>,
}

impl SavedRecords {
    pub(super) fn read(statd: &StatdDir) -> Result<Self, FileError> {
        let sm = statd.sm();
        let mut records = Vec::new();
        let folder = Folder::open(&sm).map_err(FileError::read(&sm))?;
        for entry in fs::read_dir(folder.path()).map_err(FileError::read(&sm))? {
            let path = entry.map_err(FileError::read(&sm))?.path();
            let Some(host) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'))
            else {
                continue;
            };
            if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            let mut bytes = Vec::new();
            let read = open_plain(&path).and_then(|file| {
                let meta = file.metadata()?;
                file.take(MAX_RECORD + 1).read_to_end(&mut bytes)?;
                Ok(meta)
            });
            match read {
                Ok(_) if bytes.len() as u64 > MAX_RECORD => {}
                Ok(meta) => records.push(SavedRecord {
                    host: host.to_owned(),
                    bytes: hex::encode(newest_lines(&bytes)),
                    mode: meta.mode(),
                    uid: meta.uid(),
                    gid: meta.gid(),
                }),
                // No longer monitored since the folder was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(FileError::read(&sm.join(host))(error)),
            }
        }
        records.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(Self { dir: statd.path().to_owned(), records })
    }

    /// Puts back what has vanished; the hosts that were.
    pub(super) fn put_back(&self) -> Result<Vec<String>, FileError> {
        let sm = self.dir.join("sm");
        let mut restored = Vec::new();
        if self.records.is_empty() {
            return Ok(restored);
        }
        let folder = Folder::open(&sm).map_err(FileError::write(&sm))?;
        for record in &self.records {
            let put_back = record.put_back(&folder.path().join(&record.host));
            if put_back.map_err(FileError::write(&sm.join(&record.host)))? {
                restored.push(record.host.clone());
            }
        }
        if !restored.is_empty() {
            // Once for all: thousands of single ones would take as many turns of the disk.
            syncfs(folder.file()).map_err(|error| FileError::write(&sm)(error.into()))?;
        }
        Ok(restored)
    }
}

/// Of each client and name of ours the last line: statd appends one when it is asked to monitor a
/// host that has a record already, and only the last one's private data are the kernel's.
fn newest_lines(text: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let names = |line: &[u8]| -> Vec<Vec<u8>> {
        line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).skip(5).map(<[u8]>::to_vec).collect()
    };
    let is_last = |place: usize, line: &[u8]| {
        let later = lines.get(place + 1..).unwrap_or_default();
        names(line).is_empty() || !later.iter().any(|other| names(other) == names(line))
    };
    lines.iter().enumerate().filter(|(place, line)| is_last(*place, line)).flat_map(|(_, line)| line.to_vec()).collect()
}

impl SavedRecord {
    fn put_back(&self, path: &Path) -> io::Result<bool> {
        if fs::symlink_metadata(path).is_ok() {
            return Ok(false);
        }
        let bytes = hex::decode(&self.bytes).map_err(io::Error::other)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        // A dotfile: neither statd nor sm-notify take one for a record.
        let file = draft_in(dir, ".")?;
        file.as_file().write_all(&bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(self.mode & 0o777))?;
        fchown(file.as_file(), Some(self.uid), Some(self.gid))?;
        // Never over one that statd has made meanwhile.
        match file.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Machine;

    fn folder() -> (tempfile::TempDir, StatdDir) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var/lib/nfs/sm")).unwrap();
        let statd = StatdDir::find(&Machine::at(root.path()), None).unwrap();
        (root, statd)
    }

    fn line(private: &str) -> String {
        format!("0100007f 000186b5 00000003 00000010 {} 10.0.0.11 srv\n", private.repeat(16))
    }

    #[test]
    fn a_record_that_vanished_is_put_back_as_it_was_and_a_live_one_is_left_alone() {
        let (root, statd) = folder();
        let sm = root.path().join("var/lib/nfs/sm");
        fs::write(sm.join("c1"), line("01")).unwrap();
        fs::write(sm.join("c2"), line("02")).unwrap();
        fs::write(sm.join(".c3"), line("03")).unwrap();
        fs::set_permissions(sm.join("c1"), fs::Permissions::from_mode(0o600)).unwrap();
        let saved = SavedRecords::read(&statd).unwrap();
        fs::remove_file(sm.join("c1")).unwrap();
        fs::write(sm.join("c2"), line("22")).unwrap();
        assert_eq!(saved.put_back().unwrap(), ["c1"]);
        assert_eq!(fs::read_to_string(sm.join("c1")).unwrap(), line("01"));
        assert_eq!(fs::metadata(sm.join("c1")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(sm.join("c2")).unwrap(), line("22"));
        assert_eq!(saved.put_back().unwrap(), [""; 0]);
        assert_eq!(fs::read_dir(&sm).unwrap().count(), 3);
    }

    #[test]
    fn no_link_in_statds_folder_is_read_and_none_in_its_place_is_written_through() {
        let (root, statd) = folder();
        let (sm, trap) = (root.path().join("var/lib/nfs/sm"), root.path().join("trap"));
        fs::create_dir(&trap).unwrap();
        fs::write(root.path().join("secret"), "secret\n").unwrap();
        fs::write(sm.join("c1"), line("01")).unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), sm.join("c2")).unwrap();
        let saved = SavedRecords::read(&statd).unwrap();
        assert_eq!(saved.records.iter().map(|record| record.host.as_str()).collect::<Vec<_>>(), ["c1"]);
        fs::rename(&sm, root.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&trap, &sm).unwrap();
        assert!(saved.put_back().is_err() && SavedRecords::read(&statd).is_err());
        assert_eq!(fs::read_dir(&trap).unwrap().count(), 0);
    }

    #[test]
    fn of_a_record_that_grew_the_newest_line_is_kept() {
        let other = line("09").replace("srv", "alias");
        let text = [line("01"), other.clone(), line("02")].concat();
        assert_eq!(newest_lines(text.as_bytes()), [other, line("02")].concat().into_bytes());
        assert_eq!(newest_lines(b"odd\n\nodd\n"), b"odd\n\nodd\n");
    }
}
