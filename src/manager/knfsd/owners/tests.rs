//! The walk over a kernel made of files.

mod kernel;

use std::fs;

use proptest::test_runner::{Config, TestRunner};

use self::kernel::{Asked, BASE, Kernel, Names};
use super::*;
use crate::wire::types::{CallerName, NsmState, OwnerHandle, Svid, Transport};

const WRITE: Asked = Asked { svid: 5, exclusive: true, start: 0, end: 9 };
const READ: Asked = Asked { svid: 6, exclusive: false, start: 100, end: TO_THE_END };

/// Two clients with a lock each on `/srv/x/a`.
fn two(names: Names) -> (Kernel, [u64; 3]) {
    let mut kernel = Kernel::new(names);
    let c1 = kernel.host("c1", "192.0.2.1", "192.0.2.200");
    let c2 = kernel.host("c2", "2001:db8::2", "2001:db8::200");
    let file = kernel.file(b"a", 42);
    kernel.lock(file, c1, WRITE);
    kernel.lock(file, c2, READ);
    (kernel, [c1, c2, file])
}

fn seen(kernel: &Kernel) -> Result<View, OwnersError> {
    kernel.save();
    look(&kernel.machine())
}

/// Why there was no agreement.
fn unsettled(kernel: &Kernel) -> String {
    match seen(kernel) {
        // A busy machine gives up by the clock before all passes are made.
        Err(OwnersError::NoAgreement { passes: 1..=PASSES, why }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lock_is_told_with_owner_file_and_range_whatever_names_the_kernel_has_for_members() {
    for names in [Names::Old, Names::New] {
        let view = seen(&two(names).0).unwrap();
        let [first, second] = view.locks.as_slice() else { panic!("{view:?}") };
        assert_eq!((first.caller.as_str(), second.caller.as_str()), ("c1", "c2"));
        let [client, server] = ["192.0.2.1", "192.0.2.200"].map(|text| text.parse().unwrap());
        let way = Way { client, server, version: 4, transport: Transport::Tcp };
        assert_eq!(first.owner, OwnerKey { way, svid: Svid(5) });
        assert_eq!((first.exclusive, first.start, first.end), (true, 0, 9));
        assert_eq!((second.exclusive, second.start, second.end), (false, 100, TO_THE_END));
        assert_eq!(second.owner.way.client, "2001:db8::2".parse().unwrap());
        assert_eq!((first.device, first.inode, first.handle.as_slice()), ((8, 17), 42, &b"a"[..]));
        assert_eq!((first.path.as_deref(), first.deleted), (Some(&b"/srv/x/a"[..]), false));
        assert_eq!((first.monitored, first.nsm_state, first.offered), (true, Some(NsmState(7)), false));
        assert_eq!((view.hosts.len(), view.waiters.len(), view.shares.len(), view.passes), (2, 0, 0, 1));
        assert_eq!(view.hosts[0].mon_name.as_ref().map(CallerName::as_str), Some("c1"));
    }
}

#[test]
fn a_blocked_request_waits_until_it_is_granted_and_then_its_lock_is_not_confirmed() {
    let (mut kernel, [c1, c2, file]) = two(Names::New);
    let asked = Asked { svid: 9, start: 4, ..WRITE };
    kernel.block(file, c2, asked, false);
    // What was granted has grown together with what its owner had.
    kernel.block(file, c1, Asked { start: 3, end: 5, ..WRITE }, true);
    let gone = kernel.block(file, c1, asked, false);
    kernel.put(gone, kernel.layout.block.queued, gone);
    let view = seen(&kernel).unwrap();
    let [waiter] = view.waiters.as_slice() else { panic!("{view:?}") };
    assert_eq!((waiter.wanted.owner.svid.0, waiter.wanted.start, waiter.wanted.end), (9, 4, 9));
    assert_eq!((waiter.wanted.caller.as_str(), waiter.oh.clone()), ("c2", OwnerHandle::new(b"owner").unwrap()));
    assert_eq!(waiter.cookie.as_slice().len(), 4);
    assert_eq!(view.locks.iter().map(|lock| lock.offered).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_share_is_told_with_what_it_has_and_what_it_denies() {
    let (mut kernel, [c1, _, file]) = two(Names::Old);
    kernel.share(file, c1);
    let view = seen(&kernel).unwrap();
    let [share] = view.shares.as_slice() else { panic!("{view:?}") };
    assert_eq!((share.caller.as_str(), share.oh.as_slice(), share.access, share.mode), ("c1", &b"pc"[..], 3, 1));
    assert_eq!(share.path.as_deref(), Some(&b"/srv/x/a"[..]));
}

#[test]
fn a_removed_file_has_its_last_path_and_one_opened_by_its_handle_has_none() {
    let (mut kernel, [c1, _, file]) = two(Names::New);
    kernel.put(kernel.dentry(file), kernel.layout.name.hashed, 0);
    let other = kernel.file(b"b", 43);
    kernel.lock(other, c1, WRITE);
    let entry = kernel.dentry(other);
    kernel.put(entry, kernel.layout.name.parent, entry);
    let view = seen(&kernel).unwrap();
    let paths: Vec<_> = view.locks.iter().map(|lock| (lock.inode, lock.path.as_deref(), lock.deleted)).collect();
    let removed = (42, Some(&b"/srv/x/a"[..]), true);
    assert_eq!(paths, [removed, (43, None, false), removed]);
}

#[test]
fn two_handles_of_one_file_have_each_their_own_locks_and_no_lock_is_told_twice() {
    let (mut kernel, [c1, _, file]) = two(Names::New);
    let other = kernel.file(b"other", 42);
    let inode = kernel.layout.file.inode;
    let of_first = kernel.opened(file) + inode.offset() as u64;
    let at = usize::try_from(of_first - BASE).unwrap();
    let shared = u64::from_ne_bytes(kernel.memory[at..at + 8].try_into().unwrap());
    kernel.put(kernel.opened(other), inode, shared);
    kernel.lock(other, c1, Asked { start: 50, end: 59, ..WRITE });
    let view = seen(&kernel).unwrap();
    let handles: Vec<_> = view.locks.iter().map(|lock| (lock.start, lock.handle.as_slice().to_vec())).collect();
    assert_eq!(handles, [(0, b"a".to_vec()), (50, b"other".to_vec()), (100, b"a".to_vec())]);
}

#[test]
fn locks_of_others_on_the_same_file_are_passed_over() {
    let (mut kernel, [c1, _, file]) = two(Names::New);
    let local = kernel.unlisted(file, c1, WRITE);
    kernel.put(local, kernel.layout.lock.operations, BASE);
    kernel.put(local, kernel.layout.lock.owner, 1);
    assert_eq!(seen(&kernel).unwrap().locks.len(), 2);
}

#[test]
fn a_lock_below_the_start_of_a_file_counts_neither_here_nor_there() {
    let (mut kernel, [c1, _, file]) = two(Names::Old);
    kernel.unlisted(file, c1, Asked { start: (-16_i64).cast_unsigned(), end: u64::MAX, ..WRITE });
    assert_eq!(seen(&kernel).unwrap().locks.len(), 2);
}

#[test]
fn what_proc_locks_does_not_show_or_shows_besides_is_no_agreement() {
    let (mut kernel, [c1, _, file]) = two(Names::New);
    kernel.unlisted(file, c1, Asked { start: 50, end: 59, ..WRITE });
    assert_eq!(unsettled(&kernel), "about 1 lock, the first of them a write lock on bytes 50-59 of 08:11:42");
    let (kernel, _) = two(Names::New);
    kernel.save();
    let locks = kernel.root.path().join("proc/locks");
    fs::write(&locks, fs::read_to_string(&locks).unwrap().replace("READ", "WRITE")).unwrap();
    assert!(matches!(look(&kernel.machine()), Err(OwnersError::NoAgreement { passes: PASSES, .. })));
}

#[test]
fn a_link_that_does_not_point_back_an_unknown_host_and_another_files_share_are_no_agreement() {
    let (mut kernel, [c1, _, file]) = two(Names::New);
    let lock = kernel.lock(file, c1, Asked { start: 50, end: 59, ..WRITE });
    let (back, owner) = (kernel.layout.lock.link.back, kernel.layout.lock.owner);
    kernel.put(lock, back, BASE);
    assert_eq!(unsettled(&kernel), "a link does not point back to the one before it");

    let (mut kernel, [c1, _, file]) = two(Names::New);
    let lock = kernel.lock(file, c1, Asked { start: 50, end: 59, ..WRITE });
    kernel.put(lock, owner, c1);
    assert_eq!(unsettled(&kernel), "about 1 lock, the first of them a write lock on bytes 50-59 of 08:11:42");

    let (mut kernel, [c1, _, file]) = two(Names::New);
    let share = kernel.share(file, c1);
    let (next, of) = (kernel.layout.share.as_ref().unwrap().next, kernel.layout.share.as_ref().unwrap().file);
    kernel.put(share, next, share);
    assert_eq!(unsettled(&kernel), "a list of shares does not end");
    kernel.put(share, of, c1);
    assert_eq!(unsettled(&kernel), "a share is another file's");
}

/// Writes at an address of memory while it is read.
fn poke(core: &fs::File, address: u64, value: u64) {
    use std::os::unix::fs::FileExt;
    // Behind the header of the file and that of its one segment.
    core.write_all_at(&value.to_ne_bytes(), 64 + 56 + (address - BASE)).unwrap();
}

#[test]
fn a_lock_that_changes_hands_while_it_is_read_is_one_owners_or_the_others_and_never_a_third_ones() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (mut kernel, [c1, c2, file]) = two(Names::New);
    let lock = kernel.lock(file, c1, Asked { start: 50, end: 59, ..WRITE });
    let spare = kernel.lock(file, c1, Asked { start: 60, end: 69, svid: 7, ..WRITE });
    kernel.save();
    let owner = kernel.layout.lock.owner.offset() as u64;
    let [at, first, second] = [lock + owner, kernel.get(lock + owner), kernel.get(spare + owner)];
    let lockd = LockdMemory::find(&kernel.machine()).unwrap();
    let core = fs::OpenOptions::new().write(true).open(kernel.root.path().join("proc/kcore")).unwrap();
    let stop = AtomicBool::new(false);
    let (mut owners, mut unsettled) = (std::collections::BTreeMap::new(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let hands = [(first, second), (second, first)].into_iter().cycle();
            for (from, to) in hands.take_while(|_| !stop.load(Ordering::Relaxed)) {
                // The room of the owner that was becomes another one's for a while.
                poke(&core, at, to);
                poke(&core, from, c2);
                std::thread::sleep(Duration::from_millis(1));
                poke(&core, from, c1);
            }
        });
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            match lockd.pass() {
                Ok((found, _)) => {
                    let changing = found.locks.iter().find(|lock| lock.start == 50).unwrap();
                    *owners.entry((changing.caller.to_string(), changing.owner.svid.0)).or_insert(0) += 1;
                }
                Err(_) => unsettled += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let seen: Vec<_> = owners.keys().cloned().collect();
    assert_eq!(seen, [("c1".to_owned(), 5), ("c1".to_owned(), 7)], "{owners:?}, {unsettled} unsettled");
}

#[test]
fn what_forbids_to_look_is_named_each_with_a_remedy() {
    let refused = |spoil: &dyn Fn(&Kernel)| {
        let (kernel, _) = two(Names::New);
        kernel.save();
        spoil(&kernel);
        let error = look(&kernel.machine()).unwrap_err();
        assert!(!error.remedy().is_empty());
        error
    };
    let at = |kernel: &Kernel, path: &str| kernel.root.path().join(path);
    let without = |path: &'static str| refused(&|kernel| fs::remove_file(at(kernel, path)).unwrap());
    let edited = |path: &'static str, from: &'static str, to: &'static str| {
        refused(&|kernel| {
            let text = fs::read_to_string(at(kernel, path)).unwrap();
            fs::write(at(kernel, path), text.replace(from, to)).unwrap();
        })
    };
    assert!(matches!(without("proc/self/ns/pid"), OwnersError::Namespace));
    assert!(matches!(without("proc/kcore"), OwnersError::NotDescribed(_)));
    assert!(matches!(without("sys/kernel/btf/vmlinux"), OwnersError::NotDescribed(_)));
    assert!(matches!(without("sys/kernel/btf/lockd"), OwnersError::Layout(_)));
    assert!(matches!(refused(&|kernel| fs::remove_dir(at(kernel, "proc/fs/lockd")).unwrap()), OwnersError::NotLoaded));
    assert!(matches!(edited("proc/kallsyms", "nlm_files", "nlm_folders"), OwnersError::NoSymbol("nlm_files")));
    let (last, next) = ("nlm_files\t[lockd]\n", "nlm_files\t[lockd]\nffff888000000140 d other\t[lockd]\n");
    assert!(matches!(edited("proc/kallsyms", last, next), OwnersError::Layout(_)));
    let hidden = refused(&|kernel| {
        let text = fs::read_to_string(at(kernel, "proc/kallsyms")).unwrap();
        let lines = text.lines().map(|line| format!("0000000000000000{}\n", &line[16..]));
        fs::write(at(kernel, "proc/kallsyms"), lines.collect::<String>()).unwrap();
    });
    assert!(matches!(hidden, OwnersError::Hidden));
    let moved = refused(&|kernel| {
        fs::remove_file(at(kernel, "proc/self/ns/net")).unwrap();
        std::os::unix::fs::symlink("net:[4026532999]", at(kernel, "proc/self/ns/net")).unwrap();
    });
    assert!(matches!(moved, OwnersError::ForeignNetwork));
}

#[test]
fn a_kernel_without_a_member_that_is_needed_is_refused_by_its_name() {
    for member in ["h_srcaddr", "fl_lmops", "flc_owner", "f_blocks", "pid", "b_granted", "mnt_root", "inum", "s_dev"] {
        let (kernel, _) = two(Names::New);
        kernel.save();
        kernel.forget(member, Names::New);
        let error = look(&kernel.machine()).unwrap_err();
        assert!(matches!(error, OwnersError::Layout(_)), "{member}: {error}");
        assert!(error.to_string().contains(member), "{member}: {error}");
    }
    let (kernel, _) = two(Names::New);
    kernel.save();
    kernel.forget("f_shares", Names::New);
    // A lockd that has no shares is complete without them. The memory here has them at their place all the same.
    assert_eq!(look(&kernel.machine()).unwrap().locks.len(), 2);
}

#[test]
fn whatever_is_in_memory_a_look_ends_and_tells_no_lock_that_proc_locks_does_not_show() {
    let (mut kernel, [c1, c2, file]) = two(Names::New);
    kernel.block(file, c2, WRITE, false);
    kernel.share(file, c1);
    kernel.save();
    let lockd = LockdMemory::find(&kernel.machine()).unwrap();
    let good = lockd.look().unwrap();
    let length = kernel.memory.len();
    let pointer = BASE..BASE + length as u64;
    let change = (0..length / 8, proptest::prop_oneof![proptest::num::u64::ANY, pointer, 0..300_u64]);
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let memory = kernel.memory.clone();
    let core = kernel.root.path().join("proc/kcore");
    runner
        .run(&proptest::collection::vec(change, 1..6), |changes| {
            let mut memory = memory.clone();
            for (word, value) in changes {
                memory[8 * word..8 * word + 8].copy_from_slice(&value.to_ne_bytes());
            }
            fs::write(&core, crate::host::fake::core(&[(BASE, memory)])).unwrap();
            if let Ok(view) = lockd.look() {
                let listed = |view: &View| {
                    let mut listed: Vec<_> = view.locks.iter().map(HeldLock::as_listed).collect();
                    listed.sort_unstable();
                    listed
                };
                proptest::prop_assert_eq!(listed(&view), listed(&good));
            }
            Ok(())
        })
        .unwrap();
}
