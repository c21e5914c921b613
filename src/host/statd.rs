//! The folder of this host's rpc.statd (nfs-utils): monitor records in `sm/`, and the NSM state number
//! in `state`.
//!
//! # Which folder
//! nfs-utils is built for `/var/lib/nfs` (Debian) or for `/var/lib/nfs/statd` (Red Hat), and both may be
//! there. All take the first of these:
//! 1. the folder in which rpc.statd runs, which is right wherever it is. Any user may start a process of that name, so
//!    it is rpc.statd only if it runs as root, as this process' user, or as the owner of a known `sm/`, which root
//!    alone can have made his, and from an executable that is called so and that is root's;
//! 2. one with `sm/` and `state`: sm-notify makes the second, so it is in use, or was;
//! 3. one with `sm/`: nothing has run there yet.
//!
//! Of two that are alike `statd/` is first: only an nfs-utils that uses it makes it, while every one
//! makes `/var/lib/nfs`, for the exports.
//!
//! A user who can write there chooses whom a run tells. So a folder that was found is used only if it and its `sm/` belong
//! to those users, and no other user can write in them.
//!
//! # The number
//! An int of the machine in four bytes. It is read as statd reads it: what follows is ignored, and an
//! even number (down) means the next odd one, which statd makes of it at its start. A raised number is
//! odd, and after the file's and the last that was told: clients ignore one that they know. A new file
//! replaces the old one, so that the number survives a crash of the machine; it keeps owner and mode,
//! since rpc.statd reads it as its own user. The kernel has a copy for the LOCK calls of this host's own
//! NFS client, which follows. Where that fails the number is good all the same: notices carry the file's.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::{FileError, Machine, replace};
use super::private::{Folder, WRITE_OF_OTHERS, check_owner, open_plain, trusted_users};
use crate::wire::types::NsmState;

/// Its name, and that of its executable.
const PROGRAM: &str = "rpc.statd";
/// Longest file that is looked at for a number, in bytes: it has four. What is beyond is not read.
const MAX_STATE: u64 = 64;
/// Where distributions have it, or have `statd/` in it.
const NFS: &str = "var/lib/nfs";
/// The kernel's copy of the state number.
const KERNELS_STATE: &str = "proc/sys/fs/nfs/nsm_local_state";
/// Every user may read the number, as where nfs-utils makes the file.
const STATE_MODE: u32 = 0o644;

/// Why there is no folder or no number to be had, or it was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatdDirError {
    /// No statd has a folder here.
    #[error("rpc.statd has no folder `sm` in {nfs}/statd or {nfs}", nfs = .0.display())]
    NoFolder(PathBuf),
    /// Others than statd could have written there.
    #[error("rpc.statd's folder {path} is not used: {1}", path = .0.display())]
    NotStatds(PathBuf, #[source] io::Error),
    /// The number was never made.
    #[error("there is no file `state` of rpc.statd in {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read rpc.statd's state number in {path}: {1}", path = .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// It has so few bytes.
    #[error("cannot read rpc.statd's state number in {path}: it has {1} bytes, not 4", path = .0.display())]
    TooShort(PathBuf, usize),
    /// It cannot be replaced.
    #[error("cannot write rpc.statd's state number to {path}: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
}

#[derive(Debug, Clone)]
pub struct StatdDir {
    machine: Machine,
    dir: PathBuf,
}

/// Folders of a statd at `base`, the one to prefer first.
pub fn statd_folders(base: &Path) -> Vec<PathBuf> {
    [base.join("statd"), base.to_owned()].into_iter().filter(|folder| folder.join("sm").is_dir()).collect()
}

impl StatdDir {
    /// The folder that was named, or the one that is found.
    pub fn find(machine: &Machine, named: Option<&Path>) -> Result<Self, StatdDirError> {
        let found = || {
            let running = machine.statds().unwrap_or_default();
            let works = running.into_iter().filter_map(|pid| machine.working_folder(pid));
            let known = statd_folders(&machine.path(NFS));
            let used = known.iter().filter(|folder| folder.join("state").is_file());
            works.chain(used.chain(&known).cloned()).find(|folder| folder.join("sm").is_dir())
        };
        if let Some(named) = named {
            return Ok(Self { machine: machine.clone(), dir: named.to_owned() });
        }
        let dir = found().ok_or_else(|| StatdDirError::NoFolder(machine.path(NFS)))?;
        let users = machine.statds_users();
        // The folder itself may be root's link to another disk; what is in it may be statd's own doing.
        let folder = fs::canonicalize(&dir).and_then(|path| Folder::open(&path)?.check(&users));
        folder.map_err(|error| StatdDirError::NotStatds(dir.clone(), error))?;
        let sm = Folder::open(&dir.join("sm")).and_then(|sm| sm.check_strictly(&users));
        sm.map_err(|error| StatdDirError::NotStatds(dir.join("sm"), error))?;
        Ok(Self { machine: machine.clone(), dir })
    }

    /// Which folder it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }
    /// The folder of the monitor records.
    pub fn sm(&self) -> PathBuf {
        self.dir.join("sm")
    }
    fn state_file(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn state(&self) -> Result<NsmState, StatdDirError> {
        let path = self.state_file();
        let mut bytes = Vec::new();
        let read = self.check_state().and_then(|()| open_plain(&path)?.take(MAX_STATE).read_to_end(&mut bytes));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StatdDirError::Missing(self.dir.clone()),
            _ => StatdDirError::Unreadable(path.clone(), error),
        })?;
        let number = bytes.first_chunk().ok_or(StatdDirError::TooShort(path, bytes.len()))?;
        let state = NsmState(i32::from_ne_bytes(*number));
        Ok(if state.is_up() { state } else { state.next_up() })
    }

    /// Refuses a file of a user who is none of statd's: a new one would be his again, since it keeps its owner.
    fn check_state(&self) -> io::Result<()> {
        let mut users = trusted_users();
        let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid());
        users.extend([owner(&self.dir), owner(&self.sm())].into_iter().flatten());
        check_owner(&fs::symlink_metadata(self.state_file())?, &users)
    }

    /// Makes the number durable, and the kernel's.
    pub fn write_state(&self, state: NsmState) -> Result<(), StatdDirError> {
        let path = self.state_file();
        match self.check_state() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StatdDirError::Write(path, error)),
            Ok(()) | Err(_) => {}
        }
        let written = replace(&path, &state.0.to_ne_bytes(), STATE_MODE);
        written.map_err(|source| StatdDirError::Write(path, source))?;
        self.machine.set_kernels_nsm_state(state);
        Ok(())
    }

    /// A number after `last` and after what is in the file, durable in the file.
    pub fn raise_state(&self, last: NsmState) -> Result<NsmState, StatdDirError> {
        let next = self.state()?.later(last).next_up();
        self.write_state(next)?;
        Ok(next)
    }
}

impl Machine {
    /// The processes that are rpc.statd, and not only called so.
    pub fn statds(&self) -> Result<Vec<i32>, FileError> {
        let users = self.statds_users();
        let mut pids = self.named(PROGRAM)?;
        pids.retain(|&pid| self.runs(pid, PROGRAM, &users));
        Ok(pids)
    }

    /// The users that rpc.statd may run as here, or that may own its files.
    fn statds_users(&self) -> Vec<u32> {
        let mut users = trusted_users();
        let trusted = users.clone();
        let known = self.path(NFS);
        // The folder's owner counts only where no other user can have made it.
        let is_roots =
            fs::metadata(&known).is_ok_and(|meta| trusted.contains(&meta.uid()) && meta.mode() & WRITE_OF_OTHERS == 0);
        if is_roots {
            let owner = |folder: PathBuf| fs::symlink_metadata(folder.join("sm")).ok().map(|meta| meta.uid());
            users.extend(statd_folders(&known).into_iter().filter_map(owner));
        }
        users
    }

    /// The kernel's copy of the state number; none where it has no lockd, or was not told any.
    pub fn kernels_nsm_state(&self) -> Option<NsmState> {
        let number: i64 = self.number(KERNELS_STATE).ok()?;
        // It is printed signed or unsigned, as the kernel's version has it.
        let signed = u32::try_from(number).map(u32::cast_signed).or_else(|_| i32::try_from(number)).ok()?;
        Some(NsmState(signed)).filter(|state| state.is_known())
    }

    /// Makes `state` the kernel's number. Where that is not possible it is said in the log.
    pub fn set_kernels_nsm_state(&self, state: NsmState) {
        match self.write(KERNELS_STATE, &state.to_string()) {
            Ok(()) => {}
            // No kernel lockd here: no copy exists.
            Err(error) if error.is_missing() => {}
            Err(error) => tracing::warn!(%error, "the kernel's copy of the NSM state number is old"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::time::{Duration, Instant};

    use super::*;

    const KNOWN: [&str; 2] = ["var/lib/nfs/statd", "var/lib/nfs"];

    /// A machine with these folders, `+` with a state number.
    fn with_folders(folders: &[&str]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            let at = root.path().join(folder.trim_end_matches('+'));
            fs::create_dir_all(at.join("sm")).unwrap();
            for folder in ["", "sm"] {
                fs::set_permissions(at.join(folder), Permissions::from_mode(0o755)).unwrap();
            }
            if folder.ends_with('+') {
                fs::write(at.join("state"), 7_i32.to_ne_bytes()).unwrap();
            }
        }
        let machine = Machine::at(root.path());
        (root, machine)
    }

    fn found(machine: &Machine) -> String {
        let dir = StatdDir::find(machine, None).unwrap();
        dir.path().strip_prefix(machine.path("")).unwrap().display().to_string()
    }

    #[test]
    fn red_hats_folder_is_found_and_debians() {
        for folder in KNOWN {
            assert_eq!(found(&with_folders(&[folder]).1), folder);
        }
        let error = StatdDir::find(&with_folders(&[]).1, None).unwrap_err().to_string();
        assert!(error.contains("var/lib/nfs"), "{error}");
    }

    #[test]
    fn of_both_layouts_the_one_in_use_is_taken_and_else_red_hats() {
        let (red_hat, debian) = (KNOWN[0], KNOWN[1]);
        assert_eq!(found(&with_folders(&KNOWN).1), red_hat);
        assert_eq!(found(&with_folders(&["var/lib/nfs+", red_hat]).1), debian, "no statd has run in the other");
        assert_eq!(found(&with_folders(&["var/lib/nfs", "var/lib/nfs/statd+"]).1), red_hat);
        assert_eq!(found(&with_folders(&["var/lib/nfs+", "var/lib/nfs/statd+"]).1), red_hat);
        let all = |machine: &Machine| statd_folders(&machine.path(NFS));
        let machine = with_folders(&KNOWN);
        assert_eq!(all(&machine.1), KNOWN.map(|folder| machine.1.path(folder)));
    }

    fn own() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    /// A process called rpc.statd, of a user, from an executable.
    fn process(root: &Path, user: u32, exe: &str) {
        let (dir, exe) = (root.join("proc/7"), root.join(exe));
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(exe.parent().unwrap()).unwrap();
        fs::write(&exe, "").unwrap();
        fs::set_permissions(&exe, Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("comm"), "rpc.statd\n").unwrap();
        fs::write(dir.join("status"), format!("Name:\trpc.statd\nUid:\t{user}\t{user}\t{user}\t{user}\n")).unwrap();
        let _ = fs::remove_file(dir.join("exe"));
        symlink(exe, dir.join("exe")).unwrap();
    }

    fn works_in(root: &Path, folder: &str) {
        let _ = fs::remove_file(root.join("proc/7/cwd"));
        symlink(root.join(folder), root.join("proc/7/cwd")).unwrap();
    }

    #[test]
    fn a_process_that_only_has_statds_name_chooses_no_folder() {
        let (root, machine) = with_folders(&["var/lib/nfs+", "home/evil+"]);
        process(root.path(), own(), "usr/sbin/rpc.statd");
        works_in(root.path(), "home/evil");
        assert_eq!(found(&machine), "home/evil", "this one is genuine");
        let ours = |what: &str| {
            assert_eq!((found(&machine), machine.statds().unwrap()), ("var/lib/nfs".to_owned(), vec![]), "{what}");
        };
        process(root.path(), own() + 1, "usr/sbin/rpc.statd");
        ours("another user's");
        fs::write(root.path().join("proc/7/status"), format!("Uid:\t{}\t0\t0\t0\n", own() + 1)).unwrap();
        ours("a program that root lets others run");
        process(root.path(), own(), "usr/bin/python3");
        ours("a program that renamed itself");
        process(root.path(), own(), "home/rpc.statd");
        fs::set_permissions(root.path().join("home/rpc.statd"), Permissions::from_mode(0o777)).unwrap();
        ours("an executable that everybody can change");
        fs::remove_file(root.path().join("proc/7/status")).unwrap();
        ours("nobody knows whose");
    }

    #[test]
    fn a_folder_that_everybody_can_write_in_is_refused_also_where_statd_runs_in_it() {
        let (root, machine) = with_folders(&["var/lib/nfs+", "srv/statd+"]);
        process(root.path(), own(), "usr/sbin/rpc.statd");
        works_in(root.path(), "srv/statd");
        for (folder, bits, fine) in [
            ("srv/statd", 0o777, false),
            ("srv/statd", 0o1777, true),
            ("srv/statd/sm", 0o775, false),
            ("srv/statd/sm", 0o1777, false),
        ] {
            fs::set_permissions(root.path().join(folder), Permissions::from_mode(bits)).unwrap();
            let dir = StatdDir::find(&machine, None);
            assert_eq!(dir.is_ok(), fine, "{folder} {bits:o}");
            assert!(fine || matches!(dir, Err(StatdDirError::NotStatds(..))));
            fs::set_permissions(root.path().join(folder), Permissions::from_mode(0o755)).unwrap();
        }
        fs::rename(root.path().join("srv/statd/sm"), root.path().join("elsewhere")).unwrap();
        symlink(root.path().join("elsewhere"), root.path().join("srv/statd/sm")).unwrap();
        assert!(StatdDir::find(&machine, None).is_err(), "a link in the place of sm/");
    }

    #[test]
    fn a_link_in_the_place_of_the_number_is_neither_followed_nor_copied() {
        let (folder, dir) = with(&7_i32.to_ne_bytes());
        let (state, precious) = (folder.path().join("state"), folder.path().join("precious"));
        fs::write(&precious, 9_i32.to_ne_bytes()).unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o6755)).unwrap();
        fs::remove_file(&state).unwrap();
        symlink(&precious, &state).unwrap();
        assert!(matches!(dir.state(), Err(StatdDirError::Unreadable(..))));
        dir.write_state(NsmState(11)).unwrap();
        assert_eq!(fs::read(&precious).unwrap(), 9_i32.to_ne_bytes());
        let made = fs::symlink_metadata(&state).unwrap();
        assert_eq!((made.is_file(), made.mode() & 0o7777), (true, 0o644));
    }

    #[test]
    #[ignore = "wants root"]
    fn what_another_user_owns_is_not_statds() {
        let (root, machine) = with_folders(&["var/lib/nfs", "srv/statd+"]);
        let (known, srv) = (root.path().join("var/lib/nfs"), root.path().join("srv/statd"));
        process(root.path(), 103, "usr/sbin/rpc.statd");
        works_in(root.path(), "srv/statd");
        assert_eq!(found(&machine), "var/lib/nfs", "103 is nobody's number");
        chown(known.join("sm"), Some(103), None).unwrap();
        assert_eq!(found(&machine), "srv/statd", "it is statd's");
        for folder in [srv.clone(), srv.join("sm")] {
            chown(&folder, Some(7), None).unwrap();
            let refused = StatdDir::find(&machine, None).unwrap_err().to_string();
            assert!(refused.contains("belongs to user 7"), "{refused}");
            chown(&folder, Some(103), None).unwrap();
        }
        let dir = StatdDir::find(&machine, None).unwrap();
        chown(srv.join("state"), Some(7), None).unwrap();
        assert!(dir.state().is_err() && dir.write_state(NsmState(5)).is_err());
        chown(srv.join("state"), Some(103), None).unwrap();
        dir.write_state(NsmState(5)).unwrap();
        assert_eq!(fs::metadata(srv.join("state")).unwrap().uid(), 103);
        // Where any user can have made the known folder, its owner says nothing.
        fs::set_permissions(&known, Permissions::from_mode(0o1777)).unwrap();
        assert!(machine.statds().unwrap().is_empty());
    }

    /// A program of user 65534, by this name, that runs in a folder of its own; it ends with the test.
    struct Impostor(std::process::Child, tempfile::TempDir);

    impl Impostor {
        fn start(name: &str) -> Self {
            use std::os::unix::process::CommandExt;
            let home = tempfile::tempdir().unwrap();
            fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
            let program = home.path().join(name);
            fs::copy("/bin/sleep", &program).unwrap();
            fs::create_dir(home.path().join("sm")).unwrap();
            for path in [home.path(), &program, &home.path().join("sm")] {
                chown(path, Some(65534), Some(65534)).unwrap();
            }
            let mut command = std::process::Command::new(program);
            let started = command.arg("300").current_dir(home.path()).uid(65534).gid(65534).spawn().unwrap();
            let started = Self(started, home);
            // It has its name a moment after it has begun.
            let (comm, until) = (format!("/proc/{}/comm", started.pid()), Instant::now() + Duration::from_secs(10));
            while fs::read_to_string(&comm).unwrap().trim_end() != name {
                assert!(Instant::now() < until, "{name} does not begin");
                std::thread::yield_now();
            }
            started
        }
        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Impostor {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    #[ignore = "wants root"]
    fn a_real_program_of_another_user_is_neither_statd_nor_lockd_whatever_its_name() {
        let machine = Machine::default();
        let (statd, lockd) = (Impostor::start("rpc.statd"), Impostor::start("lockd"));
        assert!(machine.named("rpc.statd").unwrap().contains(&statd.pid()));
        assert!(machine.named("lockd").unwrap().contains(&lockd.pid()));
        assert!(!machine.statds().unwrap().contains(&statd.pid()));
        assert!(!machine.kernel_threads("lockd").unwrap().contains(&lockd.pid()));
        if let Ok(dir) = StatdDir::find(&machine, None) {
            assert_ne!(dir.path(), statd.1.path());
        }
    }

    #[test]
    fn where_statd_runs_is_its_folder_whatever_else_is_there() {
        let (root, machine) = with_folders(&["var/lib/nfs+", "var/lib/nfs/statd+", "srv/statd"]);
        process(root.path(), own(), "usr/sbin/rpc.statd");
        let works_in = |folder: &str| {
            works_in(root.path(), folder);
            found(&machine)
        };
        assert_eq!(works_in("srv/statd"), "srv/statd");
        assert_eq!(works_in("var/lib/nfs"), "var/lib/nfs");
        assert_eq!(works_in("elsewhere"), "var/lib/nfs/statd", "a container's folder is not there");
        assert_eq!(StatdDir::find(&machine, Some(Path::new("/named"))).unwrap().sm(), Path::new("/named/sm"));
    }

    fn with(bytes: &[u8]) -> (tempfile::TempDir, StatdDir) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state"), bytes).unwrap();
        let dir = StatdDir::find(&Machine::at(folder.path()), Some(folder.path())).unwrap();
        (folder, dir)
    }

    #[test]
    fn a_number_is_read_as_statd_reads_it() {
        let read = |number: i32| with(&number.to_ne_bytes()).1.state().unwrap();
        assert_eq!((read(7), read(8), read(-3), read(0)), (NsmState(7), NsmState(9), NsmState(-3), NsmState(1)));
    }

    #[test]
    fn a_missing_number_a_short_one_and_one_that_cannot_be_read_are_told_apart() {
        let (folder, dir) = with(b"abc");
        assert!(matches!(dir.state(), Err(StatdDirError::TooShort(_, 3))));
        fs::remove_file(folder.path().join("state")).unwrap();
        assert!(matches!(dir.state(), Err(StatdDirError::Missing(_))));
        fs::create_dir(folder.path().join("state")).unwrap();
        assert!(matches!(dir.state(), Err(StatdDirError::Unreadable(..))));
    }

    #[test]
    fn a_raised_number_is_odd_and_neither_the_files_nor_the_last() {
        let (_folder, dir) = with(&7_i32.to_ne_bytes());
        assert_eq!(dir.raise_state(NsmState(7)).unwrap(), NsmState(9));
        assert_eq!(dir.state().unwrap(), NsmState(9), "and it is in the file");
        assert_eq!(dir.raise_state(NsmState(11)).unwrap(), NsmState(13), "11 is known already");
        assert_eq!(with(&i32::MAX.to_ne_bytes()).1.raise_state(NsmState(1)).unwrap(), NsmState(i32::MIN + 1));
    }

    #[test]
    fn the_file_stays_as_readable_as_it_was_and_the_kernel_has_its_copy() {
        let (folder, dir) = with(&7_i32.to_ne_bytes());
        let (state, kernels) = (folder.path().join("state"), folder.path().join(KERNELS_STATE));
        fs::create_dir_all(kernels.parent().unwrap()).unwrap();
        fs::write(&kernels, "7").unwrap();
        fs::set_permissions(&state, Permissions::from_mode(0o604)).unwrap();
        dir.write_state(NsmState(-9)).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o604);
        assert_eq!(fs::read_to_string(&kernels).unwrap(), "-9");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
        fs::remove_file(&state).unwrap();
        dir.write_state(NsmState(3)).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o644, "one that was not there");
    }

    #[test]
    fn the_kernel_prints_its_number_signed_or_unsigned() {
        let (folder, dir) = with(&[]);
        let kernels = folder.path().join(KERNELS_STATE);
        fs::create_dir_all(kernels.parent().unwrap()).unwrap();
        for (text, number) in
            [("4294967255\n", Some(-41)), ("-41", Some(-41)), ("41", Some(41)), ("0", None), ("x", None)]
        {
            fs::write(&kernels, text).unwrap();
            assert_eq!(dir.machine.kernels_nsm_state(), number.map(NsmState), "{text}");
        }
    }
}
