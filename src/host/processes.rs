//! Processes, as far as this one may see them (proc(5)), and the boot that they began in.

use std::fs;
use std::path::PathBuf;

use super::files::{FileError, Machine};

/// What a process' `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: i32,
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
    /// Parent and start of a process.
    pub(super) fn stat(&self, pid: i32) -> Result<Stat, FileError> {
        let file = format!("proc/{pid}/stat");
        let odd = || FileError::Odd(self.path(&file), "no parent and start of a process".into());
        parse_stat(&self.read(&file)?).ok_or_else(odd)
    }
    /// Whether two processes (`self` and numbers) are known to be in one network namespace.
    pub fn share_network(&self, one: &str, other: &str) -> bool {
        let of = |process: &str| fs::read_link(self.path(&format!("proc/{process}/ns/net")));
        matches!((of(one), of(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// This boot's number.
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
    Some(Stat { parent: fields.get(1)?.parse().ok()?, start: fields.get(19)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_hide_parent_and_start() {
        let rest = "I 2 0 0 0 -1 2097216 0 0 0 0 0 3 0 0 20 0 1 0 2032 0 0 18446744073709551615";
        let stat = Some(Stat { parent: 2, start: 2032 });
        assert_eq!(parse_stat(&format!("187 (lockd) {rest}")), stat);
        assert_eq!(parse_stat(&format!("187 (a) b (c) {rest}")), stat);
        assert_eq!(parse_stat("187 (lockd) I 2"), None);
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
            let _ = parse_stat(&text);
        }
    }
}
