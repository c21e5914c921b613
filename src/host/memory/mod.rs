//! The running kernel's memory, read only: addresses, layouts and contents.
//!
//! Theory. `/proc/kallsyms` tells where named things are, BTF how types are laid out in this kernel, and `/proc/kcore` gives
//! the bytes. Nothing stops the kernel while it is read, so a record may change between two reads, and a pointer lead to
//! memory that was freed and reused. Such reads are harmless to the kernel. The reader decides by what must be true
//! of a record whether it is one; here a read is bounded and checked, and never trusted.
//!
//! It takes root in the first namespaces of the machine. A kernel that is locked down for confidentiality
//! (kernel_lockdown(7)) gives nothing.
//!
//! | file | what | |
//! |---|---|---|
//! | `btf` | layout of types | pure |
//! | `symbols` | addresses of names | |
//! | `kcore` | bytes at an address | |

mod btf;
#[cfg(test)]
pub(crate) mod fake;
mod kcore;
mod symbols;

pub use btf::{Btf, BtfError, Field, Type};
pub use kcore::{Memory, MemoryError};
pub use symbols::Symbols;

use std::fs::{self, File};
use std::io::{self, BufReader, Read};

use self::btf::MAX_BTF;
use super::files::{FileError, Machine};

/// The inode of the first process namespace (include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
const KCORE: &str = "proc/kcore";
const KALLSYMS: &str = "proc/kallsyms";
const LOCKDOWN: &str = "sys/kernel/security/lockdown";

impl Machine {
    /// The kernel's memory, for at most so many reads.
    pub fn memory(&self, most: u64) -> Result<Memory, FileError> {
        let path = self.path(KCORE);
        Memory::open(&path, most).map_err(FileError::read(&path))
    }

    /// Addresses of these names of a module.
    pub fn symbols(&self, module: &str, wanted: &[&str]) -> Result<Symbols, FileError> {
        let path = self.path(KALLSYMS);
        let list = File::open(&path).map_err(FileError::read(&path))?;
        Symbols::read(BufReader::with_capacity(1 << 16, list), module, wanted).map_err(FileError::read(&path))
    }

    /// The kernel's types, with a module's, which has none of its own where it is built in.
    pub fn types(&self, module: &str) -> Result<Btf, FileError> {
        let kernel = "sys/kernel/btf/vmlinux".to_owned();
        let odd = |file: &str, error: BtfError| FileError::Odd(self.path(file), error.to_string());
        let mut btf = Btf::new(&self.btf(&kernel)?).map_err(|error| odd(&kernel, error))?;
        let own = format!("sys/kernel/btf/{module}");
        match self.btf(&own) {
            Ok(bytes) => btf.add(&bytes).map_err(|error| odd(&own, error))?,
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        Ok(btf)
    }

    fn btf(&self, file: &str) -> Result<Vec<u8>, FileError> {
        let path = self.path(file);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|opened| opened.take(MAX_BTF).read_to_end(&mut bytes));
        read.map_err(FileError::read(&path))?;
        Ok(bytes)
    }

    /// Whether the kernel is locked down against all reading of its memory.
    pub fn is_locked_down(&self) -> bool {
        self.read(LOCKDOWN).is_ok_and(|modes| modes.contains("[confidentiality]"))
    }
    /// Whether this process is in the machine's first process namespace; `None` where that cannot be known.
    pub fn is_in_first_pid_namespace(&self) -> Option<bool> {
        Some(self.namespace("pid")? == FIRST_PID_NAMESPACE)
    }
    /// The inode of this process' network namespace.
    pub fn network_namespace(&self) -> Option<u64> {
        self.namespace("net")
    }
    fn namespace(&self, kind: &str) -> Option<u64> {
        let link = fs::read_link(self.path(&format!("proc/self/ns/{kind}"))).ok()?;
        link.to_str()?.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
    }
}

/// Whether an error is the kernel's refusal.
pub fn is_refusal(error: &FileError) -> bool {
    matches!(error, FileError::Io(.., error) if error.kind() == io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_this_process_are_known() {
        let machine = Machine::default();
        assert!(machine.network_namespace().is_some_and(|inode| inode > 0));
        assert!(machine.is_in_first_pid_namespace().is_some());
        assert_eq!(Machine::at("/nonexistent").is_in_first_pid_namespace(), None);
    }

    #[test]
    fn lockdown_is_told_by_the_mode_in_brackets() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::at(root.path());
        assert!(!machine.is_locked_down());
        fs::create_dir_all(root.path().join("sys/kernel/security")).unwrap();
        for (modes, locked) in
            [("[none] integrity confidentiality\n", false), ("none integrity [confidentiality]\n", true)]
        {
            fs::write(root.path().join(LOCKDOWN), modes).unwrap();
            assert_eq!(machine.is_locked_down(), locked, "{modes}");
        }
    }
}
