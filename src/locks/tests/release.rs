//! Freeing chosen locks: exactly those, all or nothing, and only if they are as they were seen.

use super::*;
use crate::wire::control::{ClientSeen, ReleaseArgs, Released};

impl World {
    /// What a lister sees of the client.
    fn seen(&mut self, client: &str) -> ClientSeen {
        let rows: Vec<LockRow> = self.rows().into_iter().filter(|row| row.owner.name == name(client)).collect();
        ClientSeen::new(name(client), World::address(client).into(), &rows)
    }

    fn release(&mut self, clients: Vec<ClientSeen>, locks: Vec<LockRow>) -> Result<Released, Refusal> {
        let instance = InstanceId([0; 16]);
        let args = ReleaseArgs { instance, clients: List::clipped(clients), locks: List::clipped(locks) };
        let released = self.release_in_steps(args);
        self.check();
        released
    }

    fn release_in_steps(&mut self, args: ReleaseArgs) -> Result<Released, Refusal> {
        let mut release = Release::new(args);
        while !self.table.release_look(&mut release)? {
            self.table.settle_sweep(1);
        }
        let now = self.table.release_now(release.compare()?)?;
        let (released, number) = now.break_value().expect("all was swept before");
        self.check();
        loop {
            if let Some(offered) = self.table.released(number) {
                return Ok(Released { offered, ..released });
            }
            self.table.settle_sweep(1);
            self.check();
        }
    }

    /// Releases all that it has, and sweeps nothing of it.
    pub(super) fn void_all_of(&mut self, client: &str) {
        let seen = self.seen(client);
        let args =
            ReleaseArgs { instance: InstanceId([0; 16]), clients: List::clipped(vec![seen]), locks: List::default() };
        let mut release = Release::new(args);
        while !self.table.release_look(&mut release).unwrap() {}
        assert!(self.table.release_now(release.compare().unwrap()).unwrap().is_break());
    }

    pub(super) fn release_all_of(&mut self, client: &str) -> Result<Released, Refusal> {
        let seen = self.seen(client);
        self.release(vec![seen], vec![])
    }

    /// The rows of a process.
    fn rows_of(&self, process: P) -> Vec<LockRow> {
        let of = |row: &LockRow| row.owner.name == name(process.0) && row.owner.svid == Svid(process.1);
        self.rows().into_iter().filter(of).collect()
    }

    fn suspicions(&self, client: &str) -> Vec<String> {
        let page = self.table.list_clients(0).clients.into_vec();
        let row = page.into_iter().find(|row| row.name == name(client)).unwrap();
        row.suspicions.as_slice().iter().map(|why| why.as_str().to_owned()).collect()
    }
}

#[test]
fn all_that_a_client_has_goes_and_nothing_of_others() {
    let mut w = World::new();
    w.write(P("ghost", 1), "f", bytes(0, 9));
    w.read(P("ghost", 2), "g", bytes(0, 9));
    w.share(P("ghost", 3), "h", 1, 2, false);
    w.write(P("other", 1), "f", bytes(20, 29));
    w.wait(P("ghost", 1), "f", bytes(20, 29));
    let ghost = w.client("ghost");
    w.table.suspect(ghost, "its state number differs");
    let released = w.release_all_of("ghost").unwrap();
    assert_eq!((released.locks, released.waiters, released.offered, released.left), (3, 1, 0, 0));
    assert_eq!(released.rows.as_slice().len(), 4);
    assert_eq!(w.picture("f"), ["other/1 write 20-29 held"]);
    assert!(w.picture("g").is_empty() && w.picture("h").is_empty());
    assert_eq!(w.suspicions("ghost"), Vec::<String>::new(), "they were about what is gone");
    assert!(w.table.client(ghost).unwrap().monitored, "it stays known and monitored");
    assert!(w.effects.iter().any(|e| matches!(e, Effect::Event("release", words) if words.contains("ghost"))));
}

#[test]
fn who_waited_gets_the_range_in_the_order_in_which_they_came() {
    let mut w = World::new();
    w.write(P("ghost", 1), "f", bytes(0, 9));
    w.write(P("ghost", 2), "f", bytes(10, 19));
    w.wait(P("first", 1), "f", bytes(0, 19));
    w.wait(P("second", 1), "f", bytes(10, 19));
    let released = w.release_all_of("ghost").unwrap();
    assert_eq!((released.locks, released.offered), (2, 1));
    let offers = w.offers();
    assert_eq!(offers.len(), 1, "nobody saw half of it: {offers:?}");
    assert_eq!(offers[0].1.range, bytes(0, 19));
    assert_eq!(w.picture("f"), ["first/1 write 0-19 offered", "second/1 write 10-19 waiting"]);
}

#[test]
fn a_client_that_has_changed_since_it_was_seen_keeps_everything() {
    let mut w = World::new();
    w.write(P("host", 1), "f", bytes(0, 9));
    let seen = w.seen("host");
    w.write(P("host", 1), "f", bytes(100, 109));
    let refused = w.release(vec![seen.clone()], vec![]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::StalePlan);
    assert!(refused.message.as_str().contains("had 1 lock ") && refused.message.as_str().contains("has 2"));
    // As many as before, and others.
    w.unlock(P("host", 1), "f", bytes(0, 9));
    assert_eq!(w.release(vec![seen.clone()], vec![]).unwrap_err().code, RefusalCode::StalePlan);
    assert_eq!(w.picture("f"), ["host/1 write 100-109 held"]);
    // And of two, none.
    w.write(P("ghost", 1), "g", bytes(0, 9));
    let ghost = w.seen("ghost");
    assert!(w.release(vec![ghost, seen], vec![]).is_err());
    assert_eq!(w.picture("g"), ["ghost/1 write 0-9 held"]);
}

#[test]
fn a_blocked_request_that_came_since_is_a_change_too() {
    let mut w = World::new();
    w.write(P("other", 1), "f", bytes(0, 9));
    w.write(P("host", 1), "f", bytes(20, 29));
    let seen = w.seen("host");
    w.wait(P("host", 1), "f", bytes(0, 9));
    assert_eq!(w.release(vec![seen], vec![]).unwrap_err().code, RefusalCode::StalePlan);
}

#[test]
fn one_lock_goes_and_the_others_of_its_owner_stay() {
    let mut w = World::new();
    w.write(P("ghost", 1), "f", bytes(0, 9));
    w.write(P("ghost", 1), "f", bytes(20, 29));
    w.read(P("ghost", 2), "f", bytes(40, 49));
    let row = w.rows_of(P("ghost", 1)).into_iter().find(|row| row.range == bytes(20, 29)).unwrap();
    let released = w.release(vec![], vec![row.clone()]).unwrap();
    assert_eq!((released.locks, released.rows.as_slice()), (1, &[row.clone()][..]));
    assert_eq!(w.picture("f"), ["ghost/1 write 0-9 held", "ghost/2 read 40-49 held"]);
    assert_eq!(w.release(vec![], vec![row]).unwrap_err().code, RefusalCode::StalePlan, "it is gone");
}

#[test]
fn shares_whose_rows_are_equal_are_released_together_or_not_at_all() {
    let mut w = World::new();
    w.share(P("pc", 1), "f", 1, 0, false);
    w.share(P("pc", 1), "f", 2, 0, false);
    w.share(P("pc", 1), "g", 1, 0, false);
    let rows = w.rows();
    assert_eq!(rows[0], rows[1]);
    let refused = w.release(vec![], vec![rows[0].clone()]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::StalePlan);
    let refused = w.release(vec![], vec![rows[2].clone(), rows[2].clone()]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::StalePlan, "there is one of it");
    assert_eq!(w.rows(), rows);
    let released = w.release(vec![], rows[..2].to_vec()).unwrap();
    assert_eq!(released.locks, 2);
    assert_eq!(w.rows(), rows[2..]);
}

#[test]
fn a_lock_is_chosen_by_all_that_is_listed_of_it() {
    let mut w = World::new();
    w.write(P("host", 1), "f", bytes(0, 9));
    let row = w.rows_of(P("host", 1)).remove(0);
    let others = [
        LockRow { range: bytes(0, 8), ..row.clone() },
        LockRow { kind: crate::wire::control::LockKind::Shared, ..row.clone() },
        LockRow { state: LockState::Offered, ..row.clone() },
        LockRow { monitored: false, ..row.clone() },
        LockRow { owner: crate::wire::control::OwnerRow { version: 3, ..row.owner.clone() }, ..row.clone() },
        LockRow { file: FileHandle::new(b"g").unwrap(), ..row.clone() },
    ];
    for other in others {
        assert_eq!(w.release(vec![], vec![other]).unwrap_err().code, RefusalCode::StalePlan);
    }
    let twice = w.release(vec![], vec![row.clone(), row.clone()]).unwrap_err();
    assert_eq!(twice.code, RefusalCode::StalePlan, "one lock is not two");
    let whole = w.seen("host");
    let refused = w.release(vec![whole.clone()], vec![row]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::BadRequest);
    let refused = w.release(vec![whole.clone(), whole], vec![]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::BadRequest, "one client is not two");
    assert_eq!(w.picture("f"), ["host/1 write 0-9 held"]);
}

#[test]
fn a_grant_that_was_never_confirmed_can_be_freed_and_is_offered_to_the_next() {
    let mut w = World::new();
    w.write(P("a", 1), "f", bytes(0, 9));
    w.wait(P("silent", 1), "f", bytes(0, 9));
    w.wait(P("b", 1), "f", bytes(0, 9));
    w.unlock(P("a", 1), "f", bytes(0, 9));
    let (offer, _) = w.offers().remove(0);
    let row = w.rows_of(P("silent", 1)).remove(0);
    assert_eq!(row.state, LockState::Offered);
    assert_eq!(w.release(vec![], vec![row]).unwrap().offered, 1);
    assert!(w.effects.contains(&Effect::Withdraw(offer)));
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered"]);
    w.answer(offer, OfferAnswer::Accepted);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered"], "its late answer changes nothing");
}

#[test]
fn of_an_offer_a_part_can_be_freed_whatever_mode_it_has_and_the_rest_stays() {
    let mut w = World::new();
    w.write(P("host", 1), "f", bytes(0, 9));
    w.write(P("other", 1), "f", bytes(10, 19));
    let call = World::lock_call(P("host", 1), "f", bytes(0, 19), false, true, false);
    assert_eq!(w.verdict(P("host", 1), &call), Verdict::Blocked);
    w.unlock(P("other", 1), "f", bytes(10, 19));
    assert_eq!(w.picture("f"), ["host/1 write 0-9 offered", "host/1 read 10-19 offered"]);
    let row = w.rows_of(P("host", 1)).into_iter().find(|row| row.range == bytes(0, 9)).unwrap();
    assert_eq!(w.release(vec![], vec![row]).unwrap().locks, 1);
    assert_eq!(w.picture("f"), ["host/1 read 10-19 held"]);
    assert_eq!(w.suspicions("host"), ["a grant that it never confirmed"]);
}

#[test]
fn a_blocked_request_can_be_freed_by_itself() {
    let mut w = World::new();
    w.write(P("a", 1), "f", bytes(0, 9));
    w.wait(P("ghost", 1), "f", bytes(0, 9));
    let row = w.rows_of(P("ghost", 1)).remove(0);
    let released = w.release(vec![], vec![row]).unwrap();
    assert_eq!((released.locks, released.waiters), (0, 1));
    w.unlock(P("a", 1), "f", bytes(0, 9));
    assert!(w.picture("f").is_empty(), "nobody is left to offer it to");
}

#[test]
fn nothing_is_released_in_a_run_or_in_recovery() {
    let mut w = World::new();
    w.write(P("host", 1), "f", bytes(0, 9));
    for mode in [Mode::Strict, Mode::Targeted] {
        w.begin(mode);
        assert_eq!(w.release_all_of("host").unwrap_err().code, RefusalCode::RunActive);
        w.table.abort(0, "test").unwrap();
        w.check();
    }
    w.table.start_recovery(w.now + Duration::from_secs(1));
    assert_eq!(w.release_all_of("host").unwrap_err().code, RefusalCode::GraceActive);
    w.pass(2);
    let now = w.now;
    w.table.on_timeout(now, false);
    assert_eq!(w.release_all_of("host").unwrap().locks, 1);
}

#[test]
fn what_was_released_does_not_come_back_by_a_late_unlock_or_an_ordinary_reclaim() {
    let mut w = World::new();
    w.write(P("ghost", 1), "f", bytes(0, 9));
    w.release_all_of("ghost").unwrap();
    assert_eq!(w.reclaim(P("ghost", 1), "f", bytes(0, 9)), Verdict::Grace);
    assert_eq!(w.write(P("other", 1), "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.unlock(P("ghost", 1), "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["other/1 write 0-9 held"], "its UNLOCK touches nobody");
}

#[test]
fn after_a_run_only_its_own_owner_reclaims_it_and_only_if_nobody_had_it_since() {
    let mut w = World::new();
    w.client("other");
    w.client("late");
    w.begin(Mode::Targeted);
    w.write(P("late", 1), "f", bytes(0, 9));
    w.write(P("late", 1), "g", bytes(0, 9));
    w.table.abort(0, "test").unwrap();
    w.check();
    w.release_all_of("late").unwrap();
    assert_eq!(w.reclaim(P("other", 1), "f", bytes(0, 9)), Verdict::Denied, "somebody was granted it since");
    w.write(P("other", 1), "g", bytes(0, 9));
    w.unlock(P("other", 1), "g", bytes(0, 9));
    assert_eq!(w.reclaim(P("late", 1), "g", bytes(0, 9)), Verdict::Denied);
    assert_eq!(w.reclaim(P("late", 1), "f", bytes(0, 9)), Verdict::Granted, "that it reclaims shows that it lives");
}

#[test]
fn what_a_run_dropped_and_nobody_swept_yet_is_not_there_to_be_released() {
    let mut w = World::new();
    w.write(P("silent", 1), "f", bytes(0, 9));
    w.write(P("silent", 2), "g", bytes(0, 9));
    let mut args = w.begin_args(Mode::Strict);
    args.policy.silent = Silent::Drop;
    w.begin_with(&args);
    w.tell("silent", Delivery::Acked);
    w.pass(100);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    w.table.settle_result(0).unwrap();
    w.table.settle_commit();
    w.check();
    let released = w.release_all_of("silent").unwrap();
    assert_eq!((released.locks, released.waiters), (0, 0));
    assert_eq!(w.table.totals().locks, 0);
    while !w.table.settle_sweep(1) {}
    w.check();
}

/// Of much: to check all after each call would take minutes.
fn unchecked(w: &mut World, process: P, call: &Call) {
    let caller = w.caller(process.0);
    let mut handled = w.table.handle(w.now, caller, call);
    while handled == Handled::More {
        handled = w.table.handle(w.now, caller, call);
    }
    assert_eq!(handled, Handled::Reply(Verdict::Granted));
}

fn lock(w: &mut World, process: P, file: &str, range: ByteRange) {
    unchecked(w, process, &World::lock_call(process, file, range, true, false, false));
}

fn unlock(w: &mut World, process: P, file: &str, range: ByteRange) {
    unchecked(w, process, &Call::Unlock(wanted(process, file, range, true)));
}

/// A client with so many locks.
fn many(w: &mut World, process: P, count: u64, file: impl Fn(u64) -> String) {
    for n in 0..count {
        lock(w, process, &file(n), bytes(10 * n, 10 * n + 4));
    }
}

/// What a lister sees of the client, over all pages.
fn seen_of_many(w: &World, client: &str) -> ReleaseArgs {
    let (mut rows, mut after) = (Vec::new(), 0);
    loop {
        let page = w.table.list_locks(&LocksArgs { scope: Scope::default(), after });
        rows.extend(page.locks.into_vec().into_iter().map(|aged| aged.lock));
        after = page.next;
        if after == 0 {
            break;
        }
    }
    rows.retain(|row| row.owner.name == name(client));
    let seen = ClientSeen::new(name(client), World::address(client).into(), &rows);
    ReleaseArgs { instance: InstanceId([0; 16]), clients: List::clipped(vec![seen]), locks: List::default() }
}

#[test]
fn much_is_looked_at_in_steps_whatever_others_do_meanwhile_and_is_free_at_one_instant() {
    for one_file in [true, false] {
        let mut w = World::new();
        many(&mut w, P("ghost", 1), 3_000, |n| if one_file { "f".to_owned() } else { format!("f{n}") });
        let args = seen_of_many(&w, "ghost");
        let mut release = Release::new(args);
        let mut steps = 0;
        while !w.table.release_look(&mut release).unwrap() {
            steps += 1;
            let file = if one_file { "f".to_owned() } else { format!("f{steps}") };
            lock(&mut w, P("other", 1), &file, bytes(10 * steps + 6, 10 * steps + 8));
            unlock(&mut w, P("other", 1), &file, bytes(10 * (steps / 2) + 6, 10 * (steps / 2) + 8));
        }
        unlock(&mut w, P("other", 1), "f", ByteRange::ALL);
        (1..=steps).for_each(|n| unlock(&mut w, P("other", 1), &format!("f{n}"), ByteRange::ALL));
        assert!(steps > 1, "{steps}");
        let compared = release.compare().unwrap();
        let (released, number) = w.table.release_now(compared).unwrap().break_value().unwrap();
        assert_eq!(released.locks, 3_000);
        let last = if one_file { "f" } else { "f2999" };
        lock(&mut w, P("other", 1), last, bytes(10 * 2_999, 10 * 2_999 + 4));
        lock(&mut w, P("ghost", 1), last, bytes(100_000, 100_009));
        assert_eq!(w.rows().len(), 2, "nothing else is listed, swept or not");
        while w.table.released(number).is_none() {
            w.table.settle_sweep(1);
        }
        w.check();
        assert_eq!(w.picture(last), ["other/1 write 29990-29994 held", "ghost/1 write 100000-100009 held"]);
        assert_eq!(w.table.totals().locks, 2);
    }
}

#[test]
fn a_client_that_changes_while_it_is_looked_at_or_compared_keeps_everything() {
    let change = |w: &mut World| {
        unlock(w, P("host", 1), "f", bytes(0, 4));
        lock(w, P("host", 1), "f", bytes(0, 4));
    };
    for in_the_middle in [true, false] {
        let mut w = World::new();
        many(&mut w, P("host", 1), 3_000, |_| "f".to_owned());
        let mut release = Release::new(seen_of_many(&w, "host"));
        assert!(!w.table.release_look(&mut release).unwrap());
        let refused = if in_the_middle {
            change(&mut w);
            w.table.release_look(&mut release).unwrap_err()
        } else {
            while !w.table.release_look(&mut release).unwrap() {}
            let compared = release.compare().unwrap();
            change(&mut w);
            w.table.release_now(compared).unwrap_err()
        };
        assert_eq!(refused.code, RefusalCode::StalePlan);
        assert!(refused.message.as_str().contains("took or gave back something"), "{refused}");
        assert_eq!(w.table.totals().locks, 3_000);
    }
}

#[test]
fn a_grant_that_is_confirmed_after_it_was_compared_is_a_change() {
    for answer in [OfferAnswer::Unclear, OfferAnswer::Accepted] {
        let mut w = World::new();
        w.write(P("a", 1), "f", bytes(0, 9));
        w.wait(P("host", 1), "f", bytes(0, 9));
        w.unlock(P("a", 1), "f", bytes(0, 9));
        let (offer, _) = w.offers().remove(0);
        let mut release = Release::new(seen_of_many(&w, "host"));
        while !w.table.release_look(&mut release).unwrap() {}
        let compared = release.compare().unwrap();
        w.answer(offer, answer);
        assert!(w.table.release_now(compared).is_err(), "{answer:?}");
        assert_eq!(w.picture("f"), ["host/1 write 0-9 held"]);
    }
}

#[test]
fn what_was_granted_after_the_run_and_given_up_after_a_release_counts_against_late_reclaims() {
    let mut w = World::new();
    for client in ["late", "other", "ghost"] {
        w.client(client);
    }
    w.begin(Mode::Targeted);
    w.table.abort(0, "test").unwrap();
    w.write(P("other", 1), "f", bytes(0, 9));
    w.write(P("ghost", 1), "g", bytes(0, 9));
    w.release_all_of("ghost").unwrap();
    w.unlock(P("other", 1), "f", bytes(0, 9));
    assert_eq!(w.reclaim(P("late", 1), "f", bytes(0, 9)), Verdict::Denied, "other had it since the run began");
    assert_eq!(w.reclaim(P("late", 1), "g", bytes(0, 9)), Verdict::Denied, "and so had ghost");
}

#[test]
fn a_second_release_finds_nothing_of_what_the_first_has_not_swept_yet() {
    let mut w = World::new();
    many(&mut w, P("ghost", 1), 200, |n| format!("f{n}"));
    let mut first = Release::new(seen_of_many(&w, "ghost"));
    while !w.table.release_look(&mut first).unwrap() {}
    let compared = first.compare().unwrap();
    let mut second = Release::new(seen_of_many(&w, "ghost"));
    while !w.table.release_look(&mut second).unwrap() {}
    let second = second.compare().unwrap();
    assert!(w.table.release_now(compared).unwrap().is_break());
    let second = w.table.release_now(second).unwrap().continue_value().expect("not before all is swept");
    while !w.table.settle_sweep(1) {}
    assert_eq!(w.table.release_now(second).unwrap_err().code, RefusalCode::StalePlan);
    w.check();
}

#[test]
fn each_release_tells_whom_it_served_itself() {
    let mut w = World::new();
    for (ghost, file) in [("one", "f"), ("two", "g")] {
        w.write(P(ghost, 1), file, bytes(0, 9));
        w.wait(P("waits", 1), file, bytes(0, 9));
    }
    let mut numbers = Vec::new();
    for ghost in ["one", "two"] {
        let mut release = Release::new(seen_of_many(&w, ghost));
        while !w.table.release_look(&mut release).unwrap() {}
        let now = w.table.release_now(release.compare().unwrap()).unwrap();
        numbers.push(now.break_value().unwrap().1);
        while !w.table.settle_sweep(1) {}
        w.check();
    }
    assert_eq!(w.table.released(numbers[0]), Some(0), "it is not known any more");
    assert_eq!(w.table.released(numbers[1]), Some(1));
    assert_eq!(w.table.released(numbers[1]), Some(1), "asked again");
}
