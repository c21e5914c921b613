//! Processes, as far as this one may see them (proc(5)), and the boot that they began in.
//!
//! A process chooses its own name. So a name alone says nothing about who it is: a thread of the
//! kernel has a flag that no program can have, and a program has users and an executable, which [`Machine::runs`]
//! compares with what is trusted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::files::{FileError, Machine};
use super::private::{WRITE_OF_OTHERS, trusted_users};

/// The flag of the kernel's own threads in a process' `stat` (PF_KTHREAD).
const KERNEL_THREAD: u32 = 0x0020_0000;
/// What the kernel puts behind the name of an executable that was replaced while it runs.
const DELETED: &str = " (deleted)";

/// What a process' `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Whether it is a thread of the kernel.
    pub(super) of_kernel: bool,
    /// When it started, in ticks since boot.
    pub(super) start: u64,
}

impl Machine {
    /// The numbers of all processes.
    pub fn processes(&self) -> Result<Vec<i32>, FileError> {
        Ok(self.list("proc")?.iter().filter_map(|name| name.parse().ok()).collect())
    }
    /// A process' name, as the kernel shows it.
    pub fn process_name(&self, pid: i32) -> Option<String> {
        self.word(&format!("proc/{pid}/comm")).ok()
    }
    /// The processes of a name.
    pub fn named(&self, name: &str) -> Result<Vec<i32>, FileError> {
        let mut pids = self.processes()?;
        pids.retain(|&pid| self.process_name(pid).as_deref() == Some(name));
        Ok(pids)
    }
    /// The kernel's own threads of a name.
    pub fn kernel_threads(&self, name: &str) -> Result<Vec<i32>, FileError> {
        let mut pids = self.named(name)?;
        // One that ends meanwhile is left out.
        pids.retain(|&pid| self.stat(pid).is_ok_and(|stat| stat.of_kernel));
        Ok(pids)
    }
    /// Whether a process runs as one of `users` alone, from an executable of this name that no other user than root
    /// and this process' own can change. False where that does not show.
    pub(super) fn runs(&self, pid: i32, program: &str, users: &[u32]) -> bool {
        let status = self.read(&format!("proc/{pid}/status")).unwrap_or_default();
        let runs_as = parse_users(&status);
        if runs_as.is_empty() || !runs_as.iter().all(|user| users.contains(user)) {
            return false;
        }
        let exe = self.path(&format!("proc/{pid}/exe"));
        // The link itself leads to the file that runs, also where its name is that of another one by now.
        let (Ok(target), Ok(meta)) = (fs::read_link(&exe), fs::metadata(&exe)) else { return false };
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_suffix(DELETED).unwrap_or(name) == program
            && trusted_users().contains(&meta.uid())
            && meta.mode() & WRITE_OF_OTHERS == 0
    }
    /// The folder that a process works in, if this one may know.
    pub(super) fn working_folder(&self, pid: i32) -> Option<PathBuf> {
        fs::read_link(self.path(&format!("proc/{pid}/cwd"))).ok()
    }
    /// A process' descriptors and what they are open on. One that is closed meanwhile is left out.
    pub fn descriptors(&self, pid: i32) -> Result<Vec<(String, PathBuf)>, FileError> {
        let folder = format!("proc/{pid}/fd");
        let target = |name: String| {
            let target = fs::read_link(self.path(&folder).join(&name)).ok()?;
            Some((name, target))
        };
        Ok(self.list(&folder)?.into_iter().filter_map(target).collect())
    }
    /// Kind and start of a process.
    pub(super) fn stat(&self, pid: i32) -> Result<Stat, FileError> {
        let file = format!("proc/{pid}/stat");
        let odd = || FileError::Odd(self.path(&file), "no flags and start of a process".into());
        parse_stat(&self.read(&file)?).ok_or_else(odd)
    }
    /// Whether two processes (`self` and numbers) are known to be in one network namespace.
    pub fn share_network(&self, one: &str, other: &str) -> bool {
        let of = |process: &str| fs::read_link(self.path(&format!("proc/{process}/ns/net")));
        matches!((of(one), of(other)), (Ok(one), Ok(other)) if one == other)
    }

    pub fn boot_id(&self) -> Result<String, FileError> {
        self.word("proc/sys/kernel/random/boot_id")
    }
    /// Names this boot of the machine: its number, and when its first process (of this container)
    /// started. Empty where that cannot be known.
    pub fn boot(&self) -> String {
        let started = self.stat(1).map(|init| init.start.to_string());
        format!("{} {}", self.boot_id().unwrap_or_default(), started.unwrap_or_default()).trim().to_owned()
    }
    /// Words that differ for every start of a process: numbers and times begin anew with each boot.
    pub fn life(&self, pid: i32) -> Result<String, FileError> {
        Ok(format!("{} {pid} {}", self.boot_id()?, self.stat(pid)?.start))
    }
}

/// From a process' `stat`: the name in it may have blanks and brackets.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let flags: u32 = fields.get(6)?.parse().ok()?;
    Some(Stat { of_kernel: flags & KERNEL_THREAD != 0, start: fields.get(19)?.parse().ok()? })
}

/// Real, effective, saved and file system user, from a process' `status`; nothing where that is not said.
fn parse_users(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_ascii_whitespace().map_while(|user| user.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_hide_kind_and_start() {
        let rest = "I 2 0 0 0 -1 2097216 0 0 0 0 0 3 0 0 20 0 1 0 2032 0 0 18446744073709551615";
        let stat = Some(Stat { of_kernel: true, start: 2032 });
        assert_eq!(parse_stat(&format!("187 (lockd) {rest}")), stat);
        assert_eq!(parse_stat(&format!("187 (a) b (c) {rest}")), stat);
        assert_eq!(parse_stat("187 (lockd) I 2"), None);
        let of_program = rest.replace("2097216", "4194560");
        assert_eq!(parse_stat(&format!("187 (lockd) {of_program}")), Some(Stat { of_kernel: false, start: 2032 }));
    }

    #[test]
    fn a_process_has_four_users_or_none_that_are_known() {
        assert_eq!(parse_users("Name:\tx\nUid:\t103\t0\t103\t7\nGid:\t1\n"), [103, 0, 103, 7]);
        assert_eq!(parse_users("Name:\tx\n"), [0; 0]);
    }

    #[test]
    fn this_test_runs_from_its_own_executable_as_its_own_user_and_is_no_thread_of_the_kernel() {
        let (machine, own) = (Machine::default(), i32::try_from(std::process::id()).unwrap());
        let program = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let mut users = trusted_users();
        assert!(machine.runs(own, &program, &users));
        assert!(!machine.runs(own, "rpc.statd", &users));
        users.retain(|&user| user != nix::unistd::geteuid().as_raw());
        assert!(!machine.runs(own, &program, &users));
        assert!(machine.kernel_threads(&machine.process_name(own).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_boot_has_a_name_that_stays() {
        let boot = || Machine::default().boot();
        assert!(!boot().is_empty());
        assert_eq!(boot(), boot());
    }

    #[test]
    fn a_process_sees_itself() {
        let (machine, own) = (Machine::default(), i32::try_from(std::process::id()).unwrap());
        let name = machine.process_name(own).unwrap();
        assert!(machine.named(&name).unwrap().contains(&own));
        assert!(machine.share_network("self", &own.to_string()) && !machine.share_network("self", "none"));
        assert!(machine.life(own).unwrap().len() > 36);
        assert!(!machine.descriptors(own).unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,300}") {
            let _ = (parse_stat(&text), parse_users(&text));
        }
    }
}
