//! Names of locked files: `/proc/locks` has devices and inodes only.
//!
//! A file system has no way back from an inode to a name, so the folder that is exported is walked,
//! within bounds: a name only makes a report easier to read, and nothing depends on it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::time::{Duration, Instant};

use crate::host::{ETAB, Machine};

/// Entries looked at, at most.
const MOST: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(2);

/// Paths of those of `files` (`major:minor:inode`, the first two in hexadecimal) that are found.
pub(super) fn find(machine: &Machine, files: &[String]) -> HashMap<String, String> {
    let mut wanted: HashMap<(u64, u64), &String> = HashMap::new();
    for file in files {
        if let Some(key) = parse(file) {
            wanted.insert(key, file);
        }
    }
    let mut found = HashMap::new();
    let until = Instant::now() + PATIENCE;
    let mut seen = HashSet::new();
    let mut folders = machine.exports(ETAB);
    folders.sort();
    folders.dedup();
    let mut looked = 0;
    while let Some(folder) = folders.pop() {
        if found.len() == wanted.len() || looked > MOST || Instant::now() > until {
            break;
        }
        let Ok(meta) = fs::metadata(&folder) else { continue };
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        if !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        for entry in entries.flatten() {
            looked += 1;
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if let Some(file) = wanted.get(&(meta.dev(), entry.ino())) {
                found.entry((*file).clone()).or_insert_with(|| entry.path().display().to_string());
            }
        }
    }
    found
}

/// Device and inode, the device as stat(2) has it.
fn parse(file: &str) -> Option<(u64, u64)> {
    let mut parts = file.split(':');
    let major = u64::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u64::from_str_radix(parts.next()?, 16).ok()?;
    let inode = parts.next()?.parse().ok()?;
    parts.next().is_none().then(|| (nix::sys::stat::makedev(major, minor), inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_below_an_export_by_device_and_inode() {
        let root = tempfile::tempdir().unwrap();
        let export = root.path().join("srv/x/deep");
        fs::create_dir_all(&export).unwrap();
        fs::create_dir_all(root.path().join("var/lib/nfs")).unwrap();
        fs::write(export.join("a"), "").unwrap();
        let top = root.path().join("srv/x");
        fs::write(root.path().join(ETAB), format!("{}\t*(rw,sync)\n/nonexistent\t*(ro)\n", top.display())).unwrap();
        let meta = fs::metadata(export.join("a")).unwrap();
        let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
        let file = format!("{major:02x}:{minor:02x}:{}", meta.ino());
        let other = format!("{major:02x}:{minor:02x}:0");
        let found = find(&Machine::at(root.path()), &[file.clone(), other, "odd".into()]);
        assert_eq!(found, HashMap::from([(file, export.join("a").display().to_string())]));
    }
}
