//! What the packages bring beside the programs. `tests/packages` boots them; what can be seen without that is here.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, each with its text.
fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(top().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The settings of a unit, each a key and a value.
fn settings(unit: &str) -> Vec<(&str, &str)> {
    unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

/// nlmctl refuses to send a notice to a server of which this host is itself a client, and looks for the mounts in its own
/// namespace. `tests/packages` sees there that they are in sight.
#[test]
fn no_unit_hides_this_hosts_mounts_from_what_it_runs() {
    let units = files("packaging");
    let units: Vec<_> = units.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "service")).collect();
    assert_eq!(units.len(), 3);
    for (path, unit) in units {
        for (key, value) in settings(unit) {
            let hides = match key {
                "ProtectHome" => value != "read-only" && value != "no",
                "PrivateTmp" => value != "yes" && value != "no",
                "InaccessiblePaths" | "TemporaryFileSystem" | "RootDirectory" | "RootImage" | "MountFlags" => true,
                _ => false,
            };
            assert!(!hides, "{}: {key}={value}", path.display());
        }
    }
}
