//! nfs-utils' statd: `state` is four bytes of the machine's order; `sm/` has a file a monitored
//! host, named after it, with a line for each SM_MON: `addr prog vers proc priv mon_name my_name`,
//! where the numbers are 8 hex digits and priv is 32. `sm.bak/` has those who were not told of the
//! last restart yet. A file whose lines are all odd still names its host.

use std::io::ErrorKind;
use std::path::Path;

use super::entry::{Kind, Roster, RosterEntry, RosterError, host_name, names_in, read_capped};
use super::format::Format;
use crate::wire::nsm::{MonArgs, MonId, MyId};
use crate::wire::types::{CallerName, NsmState};

/// Longest `sm/` file that is read, in bytes; statd writes a few hundred.
const MAX_RECORD_FILE: u64 = 64 << 10;

pub(super) const FORMAT: Format = Format { kind: Kind::Linux, parse_state, read_into };

fn parse_state(bytes: &[u8]) -> Option<NsmState> {
    Some(NsmState(i32::from_ne_bytes(bytes.try_into().ok()?)))
}

fn read_into(dir: &Path, overdue: bool, roster: &mut Roster) -> Result<(), RosterError> {
    for name in names_in(dir)? {
        let path = dir.join(&name);
        let Some(host) = name.to_str().and_then(host_name) else {
            roster.warn(&path, None, "skipped: its name is not that of a host");
            continue;
        };
        match read_capped(&path, MAX_RECORD_FILE) {
            Ok(text) => {
                if text.len() as u64 > MAX_RECORD_FILE {
                    let problem = format!("longer than {MAX_RECORD_FILE} bytes; what is beyond was not read");
                    roster.warn(&path, None, problem);
                }
                read_record(host, &path, &text, overdue, roster);
            }
            // statd removes a record at any time: the host is no longer monitored.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                roster.warn(&path, None, format!("skipped: {error}"));
            }
            Err(error) => {
                roster.warn(&path, None, format!("cannot be read ({error}); its host is notified all the same"));
                roster.entries.push(RosterEntry::new(host, overdue));
            }
        }
    }
    Ok(())
}

/// The lines of one file of `sm/`.
fn read_record(host: &str, path: &Path, text: &[u8], overdue: bool, roster: &mut Roster) {
    let (first, warned) = (roster.entries.len(), roster.warnings.len());
    for (number, line) in text.split(|&b| b == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        if line.trim().is_empty() {
            continue;
        }
        match parse_line(&line) {
            Ok(monitor) => {
                let entry = RosterEntry { monitor: Some(monitor), ..RosterEntry::new(host, overdue) };
                if !roster.entries.get(first..).unwrap_or_default().contains(&entry) {
                    roster.entries.push(entry);
                }
            }
            Err(problem) => {
                let problem = format!("{problem}; the line is not used, its host is notified all the same");
                roster.warn(path, Some(number + 1), problem);
            }
        }
    }
    if roster.entries.len() == first {
        if roster.warnings.len() == warned {
            roster.warn(path, None, "empty; its host is notified all the same");
        }
        roster.entries.push(RosterEntry::new(host, overdue));
    }
}

/// `addr prog vers proc priv mon_name my_name`, as nfs-utils' `nsm_create_monitor_record` writes
/// it. addr is always that of loopback.
fn parse_line(line: &str) -> Result<MonArgs, &'static str> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [addr, prog, vers, procedure, private, mon_name, my_name] = fields.as_slice() else {
        return Err("not the seven fields of a statd record");
    };
    let number = |field: &str| {
        let digits = field.len() == 8 && field.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed = if digits { u32::from_str_radix(field, 16).ok() } else { None };
        parsed.ok_or("one of the first four fields is not 8 hex digits")
    };
    number(addr)?;
    let (my_prog, my_vers, my_proc) = (number(prog)?, number(vers)?, number(procedure)?);
    let mut bytes = [0; 16];
    hex::decode_to_slice(private, &mut bytes).map_err(|_| "its private data is not 32 hex digits")?;
    let mon_name = CallerName::new(mon_name).map_err(|_| "its mon_name is not a host name")?;
    let my_name = CallerName::new(my_name).map_err(|_| "its my_name is not a host name")?;
    Ok(MonArgs { mon_id: MonId { mon_name, my_id: MyId { my_name, my_prog, my_vers, my_proc } }, private: bytes })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::read_sm_dir;
    use super::*;

    const LINE: &str = "0100007f 000186b5 00000003 00000010 00010203 x";

    fn line(mon_name: &str, my_name: &str) -> String {
        format!("0100007f 000186b5 00000003 00000010 {} {mon_name} {my_name}\n", "ab".repeat(16))
    }

    fn dir(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn hosts(roster: &Roster) -> Vec<&str> {
        roster.entries.iter().map(|entry| entry.host.as_str()).collect()
    }

    #[test]
    fn a_record_gives_its_host_and_the_request_behind_it() {
        let sm = dir(&[("a.example.org", line("a", "filer").as_bytes())]);
        let roster = read_sm_dir(sm.path()).unwrap();
        let name = |name| CallerName::new(name).unwrap();
        let my_id = MyId { my_name: name("filer"), my_prog: 100_021, my_vers: 3, my_proc: 16 };
        let monitor = MonArgs { mon_id: MonId { mon_name: name("a"), my_id }, private: [0xAB; 16] };
        let entry = RosterEntry { host: "a.example.org".into(), overdue: false, monitor: Some(monitor) };
        assert_eq!(roster.entries, [entry]);
        assert_eq!(roster.warnings, []);
    }

    #[test]
    fn every_request_for_a_host_is_kept_once() {
        let text = [line("a", "filer"), line("a", "filer"), line("a", "alias")].concat();
        let roster = read_sm_dir(dir(&[("a", text.as_bytes())]).path()).unwrap();
        let names: Vec<_> =
            roster.entries.iter().map(|e| e.monitor.as_ref().unwrap().mon_id.my_id.my_name.as_str()).collect();
        assert_eq!(names, ["filer", "alias"]);
    }

    #[test]
    fn dotfiles_are_not_hosts() {
        let roster = read_sm_dir(dir(&[(".a.tmp", line("a", "b").as_bytes()), ("10.0.0.1", b"")]).path()).unwrap();
        assert_eq!(hosts(&roster), ["10.0.0.1"]);
    }

    #[test]
    fn odd_lines_are_told_and_their_host_is_kept() {
        let odd: [&[u8]; 9] = [
            b"",
            b"\n\n",
            b"\xff\xfe\x00",
            LINE.as_bytes(),
            b"0100007f 000186b5",
            b"zzzzzzzz 000186b5 00000003 00000010 000102030405060708090a0b0c0d0e0f a b\n",
            b"+100007f 000186b5 00000003 00000010 000102030405060708090a0b0c0d0e0f a b\n",
            b"0100007f 000186b5 00000003 00000010 0001 a b\n",
            b"0100007f 000186b5 00000003 00000010 000102030405060708090a0b0c0d0e0f a b c\n",
        ];
        for text in odd {
            let roster = read_sm_dir(dir(&[("host", text)]).path()).unwrap();
            assert_eq!(hosts(&roster), ["host"], "{text:?}");
            assert_eq!(roster.entries[0].monitor, None);
            assert_eq!(roster.warnings.len(), 1, "{text:?}: {:?}", roster.warnings);
            let told = roster.warnings[0].to_string();
            assert!(told.contains("/host") && told.contains("notified all the same"), "{told}");
        }
    }

    #[test]
    fn a_good_line_beside_an_odd_one_counts_and_the_odd_one_is_told_with_its_number() {
        let text = format!("nonsense\n{}", line("a", "filer"));
        let roster = read_sm_dir(dir(&[("a", text.as_bytes())]).path()).unwrap();
        assert_eq!(roster.entries.len(), 1);
        assert!(roster.entries[0].monitor.is_some());
        assert_eq!(roster.warnings[0].at, Some(1));
    }

    #[test]
    fn files_that_name_no_host_and_things_that_are_no_files_are_told() {
        use std::os::unix::ffi::OsStrExt;
        let sm = dir(&[("-rf", b""), ("a b", b""), ("good", line("a", "b").as_bytes())]);
        fs::write(sm.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), b"").unwrap();
        fs::create_dir(sm.path().join("folder")).unwrap();
        nix::unistd::mkfifo(&sm.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("nowhere", sm.path().join("dangling")).unwrap();
        let roster = read_sm_dir(sm.path()).unwrap();
        assert_eq!(hosts(&roster), ["good"]);
        assert_eq!(roster.warnings.len(), 6, "{:?}", roster.warnings);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_that_names_it() {
        let error = read_sm_dir(Path::new("/nonexistent/sm")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/sm"), "{error}");
    }

    #[test]
    fn reading_changes_nothing() {
        let sm = dir(&[("a", b"odd"), ("b", line("a", "b").as_bytes())]);
        let before = fs::metadata(sm.path().join("a")).unwrap().modified().unwrap();
        read_sm_dir(sm.path()).unwrap();
        assert_eq!(fs::read(sm.path().join("a")).unwrap(), b"odd");
        assert_eq!(fs::metadata(sm.path().join("a")).unwrap().modified().unwrap(), before);
        assert_eq!(fs::read_dir(sm.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_folder_of_statd_has_its_state_and_those_it_still_has_to_tell() {
        let home = tempfile::tempdir().unwrap();
        for name in ["sm", "sm.bak"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        fs::write(home.path().join("state"), (-7_i32).to_ne_bytes()).unwrap();
        fs::write(home.path().join("sm/a"), line("a", "filer")).unwrap();
        fs::write(home.path().join("sm.bak/b"), line("b", "filer")).unwrap();
        let roster = FORMAT.read_home(home.path()).unwrap();
        assert_eq!(roster.state, Some(NsmState(-7)));
        let seen: Vec<_> = roster.entries.iter().map(|entry| (entry.host.as_str(), entry.overdue)).collect();
        assert_eq!(seen, [("a", false), ("b", true)]);
        assert_eq!(read_sm_dir(&home.path().join("sm")).unwrap().state, Some(NsmState(-7)), "also from sm/ itself");
        fs::write(home.path().join("state"), b"nonsense").unwrap();
        let roster = FORMAT.read_home(home.path()).unwrap();
        assert_eq!((roster.state, roster.warnings.len()), (None, 1));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_record_holds_its_host_is_notified(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let roster = read_sm_dir(dir(&[("host", &text)]).path()).unwrap();
            proptest::prop_assert!(roster.entries.iter().all(|entry| entry.host == "host"));
            let told = roster.warnings.len() + roster.entries.iter().filter(|e| e.monitor.is_some()).count();
            proptest::prop_assert!(!roster.entries.is_empty() && told > 0);
        }
    }
}
