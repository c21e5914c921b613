//! NFSv4's server scope, by which NFSv4.1 clients know their server: it is lost when nfsd's threads stop.
//!
//! rpc.nfsd and nfsdctl can give it a name of its own; every start of the threads without one makes it this host's. Where
//! the kernel tells the scope (Linux 6.10 and newer), it is read before and set again with the threads. An older kernel
//! does not tell it, so all that can be seen is what nfs.conf says that it should be; where that is another name, nfsd is
//! not stopped.

use std::path::Path;

use crate::host::{FileError, Machine, may_administer_network};
use crate::manager::{Caution, Weight};

/// Where nfs-utils reads its settings, in this order.
const FILES: [&str; 2] = ["usr/etc/nfs.conf", "etc/nfs.conf"];
const FOLDERS: [&str; 2] = ["usr/etc/nfs.conf.d", "etc/nfs.conf.d"];

/// What stands in the way of stopping nfsd, or is to be known before.
pub(super) fn look(machine: &Machine) -> Result<Option<Caution>, FileError> {
    let versions = machine.word("proc/fs/nfsd/versions")?;
    // NFSv4.0 has no scope.
    if !versions.split_ascii_whitespace().any(|version| version.starts_with("+4.") && version != "+4.0") {
        return Ok(None);
    }
    let (told, host) = (machine.nfsd_scope()?, machine.word("proc/sys/kernel/hostname")?);
    Ok(judge(told.as_deref(), &host, configured(machine).as_deref(), may_administer_network()))
}

fn judge(told: Option<&str>, host: &str, configured: Option<&str>, may_set: bool) -> Option<Caution> {
    let refuse = |text: String, remedy| Some(Caution::new("scope", Weight::Refuse, text, remedy));
    match (told, configured) {
        (Some(scope), _) if scope == host || may_set => None,
        (Some(scope), _) => refuse(
            format!(
                "NFSv4's server scope is {scope:?}, which a stop of nfsd loses, and this process may not set it again"
            ),
            "run this with CAP_NET_ADMIN in the host's own namespaces",
        ),
        (None, Some(scope)) if scope != host => refuse(
            format!(
                "nfs.conf gives NFSv4 the server scope {scope:?}, which a stop of nfsd loses, and this kernel can \
                 neither tell it nor take it (Linux 6.10 and newer can)"
            ),
            "restart the NFS server instead, which sets it; or take the scope out of nfs.conf",
        ),
        (None, _) => Some(Caution::new(
            "scope",
            Weight::Say,
            format!(
                "this kernel does not tell NFSv4's server scope: it is this host's name ({host}) after the stop, \
                 whatever it is now"
            ),
            "",
        )),
    }
}

/// The scope in nfs.conf; the last one counts.
fn configured(machine: &Machine) -> Option<String> {
    let mut files: Vec<String> = FILES.map(str::to_owned).into();
    for folder in FOLDERS {
        let mut names = machine.list(folder).unwrap_or_default();
        names.retain(|name| Path::new(name).extension().is_some_and(|end| end == "conf"));
        names.sort();
        files.extend(names.iter().map(|name| format!("{folder}/{name}")));
    }
    files.iter().filter_map(|file| parse(&machine.read(file).ok()?)).next_back()
}

/// `scope` in the section `nfsd` (nfs.conf(5)).
fn parse(text: &str) -> Option<String> {
    let (mut in_nfsd, mut scope) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let name = section.split([']', '"']).next().unwrap_or_default();
            in_nfsd = name.trim().eq_ignore_ascii_case("nfsd");
        } else if let Some((key, value)) = line.split_once('=')
            && in_nfsd
            && key.trim().eq_ignore_ascii_case("scope")
        {
            let value = value.trim().trim_matches(['"', '\'']);
            scope = (!value.is_empty()).then(|| value.to_owned());
        }
    }
    scope
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(told: Option<&str>, configured: Option<&str>, may_set: bool) -> Option<Weight> {
        judge(told, "filer", configured, may_set).map(|caution| caution.weight)
    }

    #[test]
    fn a_scope_that_cannot_be_put_back_keeps_nfsd_from_being_stopped() {
        assert_eq!(weight(Some("cluster"), None, false), Some(Weight::Refuse));
        assert_eq!(weight(None, Some("cluster"), true), Some(Weight::Refuse));
    }

    #[test]
    fn a_scope_that_is_the_hosts_name_or_can_be_set_again_is_in_nobodys_way() {
        assert_eq!(weight(Some("cluster"), Some("other"), true), None);
        assert_eq!(weight(Some("filer"), None, false), None);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_said_to_be_unknown() {
        for configured in [None, Some("filer")] {
            let caution = judge(None, "filer", configured, true).unwrap();
            assert_eq!(caution.weight, Weight::Say);
            assert!(caution.text.contains("does not tell"), "{}", caution.text);
        }
    }

    #[test]
    fn the_scope_is_found_in_its_section_however_that_is_written() {
        for text in [
            "[nfsd]\nscope=ha1\n",
            "[ NFSD ]\n # x\n Scope = \"ha1\"\n[mountd]\nscope=no\n",
            "[nfsd]\nscope=a\nscope=ha1",
        ] {
            assert_eq!(parse(text).as_deref(), Some("ha1"), "{text}");
        }
        for text in ["", "scope=ha1\n", "[nfsd]\n#scope=ha1\nthreads=8\n", "[lockd]\nscope=ha1\n", "[nfsd]\nscope=\n"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_file_of_the_folder_wins_and_without_nfsv4_1_none_matters() {
        let (_root, machine) = Machine::fake(&[
            ("etc/nfs.conf", "[nfsd]\nscope=one\n"),
            ("etc/nfs.conf.d/10-ha.conf", "[nfsd]\nscope=two\n"),
            ("etc/nfs.conf.d/20.conf.bak", "[nfsd]\nscope=three\n"),
            ("proc/sys/kernel/hostname", "filer\n"),
            ("proc/fs/nfsd/versions", "-2 +3 +4 +4.0 -4.1 -4.2\n"),
        ]);
        assert_eq!(configured(&machine).as_deref(), Some("two"));
        assert!(look(&machine).unwrap().is_none());
        machine.lay("proc/fs/nfsd/versions", "-2 +3 +4 +4.0 +4.1 +4.2\n");
        assert!(look(&machine).unwrap().is_some_and(|caution| caution.text.contains("\"two\"")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }
    }
}
