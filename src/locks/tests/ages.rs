//! Since when a lock is held, or waited for.

use super::*;

const A: P = P("a", 1);
const B: P = P("b", 1);

impl World {
    /// `a/1 0-9 60 s`, by range.
    fn ages(&self) -> Vec<String> {
        let mut rows = self.aged_rows();
        rows.sort_by_key(|row| (row.lock.range, row.lock.owner.name.clone()));
        let shown = rows.iter().map(|row| {
            let AgedLock { lock: LockRow { owner, range, .. }, age_s } = row;
            format!("{}/{} {range} {} s", owner.name, owner.svid, age_s.0.unwrap())
        });
        shown.collect()
    }
}

#[test]
fn a_lock_is_as_old_as_its_grant_also_what_is_left_of_it_after_an_unlock() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 99));
    w.pass(60);
    assert_eq!(w.ages(), ["a/1 0-99 60 s"]);
    w.unlock(A, "f", bytes(10, 19));
    w.write(A, "f", bytes(200, 209));
    w.pass(5);
    assert_eq!(w.ages(), ["a/1 0-9 65 s", "a/1 20-99 65 s", "a/1 200-209 5 s"]);
    w.write(A, "f", bytes(20, 29));
    assert_eq!(w.ages(), ["a/1 0-9 65 s", "a/1 20-99 65 s", "a/1 200-209 5 s"], "the oldest of what is joined");
    w.unlock(A, "f", ByteRange::ALL);
    w.write(A, "f", bytes(0, 9));
    assert_eq!(w.ages(), ["a/1 0-9 0 s"], "locked anew");
}

#[test]
fn a_request_is_as_old_as_its_first_sending_and_its_lock_as_the_offer() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    w.pass(60);
    assert_eq!(w.wait(B, "f", bytes(0, 9)), Verdict::Blocked);
    w.pass(30);
    assert_eq!(w.wait(B, "f", bytes(0, 9)), Verdict::Blocked);
    assert_eq!(w.ages(), ["a/1 0-9 90 s", "b/1 0-9 30 s"]);
    w.unlock(A, "f", bytes(0, 9));
    w.pass(7);
    assert_eq!(w.ages(), ["b/1 0-9 7 s"]);
    let (offer, _) = w.offers()[0];
    w.answer(offer, OfferAnswer::Accepted);
    w.pass(1);
    assert_eq!(w.ages(), ["b/1 0-9 8 s"]);
}

#[test]
fn a_reclaim_in_a_run_makes_no_lock_younger() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    w.write(B, "f", bytes(20, 29));
    w.pass(3600);
    w.begin(Mode::Strict);
    w.pass(10);
    assert_eq!(w.reclaim(A, "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.reclaim(A, "f", bytes(100, 109)), Verdict::Granted);
    w.pass(10);
    w.settle();
    assert_eq!(w.ages(), ["a/1 0-9 3620 s", "b/1 20-29 3620 s", "a/1 100-109 10 s"], "what the server had lost is new");
}
