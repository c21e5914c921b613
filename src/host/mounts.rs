//! Finds out whether this host holds NLM locks on another server (statement 12).
//!
//! One SM_NOTIFY serves both roles: a peer that gets it reclaims its locks *and* frees those that
//! this host's own processes hold on it. Only an NFSv3 (or v2) mount with network locks has such
//! locks; `nolock` and `local_lock=all` keep them at home.

use std::net::IpAddr;
use std::path::PathBuf;

use super::addresses::is_own_address;
use super::files::{FileError, Machine};

/// Where the kernel lists this process' mounts (proc(5)).
const MOUNTINFO: &str = "proc/self/mountinfo";

/// A mount of this host whose locks a notice from this host would lose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NlmMount {
    /// What is mounted: `server:/path`.
    pub source: String,
    pub mount_point: PathBuf,
    /// The server's address (`addr=`).
    pub server: Option<IpAddr>,
}

impl NlmMount {
    /// Whether it comes from this host itself. One whose server's address is not told may.
    pub fn is_from_this_host(&self) -> bool {
        self.server.is_none_or(is_own_address)
    }
}

impl Machine {
    /// The mounts of this process that use NLM.
    pub fn nlm_mounts(&self) -> Result<Vec<NlmMount>, FileError> {
        Ok(parse_mounts(&self.read(MOUNTINFO)?))
    }
}

/// The mounts in the text of a mountinfo file that use NLM. Lines that are not as proc(5) says are
/// not NFS mounts that this kernel made, and count for nothing.
fn parse_mounts(mountinfo: &str) -> Vec<NlmMount> {
    mountinfo.lines().filter_map(nlm_mount).collect()
}

fn nlm_mount(line: &str) -> Option<NlmMount> {
    let (before, after) = line.split_once(" - ")?;
    let mount_point = unescape(before.split(' ').nth(4)?);
    let mut fields = after.split(' ');
    let (fs_type, source, options) = (fields.next()?, fields.next()?, fields.next()?);
    // Linux shows v4 mounts as nfs4, except where a distribution's mount says nfs with vers=4.x.
    if fs_type != "nfs" {
        return None;
    }
    let options: Vec<&str> = options.split(',').collect();
    let value = |key: &str| options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('='));
    let version = value("vers").or_else(|| value("nfsvers"));
    if version.is_some_and(|v| v.starts_with('4')) {
        return None;
    }
    if options.contains(&"nolock") || value("local_lock") == Some("all") {
        return None;
    }
    Some(NlmMount {
        source: unescape(source),
        mount_point: unescape(&mount_point).into(),
        server: value("addr").and_then(|a| a.parse().ok()),
    })
}

/// Undoes the octal escapes for blank, tab, newline and backslash (proc(5)).
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let octal = escaped.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) if byte.is_ascii() => {
                out.push(char::from(byte));
                rest = escaped.get(3..).unwrap_or_default();
            }
            _ => {
                out.push('\\');
                rest = escaped;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n";

    fn nfs(options: &str) -> String {
        format!("{ROOT}98 22 0:52 / /mnt/home\\040dirs rw,noatime shared:9 master:2 - nfs srv:/home {options}\n")
    }

    #[test]
    fn an_nfsv3_mount_with_network_locks_is_named_with_its_server() {
        let found = parse_mounts(&nfs("rw,vers=3,proto=tcp,local_lock=none,mountaddr=10.0.0.8,addr=10.0.0.9"));
        assert_eq!(
            found,
            [NlmMount {
                source: "srv:/home".into(),
                mount_point: "/mnt/home dirs".into(),
                server: Some("10.0.0.9".parse().unwrap())
            }]
        );
    }

    #[test]
    fn mounts_whose_locks_stay_at_home_do_not_count() {
        for options in ["rw,vers=3,nolock", "rw,vers=3,local_lock=all,addr=10.0.0.9", "rw,vers=4.2", "rw,nfsvers=4"] {
            assert_eq!(parse_mounts(&nfs(options)), [], "{options}");
        }
        assert_eq!(parse_mounts("98 22 0:52 / /mnt rw shared:9 - nfs4 srv:/ rw,vers=4.2,addr=10.0.0.9\n"), []);
    }

    #[test]
    fn half_local_locks_and_version_2_still_use_nlm() {
        for options in ["rw,vers=3,local_lock=flock", "rw,vers=3,local_lock=posix", "rw,vers=2", "rw"] {
            assert_eq!(parse_mounts(&nfs(options)).len(), 1, "{options}");
        }
    }

    #[test]
    fn a_mount_from_this_host_is_known_by_the_servers_address() {
        let from = |address: &str| parse_mounts(&nfs(&format!("rw,vers=3,addr={address}"))).remove(0);
        assert!(from("127.0.0.1").is_from_this_host());
        assert!(!from("192.0.2.1").is_from_this_host());
        assert!(from("somewhere").is_from_this_host(), "not known is not no");
    }

    #[test]
    fn odd_lines_hide_nothing() {
        let text = format!("\n - \n- -\n1 2 3\n98 22 0:52 / /a\\9zz - nfs\n{}", nfs("rw,vers=3,addr=fe80::1%eth0"));
        let found = parse_mounts(&text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].server, None);
    }

    #[test]
    fn the_file_of_this_machine_can_be_read_and_a_missing_one_is_an_error() {
        Machine::default().nlm_mounts().unwrap();
        let error = Machine::at("/nonexistent").nlm_mounts().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/proc/self/mountinfo"), "{error}");
    }
}
