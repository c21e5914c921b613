//! Listings in pages, made in small steps, against a walk over everything.

use proptest::prelude::*;

use super::*;

const FILES: [&str; 6] = ["a", "b", "c", "moving", "d", "moving too"];
const STILL: [&str; 4] = ["a", "b", "c", "d"];
const PROCESSES: [P; 5] = [P("one", 1), P("one", 2), P("one.example.org", 1), P("two", 1), P("three", 1)];

#[derive(Debug, Clone, Copy)]
enum Step {
    Lock(bool),
    Wait,
    Unlock,
}

type Deed = (Step, usize, usize, u64);

fn deeds(most: usize) -> impl Strategy<Value = Vec<Deed>> {
    let step = prop_oneof![any::<bool>().prop_map(Step::Lock), Just(Step::Wait), Just(Step::Unlock)];
    prop::collection::vec((step, 0..PROCESSES.len(), 0..FILES.len(), 0..4_u64), 0..most)
}

fn scope() -> impl Strategy<Value = Scope> {
    let names = ["one", "ONE.example.org", "one.example.com", "two", "three", "nobody"];
    let address = prop::option::of(prop::sample::select(vec!["one", "two", "three"]));
    let client = (prop::option::of(prop::sample::select(names.to_vec())), address).prop_map(|(named, at)| ClientRef {
        name: Maybe(named.map(name)),
        address: Maybe(at.map(|client| crate::wire::types::Address(World::address(client)))),
    });
    let file = prop::sample::select([FILES.as_slice(), &["none"]].concat());
    let file = file.prop_map(|file| FileHandle::new(file.as_bytes()).unwrap());
    let lists = (prop::collection::vec(client, 0..5), prop::collection::vec(file, 0..5));
    lists.prop_map(|(clients, files)| Scope { clients: List::clipped(clients), files: List::clipped(files) })
}

impl World {
    fn do_it(&mut self, (step, process, file, byte): Deed) {
        let (process, file) = (PROCESSES[process], FILES[file]);
        match step {
            Step::Lock(true) => drop(self.write(process, file, bytes(3 * byte, 3 * byte + 1))),
            Step::Lock(false) => drop(self.read(process, file, bytes(3 * byte, 3 * byte + 1))),
            Step::Wait => drop(self.wait(process, file, bytes(byte, 2 * byte + 3))),
            Step::Unlock => drop(self.unlock(process, file, bytes(byte, 3 * byte))),
        }
    }

    fn naive(&self, scope: &Scope) -> Vec<LockRow> {
        let (clients, files) = (scope.clients.as_slice(), scope.files.as_slice());
        let named = |reference: &ClientRef, row: &LockRow| {
            let (by_name, by_address) = (&reference.name.0, &reference.address.0);
            (by_name.is_some() || by_address.is_some())
                && by_name.as_ref().is_none_or(|name| row.owner.name.matches(name))
                && by_address.as_ref().is_none_or(|address| row.owner.address == *address)
        };
        let all = self.table.segments().files();
        let all = all.flat_map(|file| self.table.listed(file).filter_map(move |lock| self.table.lock_row(file, &lock)));
        all.filter(|row| clients.is_empty() || clients.iter().any(|reference| named(reference, row)))
            .filter(|row| files.is_empty() || files.contains(&row.file))
            .collect()
    }

    /// All pages; `between` comes after each step.
    fn paged(&mut self, scope: &Scope, limits: (usize, usize), mut between: impl FnMut(&mut Self)) -> Vec<LockRow> {
        let (mut rows, mut after) = (Vec::new(), 0);
        loop {
            let mut page = Listing::with_limits(LocksArgs { scope: scope.clone(), after }, limits);
            while !self.table.list_locks_on(&mut page) {
                between(self);
            }
            let page = page.into_page();
            assert!(page.locks.as_slice().len() <= limits.0);
            rows.extend(page.locks.into_vec().into_iter().map(|row| row.lock));
            between(self);
            match page.next {
                0 => return rows,
                next => assert!(next > after, "pages go forward"),
            }
            after = page.next;
        }
    }
}

proptest! {
    #[test]
    fn pages_through_any_filter_give_what_a_walk_over_everything_gives(
        past in deeds(120), scope in scope(), limits in (1..6_usize, 2..9_usize), begin in any::<bool>()
    ) {
        let mut w = World::new();
        for deed in past {
            w.do_it(deed);
        }
        if begin {
            w.begin(Mode::Targeted);
        }
        let naive = w.naive(&scope);
        prop_assert_eq!(w.paged(&scope, limits, |_| {}), naive);
    }

    #[test]
    fn what_stays_is_listed_once_while_other_files_come_and_go(
        past in deeds(120), scope in scope(), limits in (1..6_usize, 2..9_usize), mut meanwhile in deeds(120)
    ) {
        let mut w = World::new();
        for deed in past {
            w.do_it(deed);
        }
        let still = |rows: Vec<LockRow>| -> Vec<LockRow> {
            rows.into_iter().filter(|row| STILL.iter().any(|file| FileHandle::new(file.as_bytes()).unwrap() == row.file)).collect()
        };
        let naive = still(w.naive(&scope));
        meanwhile.retain(|(_, _, file, _)| !STILL.contains(&FILES[*file]));
        let rows = w.paged(&scope, limits, |w| {
            if let Some(deed) = meanwhile.pop() {
                w.do_it(deed);
            }
        });
        prop_assert_eq!(still(rows), naive);
    }
}

/// How many steps the first page takes.
fn steps(w: &World, scope: Scope) -> usize {
    let mut page = Listing::new(LocksArgs { scope, after: 0 });
    let mut steps = 1;
    while !w.table.list_locks_on(&mut page) {
        steps += 1;
    }
    steps
}

#[test]
fn a_page_about_one_client_or_file_looks_at_nothing_of_the_others() {
    let mut w = World::new();
    let (many, few) = (w.caller("many"), w.caller("few"));
    for file in 0..20_000 {
        let caller = if file % 4_000 == 3_999 { few } else { many };
        let process = P("any", 1);
        w.table.handle(w.now, caller, &World::lock_call(process, &file.to_string(), bytes(0, 9), true, false, false));
    }
    let handle = FileHandle::new(b"17000").unwrap();
    let one_file = Scope { clients: List::default(), files: List::clipped(vec![handle]) };
    assert_eq!(steps(&w, one_file), 1);
    let one_client = Scope { clients: List::clipped(vec![client_ref("few")]), files: List::default() };
    assert_eq!(steps(&w, one_client.clone()), 1);
    assert_eq!(w.naive(&one_client).len(), 5);
    assert_eq!(w.paged(&one_client, (2, 100), |_| {}), w.naive(&one_client));
}

#[test]
fn a_long_look_through_a_filter_or_an_almost_empty_table_is_cut_into_steps() {
    let mut w = World::new();
    let caller = w.caller("many");
    let call = |file: u32| World::lock_call(P("any", 1), &file.to_string(), bytes(0, 9), true, false, false);
    for file in 0..20_000 {
        w.table.handle(w.now, caller, &call(file));
    }
    for file in 0..19_999 {
        let unlock = Call::Unlock(wanted(P("any", 1), &file.to_string(), bytes(0, 9), true));
        w.table.handle(w.now, caller, &unlock);
    }
    assert!(steps(&w, Scope::default()) > 5, "places without a file");
    assert_eq!(w.rows().len(), 1);
    let refs = (0..20_000).map(|n: u32| client_ref(Box::leak(format!("no{n}").into_boxed_str()))).collect();
    assert!(steps(&w, Scope { clients: List::clipped(refs), files: List::default() }) > 5, "references");
    let files = (0..20_000).map(|n: u32| FileHandle::new(n.to_string().as_bytes()).unwrap()).collect();
    assert!(steps(&w, Scope { clients: List::default(), files: List::clipped(files) }) > 5, "files");
}
