//! `/proc/kallsyms`: addresses of what has a name in the kernel (proc(5)).

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

/// Longest line; a name of the kernel's has at most 512 bytes. What is beyond is taken for a line of its own, and fits none.
const MAX_LINE: u64 = 1024;
/// Most lines that count, those of one module; a module has some thousands. Those beyond are not looked at.
const MAX_SYMBOLS: usize = 1 << 16;

/// Addresses of one module's symbols, or of the kernel's own where it is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbols {
    /// None where the kernel hid the address: it shows 0 then.
    found: HashMap<String, Option<u64>>,
    /// Addresses of the module, sorted; none where it is built in.
    addresses: Vec<u64>,
}

impl Symbols {
    /// Reads the list, for these names. A name that several places have is none's.
    pub(super) fn read(mut list: impl BufRead, module: &str, wanted: &[&str]) -> io::Result<Self> {
        let (mut of_module, mut of_kernel) = (Self::default(), Self::default());
        let marker = format!("[{module}]").into_bytes();
        let mut line = Vec::new();
        loop {
            line.clear();
            if list.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            // A kernel has hundreds of thousands of names.
            let text = line.trim_ascii_end();
            if !text.ends_with(&marker) && !wanted.iter().any(|name| text.ends_with(name.as_bytes())) {
                continue;
            }
            let Some((address, name, owner)) = std::str::from_utf8(text).ok().and_then(parse_line) else { continue };
            let is_modules = owner == Some(module);
            if is_modules && of_module.addresses.len() < MAX_SYMBOLS {
                of_module.addresses.push(address);
            }
            let symbols = match owner {
                _ if !wanted.contains(&name) => continue,
                None => &mut of_kernel,
                Some(_) if is_modules => &mut of_module,
                Some(_) => continue,
            };
            let address = (address != 0).then_some(address);
            symbols.found.entry(name.to_owned()).and_modify(|twice| *twice = None).or_insert(address);
        }
        of_module.addresses.sort_unstable();
        Ok(if of_module.found.is_empty() { of_kernel } else { of_module })
    }

    /// Whether the kernel shows the names and hides where they are.
    pub fn is_hidden(&self) -> bool {
        !self.found.is_empty() && self.found.values().all(Option::is_none)
    }
    /// The address of a name.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.found.get(name).copied().flatten()
    }
    /// Whether so many bytes can be at an address before something else begins. True where that is not known.
    pub fn has_room(&self, address: u64, bytes: u64) -> bool {
        let next = self.addresses.iter().find(|next| **next > address);
        next.is_none_or(|next| next - address >= bytes)
    }
}

/// Address, name and module.
fn parse_line(line: &str) -> Option<(u64, &str, Option<&str>)> {
    let mut fields = line.split_ascii_whitespace();
    let address = u64::from_str_radix(fields.next()?, 16).ok()?;
    let (_, name) = (fields.next()?, fields.next()?);
    let module = fields.next().and_then(|module| module.strip_prefix('[')?.strip_suffix(']'));
    Some((address, name, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
ffffffff81000000 T _text
ffffffff82000010 d nlm_files
ffffffffc0a01000 t nlm_lookup_file\t[lockd]
ffffffffc0a10000 d nlm_files\t[lockd]
ffffffffc0a10400 d nlm_file_mutex\t[lockd]
ffffffffc0a20000 d nlm_files\t[other]
odd
ffffffffc0a11000 b nlm_hosts\t[lockd]
";

    fn read(list: &str, wanted: &[&str]) -> Symbols {
        Symbols::read(list.as_bytes(), "lockd", wanted).unwrap()
    }

    #[test]
    fn a_name_of_the_module_is_found_with_the_room_that_it_has() {
        let symbols = read(LIST, &["nlm_files", "nlm_hosts", "nlm_blocked"]);
        let files = symbols.address("nlm_files").unwrap();
        assert_eq!(files, 0xffff_ffff_c0a1_0000);
        assert!(symbols.has_room(files, 0x400) && !symbols.has_room(files, 0x401));
        let last = symbols.address("nlm_hosts").unwrap();
        assert!(symbols.has_room(last, 1 << 20));
        assert_eq!((symbols.address("nlm_blocked"), symbols.address("nlm_file_mutex")), (None, None));
    }

    #[test]
    fn where_the_module_is_built_in_the_kernels_own_names_count() {
        let symbols =
            read(&LIST.replace("\t[lockd]", "").replace("ffffffff82000010 d nlm_files\n", ""), &["nlm_files"]);
        assert_eq!(symbols.address("nlm_files"), Some(0xffff_ffff_c0a1_0000));
        assert!(symbols.has_room(0, u64::MAX));
    }

    #[test]
    fn a_name_that_two_places_have_and_one_that_is_hidden_have_no_address() {
        let twice = LIST.replace("nlm_hosts", "nlm_files");
        assert_eq!(read(&twice, &["nlm_files"]).address("nlm_files"), None);
        let hidden = read("0000000000000000 d nlm_files\t[lockd]\n", &["nlm_files"]);
        assert!(hidden.is_hidden());
        assert!(!read("", &["nlm_files"]).is_hidden());
    }

    proptest::proptest! {
        #[test]
        fn no_list_is_too_odd(list in "([0-9a-f]{0,20}[ \t]{0,2}[a-z\\[\\]]{0,9}[ \t]?nlm_files(\t\\[lockd\\]?)?\n?){0,30}.{0,50}") {
            let symbols = read(&list, &["nlm_files"]);
            let _ = symbols.has_room(symbols.address("nlm_files").unwrap_or(7), 9);
        }
    }
}
