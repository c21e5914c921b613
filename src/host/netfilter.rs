//! Packet rules and packet queues of other programs in netfilter, read only.

use std::collections::BTreeSet;
use std::io;

use nix::libc;

use super::files::{FileError, Machine};
use super::netlink::{list, open};
use crate::wire::netlink::Attribute;
use crate::wire::nftables::{self, Port, verdict};

/// Lists the queues in use, with the number first in each line; there only where the kernel has queues.
const QUEUES: &str = "proc/net/netfilter/nfnetlink_queue";
/// Tables of iptables (not of nftables), a name in a line.
const LEGACY: [&str; 2] = ["proc/net/ip_tables_names", "proc/net/ip6_tables_names"];

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleEffect {
    /// It gives it to a program.
    Queues,
    /// It drops or rejects it.
    Drops,
}

/// A rule of another program that names one of the ports that it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRule {
    /// Its table and chain, for people.
    pub place: String,
    pub does: RuleEffect,
}

/// What this kernel has of netfilter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Netfilter {
    /// The tables of nftables but that of this program: family and name, for people.
    pub tables: BTreeSet<String>,
    /// Chains with a rule that gives packets to a program, whichever they are.
    pub queueing: BTreeSet<String>,
    /// Rules that name a port.
    pub rules: BTreeSet<PortRule>,
}

impl Netfilter {
    /// Looks at this network namespace's rules.
    ///
    /// # Errors
    /// The errors of netlink: `EPERM` without CAP_NET_ADMIN, `EPROTONOSUPPORT` or `EINVAL` without nf_tables.
    pub fn look(ports: &[Port]) -> io::Result<Self> {
        let kernel = open(libc::NETLINK_NETFILTER)?;
        let tables = list(&kernel, nftables::list_tables)?;
        let rules = list(&kernel, nftables::list_rules)?;
        Ok(sort(&tables, &rules, ports))
    }
}

fn sort(tables: &[Vec<Attribute>], rules: &[Vec<Attribute>], ports: &[Port]) -> Netfilter {
    let text =
        |of: &[Attribute], kind| Attribute::find(of, kind).and_then(Attribute::as_text).unwrap_or_default().to_owned();
    let mut found = Netfilter::default();
    let ours = |name: &str| name == nftables::TABLE;
    found.tables = tables.iter().map(|one| text(one, nftables::table::NAME)).filter(|name| !ours(name)).collect();
    let numbers: BTreeSet<u16> = ports.iter().map(|port| port.number).collect();
    for rule in rules {
        let table = text(rule, nftables::rule::TABLE);
        let Some(does) = verdict(rule).filter(|_| !ours(&table)) else { continue };
        let does = if does == nftables::Verdict::Queue { RuleEffect::Queues } else { RuleEffect::Drops };
        let place = format!("table {table}, chain {}", text(rule, nftables::rule::CHAIN));
        if does == RuleEffect::Queues {
            found.queueing.insert(place.clone());
        }
        if nftables::compared_ports(rule).any(|port| numbers.contains(&port)) {
            found.rules.insert(PortRule { place, does });
        }
    }
    found
}

impl Machine {
    /// A number of a packet queue that no program listens to now. The search begins at `first`. Another program may be the
    /// first to take it: who is refused there asks again.
    ///
    /// # Errors
    /// All are in use; or the kernel's list cannot be read.
    pub fn free_packet_queue(&self, first: u16) -> Result<u16, FileError> {
        let text = self.packet_queues()?;
        let used: BTreeSet<u16> =
            text.lines().filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok()).collect();
        let mut numbers = (first..=u16::MAX).chain(0..first);
        numbers.find(|number| !used.contains(number)).ok_or_else(|| {
            FileError::Odd(self.path(QUEUES), "every packet queue has a program that listens to it".into())
        })
    }

    fn packet_queues(&self) -> Result<String, FileError> {
        match self.read(QUEUES) {
            Err(error) if error.is_missing() => Ok(String::new()),
            read => read,
        }
    }

    /// How many packets the kernel has dropped because the queue was full or its program took none: they never come to that program.
    ///
    /// # Errors
    /// The kernel's list cannot be read.
    pub fn lost_packets(&self, queue: u16) -> Result<u64, FileError> {
        let text = self.packet_queues()?;
        // Number, port, waiting, mode, range, dropped as full, dropped as not taken (net/netfilter/nfnetlink_queue.c).
        let lines = text.lines().map(|line| line.split_ascii_whitespace().map(str::parse).collect::<Vec<_>>());
        let lost = |columns: Vec<Result<u64, _>>| match columns.as_slice() {
            [Ok(number), _, _, _, _, Ok(full), Ok(not_taken), ..] if *number == u64::from(queue) => {
                Some(full + not_taken)
            }
            _ => None,
        };
        Ok(lines.filter_map(lost).sum())
    }

    /// Tables of iptables as it was before nftables.
    pub fn legacy_tables(&self) -> BTreeSet<String> {
        let text = |file: &&str| self.read(file).unwrap_or_default();
        LEGACY.iter().map(text).flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Whether a module of the kernel is there, loaded or to be loaded; `None`: that cannot be told.
    pub fn has_module(&self, name: &str) -> Option<bool> {
        if self.path(&format!("sys/module/{name}")).exists() {
            return Some(true);
        }
        let folder = format!("lib/modules/{}", self.release().ok()?);
        let lists = [format!("{folder}/modules.builtin"), format!("{folder}/modules.dep")].map(|list| self.read(&list));
        let [Ok(built_in), Ok(loadable)] = lists else { return None };
        let file = |line: &str| {
            let path = line.split(':').next().unwrap_or_default();
            let stem = path.rsplit('/').next().and_then(|file| file.split('.').next()).unwrap_or_default();
            stem.replace('-', "_") == name
        };
        if built_in.lines().any(file) {
            return Some(true);
        }
        // 1: nothing is loaded any more until the next boot.
        let may_load = self.word("proc/sys/kernel/modules_disabled").map_or(true, |word| word != "1");
        Some(may_load && loadable.lines().any(file))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::wire::nftables::{Queueing, rule};
    use crate::wire::types::Transport;

    fn port(number: u16) -> Port {
        Port { ipv6: false, transport: Transport::Tcp, number }
    }

    #[test]
    fn lost_packets_are_those_of_the_queue_by_both_columns() {
        let text =
            "    1  4711     0 2 65535    90    90        9  1\n28268  4711     3 2 65535    17     5  8209  1\n";
        let (_root, host) = Machine::fake(&[(QUEUES, text)]);
        assert_eq!([1, 28268, 2].map(|queue| host.lost_packets(queue).unwrap()), [180, 22, 0]);
    }

    /// A rule that compares two bytes with this port, and has this expression at its end.
    fn rule_of(table: &str, compared: u16, name: &str, data: &[Attribute]) -> Vec<Attribute> {
        let expression = |name: &str, data: &[Attribute]| {
            let inner = [Attribute::text(rule::EXPRESSION, name), Attribute::nest(rule::DATA, data).unwrap()];
            Attribute::nest(rule::LIST, &inner).unwrap()
        };
        let value = Attribute::nest(3, &[Attribute::network16(1, compared)]).unwrap();
        let all = [expression("cmp", &[value]), expression(name, data)];
        let rule = [
            Attribute::text(rule::TABLE, table),
            Attribute::text(rule::CHAIN, "in"),
            Attribute::nest(rule::EXPRESSIONS, &all).unwrap(),
        ];
        // As the kernel sends it: kinds without flags.
        Attribute::nest(1, &rule).unwrap().as_nest().unwrap()
    }

    fn verdict_of(code: u32) -> Vec<Attribute> {
        let verdict = Attribute::nest(2, &[Attribute::network32(1, code)]).unwrap();
        vec![Attribute::nest(2, &[verdict]).unwrap()]
    }

    #[test]
    fn rules_that_queue_or_drop_are_found_and_those_on_the_ports_are_told_apart() {
        let target = [Attribute::text(1, "NFQUEUE")];
        let (drop, accept, jump) = (verdict_of(0), verdict_of(1), verdict_of(0xffff_fffd));
        let rules = [
            rule_of("a", 4045, "immediate", &drop),
            rule_of("b", 4045, "immediate", &accept),
            rule_of("c", 4045, "immediate", &jump),
            rule_of("d", 22, "queue", &[]),
            rule_of("e", 4045, "target", &target),
            rule_of("f", 22, "reject", &[]),
            rule_of(nftables::TABLE, 4045, "queue", &[]),
            vec![Attribute { kind: rule::EXPRESSIONS, value: vec![9, 9, 9] }],
        ];
        let tables = ["a", "ours", nftables::TABLE].map(|name| vec![Attribute::text(nftables::table::NAME, name)]);
        let found = sort(&tables, &rules, &[port(4045)]);
        assert_eq!(found.tables, ["a".to_owned(), "ours".to_owned()].into());
        assert_eq!(found.queueing, ["table d, chain in".to_owned(), "table e, chain in".to_owned()].into());
        let places: Vec<(&str, RuleEffect)> = found.rules.iter().map(|rule| (rule.place.as_str(), rule.does)).collect();
        assert_eq!(places, [("table a, chain in", RuleEffect::Drops), ("table e, chain in", RuleEffect::Queues)]);
    }

    #[test]
    fn no_bytes_of_a_rule_are_too_odd() {
        let made = nftables::install(7, &[port(4045)], 7, std::time::Duration::from_secs(1), Queueing::Target).unwrap();
        for start in (0..made.len()).step_by(4) {
            let odd = Attribute { kind: rule::EXPRESSIONS, value: made[start..].to_vec() };
            sort(&[vec![odd.clone()]], &[vec![odd]], &[port(4045)]);
        }
    }

    #[test]
    fn the_first_packet_queue_is_chosen_that_no_program_has() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::at(root.path());
        assert_eq!(machine.free_packet_queue(20).unwrap(), 20);
        fs::create_dir_all(root.path().join("proc/net/netfilter")).unwrap();
        let line = |number| format!("{number:5}  3112     0 2 65531     0     0        0  1\n");
        fs::write(root.path().join(QUEUES), line(0) + &line(20) + &line(21)).unwrap();
        assert_eq!(machine.free_packet_queue(20).unwrap(), 22);
        fs::write(root.path().join(QUEUES), (20..=u16::MAX).map(line).collect::<String>()).unwrap();
        assert_eq!(machine.free_packet_queue(20).unwrap(), 0);
    }
}
