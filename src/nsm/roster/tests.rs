//! Which kind a path is, and where rosters are found.

use std::os::unix::fs::symlink;

use super::*;
use crate::host::Machine;
use crate::wire::types::NsmState;

/// A root with these files; the folders on the way are made.
fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        Machine::at(root.path()).lay(name, bytes);
    }
    root
}

fn seen(rosters: &[Roster]) -> Vec<(Kind, Vec<&str>)> {
    rosters.iter().map(|r| (r.kind, r.entries.iter().map(|entry| entry.host.as_str()).collect())).collect()
}

#[test]
fn both_layouts_of_linux_are_found() {
    let debian = root(&[("var/lib/nfs/sm/a", b""), ("var/lib/nfs/sm.bak/b", b"")]);
    assert_eq!(seen(&find(debian.path()).unwrap()), [(Kind::Linux, vec!["a", "b"])]);
    let red_hat = root(&[("var/lib/nfs/statd/sm/a", b""), ("var/lib/nfs/statd/state", &3_i32.to_ne_bytes())]);
    let found = find(red_hat.path()).unwrap();
    assert_eq!(seen(&found), [(Kind::Linux, vec!["a"])]);
    assert_eq!(found[0].state, Some(NsmState(3)));
    let both = root(&[("var/lib/nfs/sm/a", b""), ("var/lib/nfs/statd/sm/b", b"")]);
    assert_eq!(seen(&find(both.path()).unwrap()), [(Kind::Linux, vec!["b"]), (Kind::Linux, vec!["a"])]);
}

#[test]
fn freebsd_and_illumos_are_found() {
    let freebsd = root(&[("var/db/statd.status", &[0; 256])]);
    assert_eq!(seen(&find(freebsd.path()).unwrap()), [(Kind::FreeBsd, vec![])]);
    let illumos = root(&[("var/statmon/sm/a", b""), ("var/statmon/state", b"5         ")]);
    assert_eq!(seen(&find(illumos.path()).unwrap()), [(Kind::Illumos, vec!["a"])]);
}

#[test]
fn where_nothing_is_nothing_is_found_and_where_something_cannot_be_read_it_is_said() {
    let empty = root(&[]);
    assert_eq!(find(empty.path()).unwrap(), []);
    let other = root(&[("var/lib/nfs/etab", b""), ("var/lib/nfs/rmtab", b"")]);
    assert_eq!(find(other.path()).unwrap(), [], "the server's other files are no hosts");
    let odd = root(&[("var/db/statd.status", b"hello")]);
    assert!(find(odd.path()).unwrap_err().to_string().contains("statd.status"));
    let dangling = root(&[]);
    fs::create_dir_all(dangling.path().join("var")).unwrap();
    symlink("/nonexistent", dangling.path().join("var/statmon")).unwrap();
    assert!(matches!(find(dangling.path()), Err(RosterError::Unreadable { .. })));
}

#[test]
fn a_path_may_be_a_home_or_the_records_in_it() {
    let linux = root(&[("lib/sm/a", b""), ("lib/sm.bak/b", b"")]);
    let at = |path: &str| read(&linux.path().join(path)).unwrap();
    assert_eq!(seen(&at("lib")), [(Kind::Linux, vec!["a", "b"])]);
    assert_eq!(seen(&at("lib/sm")), [(Kind::Linux, vec!["a"])]);
    assert!(at("lib/sm.bak")[0].entries[0].overdue);
    let illumos = root(&[("statmon/sm/a", b""), ("statmon/state", b"5         ")]);
    assert_eq!(seen(&read(&illumos.path().join("statmon/sm")).unwrap()), [(Kind::Illumos, vec!["a"])]);
    // A copy of an sm/ under any name.
    let record = format!("0100007f 000186b5 00000003 00000010 {} a filer\n", "ab".repeat(16));
    let copy = root(&[("copy/a", record.as_bytes()), ("copy/b", b"")]);
    assert_eq!(seen(&read(&copy.path().join("copy")).unwrap()), [(Kind::Linux, vec!["a", "b"])]);
}

#[test]
fn a_folder_that_is_no_statds_is_an_error_and_an_empty_sm_has_nobody() {
    let root = root(&[("etc/security/limits.conf", b"# limits\n"), ("etc/security/x.d/y", b""), ("lib/state", b"")]);
    for folder in ["empty", "lib/sm"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    for folder in ["etc/security", "etc/security/x.d", "etc", "empty"] {
        let error = read(&root.path().join(folder)).unwrap_err();
        assert!(matches!(error, RosterError::NoRecords { .. }), "{folder}: {error}");
    }
    for statds in ["lib", "lib/sm"] {
        assert_eq!(seen(&read(&root.path().join(statds)).unwrap()), [(Kind::Linux, vec![])], "{statds}");
    }
}

#[test]
fn what_is_neither_file_nor_folder_is_an_error_and_hangs_nobody() {
    let folder = root(&[]);
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(read(&pipe).unwrap_err().to_string().contains("not a regular file"));
    assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("not a regular file"));
    assert!(read(&folder.path().join("nothing")).is_err());
}
