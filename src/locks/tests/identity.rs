//! Who is who: machines that share a name, names that share an address, and what one frees of another.

use super::*;

const R: ByteRange = ByteRange { start: 0, end: 9 };

/// A machine that calls itself by a name, at an address.
#[derive(Clone, Copy)]
struct Machine {
    address: &'static str,
    name: &'static str,
    state: i32,
}

impl World {
    fn send(&mut self, from: Machine, call: &Call) -> Verdict {
        let client = self.client_at(from.address.parse().unwrap(), from.name);
        match self.call_as(Caller { client, via: via(Transport::Tcp) }, call) {
            Handled::Reply(verdict) => verdict,
            waits => panic!("{waits:?}"),
        }
    }

    /// All machines count their processes alike: this is the first of each.
    fn take(&mut self, from: Machine, file: &str) -> Verdict {
        self.send(from, &lock(from, file, false))
    }

    fn give_back(&mut self, from: Machine, file: &str) -> Verdict {
        self.send(from, &Call::Unlock(wanted(P("any", 1), file, R, true)))
    }

    fn notice(&mut self, source: &str, text: &str, state: i32) -> Reboot {
        let outcome = self.table.reboot_notice(source.parse().unwrap(), &name(text), NsmState(state));
        self.check();
        outcome
    }

    /// The names of the suspects, and their addresses.
    fn suspects(&self) -> Vec<String> {
        let rows = self.table.list_clients(0).clients.into_vec();
        let suspects = rows.into_iter().filter(|row| !row.suspicions.as_slice().is_empty());
        suspects.map(|row| format!("{} {}", row.name, row.addresses.as_slice()[0])).collect()
    }

    fn is_held(&self, file: &str) -> bool {
        !self.picture(file).is_empty()
    }
}

fn lock(from: Machine, file: &str, reclaim: bool) -> Call {
    Call::Lock {
        wanted: wanted(P("any", 1), file, R, true),
        block: false,
        reclaim,
        monitored: true,
        state: NsmState(from.state),
        cookie: Cookie::new(b"c").unwrap(),
    }
}

/// Pairs of machines that nothing but their address tells apart, or hardly more.
fn namesakes() -> Vec<[Machine; 2]> {
    let machine = |address, name, state| Machine { address, name, state };
    vec![
        [machine("192.0.2.11", "app", 3), machine("192.0.2.12", "app", 3)],
        [machine("192.0.2.11", "app", 1001), machine("192.0.2.12", "app", 2003)],
        [machine("2001:db8::11", "pod-0.svc", 3), machine("2001:db8::12", "pod-0.svc", 3)],
        [machine("192.0.2.11", "app", 3), machine("2001:db8::11", "app", 3)],
        [machine("192.0.2.11", "LIBNFS", 5), machine("192.0.2.12", "libnfs", 5)],
        [machine("192.0.2.11", "clone", 3), machine("192.0.2.12", "clone.example.org", 3)],
    ]
}

#[test]
fn two_machines_of_one_name_never_both_hold_an_exclusive_lock() {
    for [a, b] in namesakes() {
        let mut w = World::new();
        assert_eq!((w.take(a, "f"), w.take(b, "f")), (Verdict::Granted, Verdict::Denied));
        assert_eq!(w.give_back(b, "f"), Verdict::Granted, "it frees nothing");
        assert_eq!(w.take(b, "f"), Verdict::Denied);
        w.begin(Mode::Strict);
        assert_eq!(w.send(b, &lock(b, "f", true)), Verdict::Denied, "nor in a run");
        assert_eq!(w.send(a, &lock(a, "f", true)), Verdict::Granted);
        assert_eq!((w.counts().reclaimed, w.counts().conflicts), (1, 1));
    }
}

#[test]
fn what_one_machine_sends_frees_nothing_of_its_namesakes() {
    for [a, b] in namesakes() {
        let mut w = World::new();
        w.take(a, "a");
        w.take(b, "b");
        assert_eq!(w.send(b, &Call::FreeAll), Verdict::Granted);
        assert_eq!((w.is_held("a"), w.is_held("b")), (true, false));
        w.take(b, "b");
        assert_eq!(w.notice(b.address, b.name, b.state + 2), Reboot::Released(1));
        assert_eq!((w.is_held("a"), w.is_held("b")), (true, false));
        assert_eq!(w.suspects(), [format!("{} {}", a.name, a.address)], "it may be the same machine");
    }
}
