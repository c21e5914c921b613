//! This host's files: mounts, statd's records and state number, the kernel's NFS server, who else
//! locks here, room on disk. Reads, and changes nothing.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::{Kind, Places};
use crate::controller::mounts_of;
use crate::host::{ETAB, Machine, folder_of};
use crate::nsm::roster::{self, Roster};
use crate::report::{Failure, Finding, Severity};
use crate::resync::plan::{LocalMount, own_mounts_allow};
use crate::units::{count, number};

/// With less room than this a run of many locks may not fit.
const LITTLE: u64 = 256 << 20;
/// With less than this none should be begun.
const TOO_LITTLE: u64 = 16 << 20;
/// nfs-utils' and FreeBSD's.
const STATD: &str = "rpc.statd";
/// Where nlmd keeps its state, unless it was told otherwise.
const NLMD_STATE: &str = "var/lib/nlmd";

/// What was seen of this host.
#[derive(Debug)]
pub(super) struct HostFindings {
    /// NFSv3 mounts that lock over the network, or why they are not known.
    pub(super) mounts: Result<Vec<LocalMount>, String>,
    pub(super) findings: Vec<Finding>,
}

pub(super) fn look(kind: Kind, places: &Places) -> HostFindings {
    let machine = Machine::at(&places.root);
    let running: Vec<String> =
        machine.processes().unwrap_or_default().into_iter().filter_map(|pid| machine.process_name(pid)).collect();
    let mut findings = records(kind, &machine, running.iter().any(|name| name == STATD));
    findings.extend(kernel_server(kind, &machine));
    findings.extend(v4_clients(kind, &machine));
    findings.extend(others(kind, &running));
    findings.extend(cluster(kind, &machine, &running));
    findings.extend(room(kind, places));
    HostFindings { mounts: mounts_of(&machine).map_err(|error| error.to_string()), findings }
}

/// Statement 12 of the design, as a run over everything sees it.
pub(super) fn judge_mounts(mounts: &Result<Vec<LocalMount>, String>, all_loopback: bool) -> Finding {
    let mounts = match mounts {
        Ok(mounts) => mounts,
        Err(error) => {
            return Finding::new("mounts", Severity::Problem, error, "mount /proc, or consent with --own-locks-lost");
        }
    };
    let all = mounts.iter().map(|mount| format!("{} at {}", mount.from, mount.at));
    match own_mounts_allow(false, all_loopback, mounts) {
        Ok(()) if mounts.is_empty() => {
            Finding::ok("mounts", "this host has no NFSv3 mount that locks over the network")
        }
        Ok(()) => {
            Finding::ok("mounts", "this host's NFSv3 mounts do not matter: every client is a loopback address").of(all)
        }
        Err(Failure { message, remedy, .. }) => Finding::new("mounts", Severity::Problem, message, remedy).of(all),
    }
}

/// The records of this host's statd. nlmd keeps its own where no statd runs.
fn records(kind: Kind, machine: &Machine, statd_runs: bool) -> Vec<Finding> {
    if kind == Kind::Nlmd && !statd_runs {
        return Vec::new();
    }
    let rosters = match roster::find(&machine.path("")) {
        Ok(rosters) => rosters,
        Err(error) => {
            return vec![Finding::new(
                "sm",
                kind.needs(Severity::Note),
                error.to_string(),
                "run this as root: these are the clients to notify",
            )];
        }
    };
    if rosters.is_empty() {
        return match kind {
            Kind::Nlmd => Vec::new(),
            Kind::Knfsd | Kind::Ganesha => vec![Finding::new(
                "sm",
                Severity::Problem,
                "this host has no statd records (sm/): no client is known that could be notified",
                "start rpc.statd before clients lock",
            )],
        };
    }
    // One that has nothing is of a statd that has never run.
    let has_run =
        |roster: &&Roster| roster.state.is_some() || !roster.entries.is_empty() || !roster.warnings.is_empty();
    let used = rosters.iter().filter(|roster| kind != Kind::Nlmd || has_run(roster));
    used.flat_map(|roster| record(kind, machine, roster)).collect()
}

fn record(kind: Kind, machine: &Machine, roster: &Roster) -> Vec<Finding> {
    let at = roster.path.display();
    let (overdue, hosts): (Vec<_>, Vec<_>) = roster.entries.iter().partition(|entry| entry.overdue);
    let mut findings =
        vec![Finding::ok("sm", format!("{at} can be read: {}", number(hosts.len() as u64, "record", "records")))];
    if !roster.warnings.is_empty() {
        let odd = number(roster.warnings.len() as u64, "odd entry", "odd entries");
        findings.push(
            Finding::new(
                "sm",
                kind.concerned(),
                format!("{at} has {odd}"),
                "look at these files; do not delete records of live clients",
            )
            .of(&roster.warnings),
        );
    }
    if !overdue.is_empty() {
        let hosts = number(overdue.len() as u64, "host still has", "hosts still have");
        findings.push(
            Finding::new(
                "sm",
                Severity::Note,
                format!("{hosts} to be notified of an earlier restart of this host"),
                "nothing to do if they are gone for good; otherwise see whether sm-notify ran",
            )
            .of(overdue.iter().map(|entry| &entry.host)),
        );
    }
    findings.push(state(kind, machine, roster));
    findings
}

fn state(kind: Kind, machine: &Machine, roster: &Roster) -> Finding {
    let about = "state-file";
    let at = roster.path.display();
    let Some(state) = roster.state else {
        let words = format!("{at} has no state number");
        let remedy = "start rpc.statd, or restart it if it runs: it makes one when it starts";
        return Finding::new(about, kind.concerned(), words, remedy);
    };
    if !state.is_up() {
        let words = format!("the state number of {at} is {state}, which is even: it says that this host is down");
        return Finding::new(
            about,
            kind.needs(Severity::Note),
            words,
            "restart rpc.statd or run sm-notify, which make it odd",
        );
    }
    if let Some(kernels) = machine.kernels_nsm_state().filter(|kernels| *kernels != state) {
        let words = format!("the state number of {at} is {state}, the kernel's copy of it {kernels}");
        let remedy =
            "restart rpc.statd, which tells the kernel; until then this host's own locks elsewhere carry the old one";
        return Finding::new(about, kind.concerned(), words, remedy);
    }
    if state.0 < 0 {
        let words = format!("the state number of {at} is {state}, which is negative; this is valid");
        return Finding::new(
            about,
            Severity::Note,
            words,
            "nothing to do: it is a signed number, and compared for equality only",
        );
    }
    Finding::ok(about, format!("the state number of {at} is {state}, odd"))
}

/// The kernel's NFS server: for knfsd it must run and export; for others it locks beside them.
fn kernel_server(kind: Kind, machine: &Machine) -> Vec<Finding> {
    match (kind, machine.nfsd_threads().ok()) {
        (Kind::Knfsd, None | Some(0)) => vec![Finding::new(
            "exports",
            Severity::Problem,
            "the kernel's NFS server has no threads: it serves nothing, and clients cannot reclaim",
            "start it (rpc.nfsd), then check again",
        )],
        (Kind::Knfsd, Some(threads)) => {
            let exports = machine.exports("proc/fs/nfsd/exports").len().max(machine.exports(ETAB).len());
            vec![match exports {
                0 => Finding::new(
                    "exports",
                    Severity::Problem,
                    "nothing is exported: a client whose file is not served cannot reclaim its lock",
                    "export first (`exportfs -a`)",
                ),
                some => Finding::ok(
                    "exports",
                    format!(
                        "{} exported, {}",
                        number(some as u64, "path is", "paths are"),
                        number(threads.into(), "thread serves", "threads serve")
                    ),
                ),
            }]
        }
        (Kind::Nlmd | Kind::Ganesha, None | Some(0)) => Vec::new(),
        (Kind::Nlmd | Kind::Ganesha, Some(threads)) => vec![Finding::new(
            "domains",
            Severity::Warning,
            format!(
                "the kernel's NFS server runs here too ({}): its lockd and this lock manager do not see each other's locks",
                count(u64::from(threads), "thread")
            ),
            "let one of them serve; or drive the kernel's with --manager knfsd",
        )],
    }
}

fn v4_clients(kind: Kind, machine: &Machine) -> Vec<Finding> {
    let clients = machine.v4_clients().unwrap_or_default();
    if clients == 0 {
        return Vec::new();
    }
    let who = number(clients as u64, "NFSv4 client is", "NFSv4 clients are");
    vec![match kind {
        Kind::Knfsd => Finding::new(
            "nfsv4",
            Severity::Problem,
            format!(
                "{who} on record with the kernel's NFS server: what starts grace for NFSv3 there starts it for NFSv4 too"
            ),
            "let them unmount first, or consent to disturbing them",
        ),
        Kind::Nlmd | Kind::Ganesha => Finding::new(
            "nfsv4",
            Severity::Warning,
            format!("{who} on record with the kernel's NFS server: this lock manager does not see their locks"),
            "serve the same files over one of them only",
        ),
    }]
}

/// Other lock managers, perhaps for the same directories.
fn others(kind: Kind, running: &[String]) -> Vec<Finding> {
    let runs = |name: &str| running.iter().any(|process| process == name);
    let mut findings = Vec::new();
    let samba: Vec<&str> = ["smbd", "ctdbd"].into_iter().filter(|name| runs(name)).collect();
    if !samba.is_empty() {
        findings.push(
            Finding::new(
                "samba",
                Severity::Warning,
                match kind {
                    Kind::Nlmd => "Samba runs here: Samba and this lock manager do not see each other's locks",
                    Kind::Knfsd | Kind::Ganesha => {
                        "Samba runs here: grace does not bind it, so it can take a range before its owner has reclaimed it"
                    }
                },
                "if it shares the same files, stop it for the run, or share them over one protocol only",
            )
            .of(samba),
        );
    }
    if kind == Kind::Ganesha && !runs("ganesha.nfsd") {
        findings.push(Finding::new(
            "ganesha",
            Severity::Problem,
            "no ganesha.nfsd is seen among this host's processes",
            "start it, then check again",
        ));
    }
    if kind != Kind::Ganesha && runs("ganesha.nfsd") {
        findings.push(Finding::new(
            "domains",
            Severity::Warning,
            "NFS-Ganesha runs here too: it and this lock manager do not see each other's locks",
            "let one of them serve NFSv3; or drive Ganesha with --manager ganesha",
        ));
    }
    findings
}

/// Cluster managers that watch nfsd: a run that stops it for a moment looks like a failure to them. Where
/// lockd cannot be seen the run may be such a one.
fn cluster(kind: Kind, machine: &Machine, running: &[String]) -> Option<Finding> {
    let lockd = machine.lockd().ok().flatten();
    if kind != Kind::Knfsd || lockd.is_some_and(|lockd| lockd.takes_kill) {
        return None;
    }
    let managers = [("pacemakerd", "Pacemaker"), ("ctdbd", "CTDB")].into_iter();
    let found: Vec<&str> =
        managers.filter(|(process, _)| running.iter().any(|name| name == process)).map(|(_, name)| name).collect();
    (!found.is_empty()).then(|| {
        Finding::new(
            "cluster",
            Severity::Warning,
            format!(
                "{} runs here, and a run stops nfsd for about a second: the cluster may take that for a failure and move \
                 or fence this server",
                found.join(" and ")
            ),
            "put the cluster into maintenance mode for the run (Pacemaker: `pcs property set maintenance-mode=true`; \
             CTDB: `ctdb event script disable legacy 60.nfs`), and take it out afterwards",
        )
    })
}

/// Room for what has to be durable before it is done.
fn room(kind: Kind, places: &Places) -> Vec<Finding> {
    let state = match kind {
        Kind::Nlmd => places.root.join(NLMD_STATE),
        Kind::Knfsd | Kind::Ganesha => places.root.join("var/lib/nfs"),
    };
    let mut findings = vec![match &places.record {
        Ok(record) => record_place(record),
        Err(fault) => Finding::new(RECORD, Severity::Problem, fault.message.clone(), &fault.remedy),
    }];
    if state.is_dir() {
        findings.push(room_at("state-room", "the lock manager's state", &state));
    }
    findings
}

/// What is said of the record.
const RECORD: &str = "record-room";

/// The record's folder, or the nearest one above it that is there: it is made where it is missing.
fn record_place(record: &Path) -> Finding {
    let about = RECORD;
    let mut folder = folder_of(record).to_path_buf();
    while !folder.is_dir() {
        if !folder.pop() {
            let words = format!("no folder above the record {} exists", record.display());
            return Finding::new(about, Severity::Problem, words, "name a database elsewhere with --db");
        }
    }
    let written = if record.exists() { record } else { &folder };
    if let Err(error) = access(written, AccessFlags::W_OK) {
        let words = format!("the record {} cannot be written: {error}", record.display());
        return Finding::new(
            about,
            Severity::Problem,
            words,
            "run this as root, or name a database elsewhere with --db",
        );
    }
    room_at(about, &format!("the record {}", record.display()), &folder)
}

fn room_at(about: &str, what: &str, folder: &Path) -> Finding {
    match statvfs(folder) {
        Ok(disk) => {
            let free = disk.blocks_available().saturating_mul(disk.fragment_size());
            judge_room(about, what, folder, free)
        }
        Err(error) => Finding::new(
            about,
            Severity::Warning,
            format!("it is not known how much room there is for {what}: {}: {error}", folder.display()),
            "see `df`",
        ),
    }
}

fn judge_room(about: &str, what: &str, folder: &Path, free: u64) -> Finding {
    let words = format!("{} MiB are free for {what} (in {})", free >> 20, folder.display());
    match free {
        n if n < TOO_LITTLE => Finding::new(
            about,
            Severity::Problem,
            words,
            "make room: a change that cannot be made durable is refused, and a run whose result does not fit is \
             aborted",
        ),
        n if n < LITTLE => {
            Finding::new(about, Severity::Warning, words, "make room: a run of a million locks writes some hundred MiB")
        }
        _ => Finding::ok(about, words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host made of files.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fake.file("proc/self/mountinfo", b"");
            fake
        }
        fn file(&self, path: &str, bytes: &[u8]) {
            Machine::at(self.0.path()).lay(path, bytes);
        }
        fn look(&self, kind: Kind) -> Vec<(String, Severity)> {
            let places = Places {
                control: std::path::PathBuf::new(),
                root: self.0.path().to_owned(),
                record: Ok(self.0.path().join("not/made/yet/runs.db")),
                rpcbind_port: 111,
                names: Vec::new(),
                patience: std::time::Duration::from_secs(1),
            };
            let findings = look(kind, &places).findings.into_iter();
            // How much room this machine has is not the test's.
            findings.filter(|f| !f.about.ends_with("-room")).map(|f| (f.about, f.severity)).collect()
        }
    }

    fn found(list: &[(&str, Severity)]) -> Vec<(String, Severity)> {
        list.iter().map(|(about, severity)| ((*about).to_owned(), *severity)).collect()
    }

    #[test]
    fn nothing_on_a_host_is_nothing_to_nlmd_and_much_to_knfsd() {
        let fake = Fake::new();
        assert_eq!(fake.look(Kind::Nlmd), []);
        assert_eq!(fake.look(Kind::Knfsd), found(&[("sm", Severity::Problem), ("exports", Severity::Problem)]));
        assert_eq!(fake.look(Kind::Ganesha), found(&[("sm", Severity::Problem), ("ganesha", Severity::Problem)]));
    }

    #[test]
    fn a_server_that_exports_with_its_statds_records_is_fine() {
        let fake = Fake::new();
        fake.file("var/lib/nfs/state", &41_i32.to_ne_bytes());
        let line = format!("0100007f 000186b5 00000003 00000010 {:032x} host1 nas\n", 7);
        fake.file("var/lib/nfs/sm/host1", line.as_bytes());
        fake.file("proc/sys/fs/nfs/nsm_local_state", b"41\n");
        fake.file("proc/fs/nfsd/threads", b"8\n");
        fake.file("proc/fs/nfsd/exports", b"# Version 1.1\n# Path Client(Flags)\n/srv\t*(rw)\n");
        let fine = [("sm", Severity::Ok), ("state-file", Severity::Ok), ("exports", Severity::Ok)];
        assert_eq!(fake.look(Kind::Knfsd), found(&fine));
        // The same host, for a manager that has nothing to do with the kernel's server, and then uses its statd.
        assert_eq!(fake.look(Kind::Nlmd), found(&[("domains", Severity::Warning)]));
        fake.file("proc/10/comm", b"rpc.statd\n");
        let beside = [("sm", Severity::Ok), ("state-file", Severity::Ok), ("domains", Severity::Warning)];
        assert_eq!(fake.look(Kind::Nlmd), found(&beside));
    }

    #[test]
    fn a_statd_that_has_never_run_here_is_nothing_to_nlmd() {
        let fake = Fake::new();
        fake.file("var/lib/nfs/sm/.keep", b"");
        // Perhaps a container's.
        fake.file("proc/10/comm", b"rpc.statd\n");
        assert_eq!(fake.look(Kind::Nlmd), []);
        assert!(fake.look(Kind::Knfsd).contains(&("state-file".to_owned(), Severity::Warning)));
    }

    #[test]
    fn a_state_number_that_says_down_or_is_not_the_kernels_is_told() {
        let fake = Fake::new();
        fake.file("var/lib/nfs/sm/.keep", b"");
        let weight = |state: &[u8], kernels: &str| {
            fake.file("var/lib/nfs/state", state);
            fake.file("proc/sys/fs/nfs/nsm_local_state", kernels.as_bytes());
            fake.look(Kind::Knfsd).into_iter().find(|(about, _)| about == "state-file").unwrap().1
        };
        assert_eq!(weight(&4_i32.to_ne_bytes(), "4"), Severity::Problem);
        assert_eq!(weight(&41_i32.to_ne_bytes(), "43"), Severity::Warning);
        assert_eq!(weight(&41_i32.to_ne_bytes(), "0"), Severity::Ok, "the kernel was not told any");
        assert_eq!(weight(&(-41_i32).to_ne_bytes(), "4294967255"), Severity::Note, "one number, printed unsigned");
        assert_eq!(weight(b"xx", "41"), Severity::Warning);
    }

    #[test]
    fn who_else_locks_here_is_named() {
        let fake = Fake::new();
        for (pid, name) in [(10, "smbd"), (11, "smbd"), (12, "ganesha.nfsd")] {
            fake.file(&format!("proc/{pid}/comm"), format!("{name}\n").as_bytes());
        }
        fake.file("proc/fs/nfsd/clients/7/info", b"");
        let seen = [("nfsv4", Severity::Warning), ("samba", Severity::Warning), ("domains", Severity::Warning)];
        assert_eq!(fake.look(Kind::Nlmd), found(&seen));
        assert!(fake.look(Kind::Knfsd).contains(&("nfsv4".to_owned(), Severity::Problem)));
        assert!(fake.look(Kind::Ganesha).iter().all(|(about, _)| about != "ganesha"));
    }

    #[test]
    fn a_cluster_manager_is_to_be_in_maintenance_mode_before_a_run_that_stops_nfsd() {
        let fake = Fake::new();
        fake.file("proc/10/comm", b"pacemakerd\n");
        let warned = |fake: &Fake, kind| fake.look(kind).contains(&("cluster".to_owned(), Severity::Warning));
        assert!(warned(&fake, Kind::Knfsd), "whether lockd takes a signal is not known");
        assert!(!warned(&fake, Kind::Nlmd) && !warned(&fake, Kind::Ganesha));
        fake.file("proc/187/comm", b"lockd\n");
        fake.file("proc/187/stat", format!("187 (lockd) I 2 0 0 0 0 2097216{}", " 0".repeat(36)).as_bytes());
        fake.file("proc/187/status", b"SigCgt:\t0000000000000000\n");
        assert!(warned(&fake, Kind::Knfsd));
        fake.file("proc/187/status", b"SigCgt:\t0000000000000100\n");
        assert!(!warned(&fake, Kind::Knfsd), "nfsd goes on where lockd takes a signal");
        let ctdb = Fake::new();
        ctdb.file("proc/10/comm", b"ctdbd\n");
        assert!(warned(&ctdb, Kind::Knfsd));
    }

    #[test]
    fn a_mount_matters_unless_every_client_is_loopback_and_it_is_anothers() {
        let mount = |from_self| Ok(vec![LocalMount { at: "/mnt".into(), from: "nas:/x".into(), from_self }]);
        let weight = |mounts, all_loopback| judge_mounts(&mounts, all_loopback).severity;
        assert_eq!(weight(Ok(vec![]), false), Severity::Ok);
        assert_eq!(weight(mount(false), false), Severity::Problem);
        assert_eq!(weight(mount(false), true), Severity::Ok);
        assert_eq!(weight(mount(true), true), Severity::Problem);
        assert_eq!(weight(Err("cannot read".into()), true), Severity::Problem);
    }

    #[test]
    fn little_room_is_a_warning_and_next_to_none_a_problem() {
        let weight = |free| judge_room("x", "it", Path::new("/"), free).severity;
        assert_eq!(
            [weight(0), weight(TOO_LITTLE), weight(LITTLE)],
            [Severity::Problem, Severity::Warning, Severity::Ok]
        );
    }

    #[test]
    fn a_record_in_a_folder_to_be_made_is_looked_for_above_and_one_nowhere_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        assert_ne!(record_place(&dir.path().join("a/b/runs.db")).severity, Severity::Problem);
        assert_eq!(record_place(Path::new("/proc/self/fd/runs.db")).severity, Severity::Problem);
    }
}
