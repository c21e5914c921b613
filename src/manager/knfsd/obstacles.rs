//! Obstacles to a grace period in front of lockd (`interposer/`) on this host, each with a remedy.
//!
//! Nothing is changed. Rules of other programs stay as they are: this program's own are in a table of its own, which stays
//! when a firewall is reloaded. A packet that another rule drops after ours was reported and has no reply, so its
//! lock is kept. A program that takes packets from a queue is different: it may let requests pass that it changed or
//! delayed.

use std::collections::BTreeSet;
use std::io;

use nix::libc;

use super::owners::{self, ClientHost, OwnersError, View};
use super::port::lockd_ports;
use super::{Caution, Weight};
use crate::host::netfilter::{Netfilter, RuleEffect};
use crate::host::{ETAB, Machine, lacks_capabilities};
use crate::units;
use crate::wire::nftables::Port;

/// The packet queue that is taken where no other program has it: "nl" in ASCII. Else a higher one.
pub const FIRST_QUEUE: u16 = 0x6e6c;
/// Modules without which packets cannot be queued by rules of nftables.
const MODULES: [&str; 3] = ["nf_tables", "nft_queue", "nfnetlink_queue"];
/// Most names that are listed in a message.
const MAX_NAMES: usize = 8;

/// All that is in the way ([`Weight::Refuse`]), and what an operator should know ([`Weight::Say`]). Without what was `seen` of
/// lockd it reads kernel memory once, which takes up to a second on a busy server.
pub(crate) async fn look(machine: &Machine, seen: Option<&View>) -> Vec<Caution> {
    let mut found = Vec::new();
    let ports = lockd_ports().await.unwrap_or_else(|error| {
        found.push(refuse("rpcbind", error, "start rpcbind, and then the NFS server again"));
        Vec::new()
    });
    let machine = machine.clone();
    let hosts = seen.map(|view| view.hosts.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        look_at_process(&mut found);
        look_at_selinux(&machine, &mut found);
        look_at_grace(&machine, &mut found);
        look_at_owners(&machine, hosts, &ports, &mut found);
        look_at_modules(&machine, &mut found);
        look_at_queues(&machine, &mut found);
        look_at_rules(&machine, Netfilter::look(&ports), &mut found);
        look_at_exports(&machine, &mut found);
        found
    });
    found.extend(looked.await.unwrap_or_default());
    found
}

fn refuse(about: &'static str, text: impl Into<String>, remedy: &str) -> Caution {
    Caution::new(about, Weight::Refuse, text, remedy)
}

fn say(about: &'static str, text: impl Into<String>) -> Caution {
    Caution::new(about, Weight::Say, text, "")
}

fn look_at_process(found: &mut Vec<Caution>) {
    let missing = lacks_capabilities();
    if !missing.is_empty() {
        let text = format!("this process lacks {}", missing.join(", "));
        let remedy = "run this as root on the host itself; a service needs them in its CapabilityBoundingSet";
        found.push(refuse("capabilities", text, remedy));
    }
}

/// What a policy denies fails with EACCES or EPERM, as if a capability were missing.
fn look_at_selinux(machine: &Machine, found: &mut Vec<Caution>) {
    if let Some(label) = machine.confined_by_selinux() {
        let text = format!(
            "SELinux enforces a policy on this process ({label}): what it denies fails as if this were not root, and \
             `ausearch -m avc -ts recent` lists it"
        );
        found.push(say("selinux", text));
    }
}

fn look_at_grace(machine: &Machine, found: &mut Vec<Caution>) {
    match machine.in_grace() {
        Ok(false) => {}
        Ok(true) => {
            let text = "the server is in a grace period of its own, in which lockd grants reclaims and refuses ordinary requests itself";
            found.push(refuse("grace", text, "wait until it is over: `nlmctl status` shows it"));
        }
        Err(error) => found.push(refuse("grace", error.to_string(), "start the NFS server, and run this as root")),
    }
}

fn look_at_owners(machine: &Machine, seen: Option<Vec<ClientHost>>, ports: &[Port], found: &mut Vec<Caution>) {
    match seen.map_or_else(|| Ok(owners::look(machine)?.hosts), Ok) {
        Ok(hosts) => found.extend(unseen(&hosts, ports)),
        Err(error @ OwnersError::NoAgreement { .. }) => found.push(say("owners", error.to_string())),
        Err(error) => {
            let text = format!("the owners of locks cannot be read from the kernel: {error}");
            found.push(refuse("owners", text, error.remedy()));
        }
    }
}

/// A client that came to a port that is not known, as IPv6 has others: its packets would pass the rules by.
pub(crate) fn unseen<'a>(hosts: &[ClientHost], ports: impl IntoIterator<Item = &'a Port>) -> Option<Caution> {
    let known: BTreeSet<_> = ports.into_iter().map(|port| (port.ipv6, port.transport)).collect();
    let is_known =
        |host: &ClientHost| known.contains(&(host.way.server.0.to_canonical().is_ipv6(), host.way.transport));
    let host = hosts.iter().find(|host| !is_known(host))?;
    let (caller, called, transport) = (&host.caller, host.way.server.0, host.way.transport);
    let text = format!("{caller} calls lockd at {called} by {transport}, and rpcbind has no port of lockd there");
    Some(refuse("rpcbind", text, "restart the NFS server after rpcbind, so that lockd is registered for IPv6 too"))
}

fn look_at_modules(machine: &Machine, found: &mut Vec<Caution>) {
    let missing: Vec<&str> = MODULES.into_iter().filter(|module| machine.has_module(module) == Some(false)).collect();
    if !missing.is_empty() {
        let text = format!("the kernel has no {}, or may not load it: packets cannot be queued", missing.join(", "));
        let remedy = "install all modules of the running kernel (Debian: linux-image-$(uname -r); Ubuntu: \
                      linux-modules-$(uname -r); Red Hat: kernel-modules-core), or boot again if \
                      kernel.modules_disabled is 1";
        found.push(refuse("modules", text, remedy));
    }
}

fn look_at_queues(machine: &Machine, found: &mut Vec<Caution>) {
    if let Err(error) = machine.free_packet_queue(FIRST_QUEUE) {
        let text = format!("no packet queue is available: {error}");
        found.push(refuse("packet-rules", text, "end one of the programs that listen to packet queues"));
    }
}

fn look_at_rules(machine: &Machine, looked: io::Result<Netfilter>, found: &mut Vec<Caution>) {
    let netfilter = match looked {
        Ok(netfilter) => netfilter,
        Err(error) => {
            let (text, remedy) = match error.raw_os_error() {
                // That is said of the process already.
                Some(libc::EPERM) => return,
                Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP) => {
                    (format!("the kernel has no nftables: {error}"), "load the module nf_tables")
                }
                _ => (format!("the packet rules of this host cannot be listed: {error}"), "see the kernel's log"),
            };
            return found.push(refuse("packet-rules", text, remedy));
        }
    };
    for rule in &netfilter.rules {
        match rule.does {
            RuleEffect::Queues => found.push(refuse(
                "packet-rules",
                format!("a rule gives packets of lockd's ports to another program ({})", rule.place),
                "take lockd's ports out of that rule for the time of the run",
            )),
            RuleEffect::Drops => found.push(say(
                "packet-rules",
                format!(
                    "a rule drops packets of lockd's ports ({}): clients that it matches cannot reclaim",
                    rule.place
                ),
            )),
        }
    }
    if !netfilter.queueing.is_empty() {
        let text = format!(
            "rules give packets to other programs ({}): none of them may change NLM",
            names(&netfilter.queueing)
        );
        found.push(say("packet-rules", text));
    }
    if !netfilter.tables.is_empty() {
        let text = format!(
            "other packet rules of this host stay as they are (tables {}), and a reload of them does not touch those of \
             the run",
            names(&netfilter.tables)
        );
        found.push(say("packet-rules", text));
    }
    let legacy = machine.legacy_tables();
    if !legacy.is_empty() {
        let text = format!("rules of iptables-legacy are in use (tables {}); they are not looked into", names(&legacy));
        found.push(say("packet-rules", text));
    }
}

/// Linux clients send NLM with AUTH_SYS for mounts with Kerberos too. Which other clients there are the server cannot know.
fn look_at_exports(machine: &Machine, found: &mut Vec<Caution>) {
    let Ok(exports) = machine.read(ETAB) else { return };
    let kerberos = |line: &&str| line.contains("sec=krb5") || line.contains(":krb5");
    let paths: BTreeSet<String> = exports
        .lines()
        .filter(kerberos)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(str::to_owned)
        .collect();
    if !paths.is_empty() {
        let text = format!(
            "exports with Kerberos ({}): Linux clients lock with AUTH_SYS there too; what a client encrypts cannot be read, \
             and all locks of such a client are kept",
            names(&paths)
        );
        found.push(say("kerberos", text));
    }
}

fn names(all: &BTreeSet<String>) -> String {
    units::first(all.iter(), MAX_NAMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netfilter::PortRule;
    use crate::manager::knfsd::owners::Way;
    use crate::wire::types::{Address, CallerName, Transport};

    fn all(look: impl FnOnce(&mut Vec<Caution>)) -> Vec<(&'static str, Weight, String)> {
        let mut found = Vec::new();
        look(&mut found);
        for caution in &found {
            assert!(caution.weight == Weight::Say || !caution.remedy.is_empty(), "{caution:?}");
        }
        found.into_iter().map(|caution| (caution.about, caution.weight, caution.text)).collect()
    }

    #[test]
    fn a_module_that_is_nowhere_is_named_and_one_that_is_built_in_loaded_or_loadable_is_not() {
        let folder = "lib/modules/6.1.0-1-cloud";
        let (dep, built_in) = (format!("{folder}/modules.dep"), format!("{folder}/modules.builtin"));
        let release = ("proc/sys/kernel/osrelease", "6.1.0-1-cloud\n");
        let there = "kernel/net/netfilter/nft_queue.ko.xz: kernel/net/netfilter/nfnetlink_queue.ko\n";
        let (_root, told) = Machine::fake(&[
            release,
            (&dep, there),
            (&built_in, "kernel/net/netfilter/nfnetlink-queue.ko\n"),
            ("sys/module/nf_tables/refcnt", "1\n"),
        ]);
        assert_eq!(all(|found| look_at_modules(&told, found)), []);
        let (_root, lacks) =
            Machine::fake(&[release, (&dep, there), (&built_in, ""), ("sys/module/nf_tables/refcnt", "1\n")]);
        let found = all(|found| look_at_modules(&lacks, found));
        assert!(found[0].2.contains("has no nfnetlink_queue,") && found[0].1 == Weight::Refuse, "{found:?}");
        let (_root, shut) = Machine::fake(&[
            release,
            (&dep, there),
            (&built_in, ""),
            ("sys/module/nf_tables/refcnt", "1\n"),
            ("sys/module/nfnetlink_queue/refcnt", "1\n"),
            ("proc/sys/kernel/modules_disabled", "1\n"),
        ]);
        let found = all(|found| look_at_modules(&shut, found));
        assert!(found[0].2.contains("has no nft_queue,"), "{found:?}");
        // A kernel without lists, as in a container: nothing is said that is not known.
        assert_eq!(all(|found| look_at_modules(&Machine::fake(&[release]).1, found)), []);
    }

    #[test]
    fn a_policy_of_selinux_is_named_where_it_confines_this_process() {
        let label = "proc/thread-self/attr/current";
        let look = |enforce: &str, own: &str| {
            let (_root, host) = Machine::fake(&[("sys/fs/selinux/enforce", enforce), (label, own)]);
            all(|found| look_at_selinux(&host, found))
        };
        let found = look("1", "system_u:system_r:nfsd_t:s0\0");
        assert!(found[0].2.contains("(system_u:system_r:nfsd_t:s0)") && found[0].1 == Weight::Say, "{found:?}");
        assert_eq!(look("0", "system_u:system_r:nfsd_t:s0\0"), []);
        assert_eq!(look("1", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0"), []);
        assert_eq!(look("1", "system_u:system_r:unconfined_service_t:s0\0"), []);
        let (_root, without) = Machine::fake(&[(label, "docker-default (enforce)\n")]);
        assert_eq!(all(|found| look_at_selinux(&without, found)), []);
    }

    #[test]
    fn rules_of_others_are_named_and_only_a_queue_on_lockds_ports_is_in_the_way() {
        let (_root, host) = Machine::fake(&[("proc/net/ip_tables_names", "nat\nfilter\n")]);
        let rule = |does| PortRule { place: "table filter, chain INPUT".into(), does };
        let netfilter = Netfilter {
            tables: ["firewalld".to_owned(), "docker-bridges".to_owned()].into(),
            queueing: ["table ids, chain in".to_owned()].into(),
            rules: [rule(RuleEffect::Queues), rule(RuleEffect::Drops)].into(),
        };
        let found = all(|found| look_at_rules(&host, Ok(netfilter), found));
        let weights: Vec<Weight> = found.iter().map(|(_, weight, _)| *weight).collect();
        assert_eq!(weights, [Weight::Refuse, Weight::Say, Weight::Say, Weight::Say, Weight::Say]);
        let text = found.iter().map(|(.., text)| text.as_str()).collect::<Vec<_>>().join("\n");
        for name in ["chain INPUT", "table ids", "docker-bridges, firewalld", "tables filter, nat"] {
            assert!(text.contains(name), "{text}");
        }
        assert_eq!(all(|found| look_at_rules(&Machine::fake(&[]).1, Ok(Netfilter::default()), found)), []);
    }

    #[test]
    fn packet_queues_are_in_the_way_only_where_other_programs_have_all_of_them() {
        let line = |number: u16| format!("{number} 1 0 2 0 0 0 0 1\n");
        let lines = |numbers: std::ops::RangeInclusive<u16>| numbers.map(line).collect::<Vec<_>>().concat();
        let one = lines(FIRST_QUEUE..=FIRST_QUEUE);
        let (_root, host) = Machine::fake(&[("proc/net/netfilter/nfnetlink_queue", &one)]);
        assert_eq!(all(|found| look_at_queues(&host, found)), []);
        let every = lines(0..=u16::MAX);
        let (_root, host) = Machine::fake(&[("proc/net/netfilter/nfnetlink_queue", &every)]);
        assert_eq!(all(|found| look_at_queues(&host, found))[0].1, Weight::Refuse);
    }

    #[test]
    fn a_kernel_without_nftables_is_in_the_way_and_a_lack_of_rights_is_said_once() {
        let error = |number| Err(io::Error::from_raw_os_error(number));
        let (_root, host) = Machine::fake(&[]);
        assert_eq!(all(|found| look_at_rules(&host, error(libc::EPROTONOSUPPORT), found))[0].1, Weight::Refuse);
        assert_eq!(all(|found| look_at_rules(&host, error(libc::EPERM), found)), []);
    }

    #[test]
    fn a_grace_period_of_the_servers_own_is_in_the_way_as_is_memory_that_cannot_be_read() {
        let in_grace = |word| {
            let (_root, host) = Machine::fake(&[("proc/fs/lockd/nlm_end_grace", word)]);
            all(|found| {
                look_at_grace(&host, found);
                look_at_owners(&host, None, &[], found);
            })
        };
        let abouts = |found: Vec<(&'static str, Weight, String)>| found.iter().map(|one| one.0).collect::<Vec<_>>();
        assert_eq!(abouts(in_grace("N\n")), ["grace", "owners"]);
        assert_eq!(abouts(in_grace("Y\n")), ["owners"]);
    }

    #[test]
    fn a_client_by_ipv6_is_in_the_way_where_no_port_of_ipv6_is_known() {
        let host = |server: &str| ClientHost {
            way: Way { server: Address(server.parse().unwrap()), ..Way::sample(2) },
            caller: CallerName::new("c1").unwrap(),
            mon_name: None,
            monitored: true,
            nsm_state: None,
        };
        let port = |ipv6| Port { ipv6, transport: Transport::Tcp, number: 4045 };
        let view = View { hosts: vec![host("192.0.2.1"), host("::ffff:192.0.2.1")], ..View::default() };
        assert_eq!(unseen(&view.hosts, &[port(false)]), None);
        let view = View { hosts: vec![host("192.0.2.1"), host("2001:db8::1")], ..View::default() };
        assert_eq!(unseen(&view.hosts, &[port(false), port(true)]), None);
        assert!(unseen(&view.hosts, &[port(false)]).unwrap().text.contains("c1 calls lockd at 2001:db8::1"));
    }

    #[test]
    fn exports_with_kerberos_are_named_and_others_are_not() {
        let etab = "/srv/x\t*(rw,sec=sys)\n/srv/k\t*(rw,sec=krb5p)\n/srv/both\t*(rw,sec=sys:krb5)\n";
        let (_root, host) = Machine::fake(&[(ETAB, etab)]);
        let found = all(|found| look_at_exports(&host, found));
        assert!(found.len() == 1 && found[0].2.contains("(/srv/both, /srv/k)"), "{found:?}");
    }
}
