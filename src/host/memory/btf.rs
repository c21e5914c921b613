//! BTF, the kernel's description of its own types (Documentation/bpf/btf.rst): where a member lies in a structure.
//! Pure.
//!
//! Theory. A file of BTF is types, one after the other and numbered from 1, and strings. That of a module goes on where the
//! kernel's own ends, in both. So the two of them are joined end to end, and a number means the same in either. Members are
//! looked for by name, also inside of nameless structures and unions; nothing is known of versions.
//!
//! What must hold, with any bytes: a look-up ends soon, and what it gives lies within a structure as large as the
//! description says. A kind of type that is not known ends the reading, since its length is not known either.

/// Most bytes of BTF that are read; that of a kernel has about 6 MiB.
pub(super) const MAX_BTF: u64 = 64 << 20;
const MAGIC: u16 = 0xeb9f;
/// Modifiers around a type (const, typedef), and structures around a member. Deeper than a kernel has them, a type counts as
/// not there: the file may name types in a circle.
const MAX_DEPTH: usize = 32;
/// Members that one look-up may pass, so that unnamed structures that contain each other cannot multiply its work.
const MAX_MEMBERS: usize = 1 << 16;
/// Largest structure, and with that the most that is read of memory at once.
const MAX_SIZE: usize = 1 << 16;

const INT: u32 = 1;
const POINTER: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FORWARD: u32 = 7;

/// BTF that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// It is cut short, or no BTF of this machine's byte order.
    #[error("it is no BTF of this machine's byte order, or cut short")]
    Odd,
    /// A newer kernel has something new.
    #[error("it has a type of kind {0}, which this version does not know")]
    Kind(u32),
}

/// A type, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type(u32);

/// Where a member lies in a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    bit: usize,
    bits: Option<usize>,
    size: usize,
    ty: Type,
}

impl Field {
    /// From the start of its structure, in bytes.
    pub fn offset(self) -> usize {
        self.bit / 8
    }
    /// Its length in bytes.
    pub fn size(self) -> usize {
        self.size
    }
    pub fn ty(self) -> Type {
        self.ty
    }
    /// The same, of a structure that itself begins so many bytes into another one.
    #[must_use]
    pub fn moved(self, by: usize) -> Self {
        Self { bit: self.bit + 8 * by, ..self }
    }
    /// The same, of its own bytes alone.
    #[must_use]
    pub fn at_start(self) -> Self {
        Self { bit: 0, ..self }
    }
    /// Its bytes in a structure; none where that is too short.
    pub fn bytes(self, of: &[u8]) -> Option<&[u8]> {
        of.get(self.offset()..)?.get(..self.size)
    }
    /// The number in it, without a sign.
    pub fn number(self, of: &[u8]) -> Option<u64> {
        let Some(bits) = self.bits else { return number(self.bytes(of)?) };
        let big = cfg!(target_endian = "big");
        (0..bits).try_fold(0, |value: u64, place| {
            let at = self.bit + if big { place } else { bits - 1 - place };
            let shift = if big { 7 - at % 8 } else { at % 8 };
            Some(value << 1 | u64::from(of.get(at / 8)? >> shift & 1))
        })
    }
}

/// A number of 1 to 8 bytes in this machine's byte order.
fn number(bytes: &[u8]) -> Option<u64> {
    Some(match bytes {
        [byte] => u64::from(*byte),
        [_, _] => u64::from(u16::from_ne_bytes(bytes.try_into().ok()?)),
        [_, _, _, _] => u64::from(u32::from_ne_bytes(bytes.try_into().ok()?)),
        _ => u64::from_ne_bytes(bytes.try_into().ok()?),
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.get(..4)?.try_into().ok()?))
}

/// A type as it is written: name, kind and number of members, size or type.
#[derive(Debug, Clone, Copy)]
struct Head {
    name: u32,
    kind: u32,
    flag: bool,
    members: usize,
    /// Its size in bytes; of a pointer and of a modifier the type behind it.
    size: u32,
    /// Where its members are.
    at: usize,
}

/// The kernel's types, with those of a module.
#[derive(Debug, Clone)]
pub struct Btf {
    types: Vec<u8>,
    /// Where each type begins; number 0 is void.
    starts: Vec<usize>,
    /// Those that are structures: a few of many.
    structures: Vec<Type>,
    strings: Vec<u8>,
}

impl Btf {
    /// Reads the types of a kernel: the bytes of /sys/kernel/btf/vmlinux.
    pub fn new(kernel: &[u8]) -> Result<Self, BtfError> {
        let mut btf = Self { types: Vec::new(), starts: vec![usize::MAX], structures: Vec::new(), strings: Vec::new() };
        btf.add(kernel)?;
        Ok(btf)
    }

    pub fn add(&mut self, file: &[u8]) -> Result<(), BtfError> {
        let (types, strings) = sections(file).ok_or(BtfError::Odd)?;
        let mut at = self.types.len();
        self.types.extend_from_slice(types);
        self.strings.extend_from_slice(strings);
        while at < self.types.len() {
            let head = self.head_at(at).ok_or(BtfError::Odd)?;
            if head.kind == STRUCT {
                self.structures.push(Type(u32::try_from(self.starts.len()).map_err(|_| BtfError::Odd)?));
            }
            self.starts.push(at);
            at = head.at + trailer(head.kind, head.members).ok_or(BtfError::Kind(head.kind))?;
        }
        if at == self.types.len() { Ok(()) } else { Err(BtfError::Odd) }
    }

    /// The structure of this name that has all these members.
    pub fn structure(&self, name: &str, members: &[&str]) -> Option<Type> {
        let is_called = |ty: Type| self.head(ty).and_then(|head| self.name(head.name)) == Some(name.as_bytes());
        let has_all = |ty: Type| members.iter().all(|member| self.field(ty, member).is_some());
        self.structures.iter().copied().find(|ty| is_called(*ty) && has_all(*ty))
    }

    /// How many bytes it takes.
    pub fn size(&self, ty: Type) -> Option<usize> {
        let mut times = 1_usize;
        let mut ty = ty;
        for _ in 0..MAX_DEPTH {
            let (_, head) = self.bare(ty)?;
            match head.kind {
                ARRAY => {
                    times = times.checked_mul(usize::try_from(word(&self.types, head.at + 8)?).ok()?)?;
                    ty = Type(word(&self.types, head.at)?);
                }
                POINTER => return times.checked_mul(size_of::<u64>()).filter(|size| *size <= MAX_SIZE),
                // INT, FLOAT, ENUM and ENUM64 have it where structures do.
                INT | STRUCT | UNION | 6 | 16 | 19 => {
                    return times.checked_mul(usize::try_from(head.size).ok()?).filter(|size| *size <= MAX_SIZE);
                }
                _ => return None,
            }
        }
        None
    }

    /// What a pointer leads to.
    pub fn behind(&self, pointer: Type) -> Option<Type> {
        let (_, head) = self.bare(pointer)?;
        if head.kind != POINTER {
            return None;
        }
        let (ty, to) = self.bare(Type(head.size))?;
        // Where it was only announced, it may be told in full elsewhere.
        if to.kind == FORWARD { self.structure(std::str::from_utf8(self.name(to.name)?).ok()?, &[]) } else { Some(ty) }
    }

    /// The type of an array's elements.
    pub fn element(&self, array: Type) -> Option<Type> {
        let (_, head) = self.bare(array)?;
        if head.kind == ARRAY { Some(Type(word(&self.types, head.at)?)) } else { None }
    }

    /// The member of a structure that a path of names with dots between leads to. None where there is none, or where what
    /// is said of it makes no sense.
    pub fn field(&self, ty: Type, path: &str) -> Option<Field> {
        let whole = self.size(ty)?;
        let mut fuel = MAX_MEMBERS;
        let mut found = Field { bit: 0, bits: None, size: whole, ty };
        for name in path.split('.') {
            let inner = self.member(found.ty, name.as_bytes(), &mut fuel, MAX_DEPTH)?;
            found = Field { bit: found.bit.checked_add(inner.bit)?, ..inner };
        }
        let end = found.bit.checked_add(found.bits.unwrap_or(8 * found.size))?;
        let is_whole = found.bits.is_some() || found.bit.is_multiple_of(8);
        (is_whole && end <= 8 * whole).then_some(found)
    }

    fn member(&self, ty: Type, name: &[u8], fuel: &mut usize, depth: usize) -> Option<Field> {
        let (_, head) = self.bare(ty)?;
        if depth == 0 || !matches!(head.kind, STRUCT | UNION) {
            return None;
        }
        for place in 0..head.members {
            *fuel = fuel.checked_sub(1)?;
            let at = head.at + 12 * place;
            let its = self.name(word(&self.types, at)?)?;
            let (ty, place) = (Type(word(&self.types, at + 4)?), usize::try_from(word(&self.types, at + 8)?).ok()?);
            // With the flag, the upper byte is the width of a field of bits.
            let (bit, bits) = if head.flag { (place & 0xff_ffff, place >> 24) } else { (place, 0) };
            if its == name && !name.is_empty() {
                let size = self.size(ty)?;
                let odd = bits > 64 || (bits == 0 && self.is_bits(ty, size));
                return (!odd).then_some(Field { bit, bits: (bits > 0).then_some(bits), size, ty });
            }
            if its.is_empty()
                && let Some(inner) = self.member(ty, name, fuel, depth - 1)
            {
                return Some(Field { bit: bit.checked_add(inner.bit)?, ..inner });
            }
        }
        None
    }

    /// Whether it is an integer of fewer bits than its bytes have, as fields of bits were told once.
    fn is_bits(&self, ty: Type, size: usize) -> bool {
        let Some((_, head)) = self.bare(ty) else { return false };
        let coded = word(&self.types, head.at).unwrap_or_default();
        head.kind == INT
            && usize::from(coded.to_ne_bytes()[if cfg!(target_endian = "big") { 3 } else { 0 }]) != 8 * size
    }

    /// The type without what modifies it.
    fn bare(&self, mut ty: Type) -> Option<(Type, Head)> {
        for _ in 0..MAX_DEPTH {
            let head = self.head(ty)?;
            match head.kind {
                8..=11 | 18 => ty = Type(head.size),
                _ => return Some((ty, head)),
            }
        }
        None
    }
    fn head(&self, ty: Type) -> Option<Head> {
        self.head_at(*self.starts.get(usize::try_from(ty.0).ok()?)?)
    }
    fn head_at(&self, at: usize) -> Option<Head> {
        let info = word(&self.types, at.checked_add(4)?)?;
        Some(Head {
            name: word(&self.types, at)?,
            kind: info >> 24 & 0x1f,
            flag: info >> 31 == 1,
            members: usize::try_from(info & 0xffff).ok()?,
            size: word(&self.types, at + 8)?,
            at: at + 12,
        })
    }
    fn name(&self, at: u32) -> Option<&[u8]> {
        let rest = self.strings.get(usize::try_from(at).ok()?..)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
    }
}

/// Types and strings of a file.
fn sections(file: &[u8]) -> Option<(&[u8], &[u8])> {
    if u16::from_ne_bytes(file.get(..2)?.try_into().ok()?) != MAGIC || file.get(2) != Some(&1) {
        return None;
    }
    let at = |place: usize| usize::try_from(word(file, place)?).ok();
    let body = file.get(at(4)?..)?;
    Some((body.get(at(8)?..)?.get(..at(12)?)?, body.get(at(16)?..)?.get(..at(20)?)?))
}

/// How many bytes follow the head of a type.
fn trailer(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        INT | 14 | 17 => 4,
        ARRAY => 12,
        STRUCT | UNION | 15 | 19 => 12 * members,
        6 | 13 => 8 * members,
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::Types;
    use super::*;

    /// A kernel's types and a module's: `host` has a name by a pointer, fields of bits, and members of a nameless
    /// structure.
    fn files() -> (Vec<u8>, Vec<u8>) {
        let mut kernel = Types::kernel();
        let (byte, word, long) = (kernel.int("u8", 1), kernel.int("unsigned int", 4), kernel.int("u64", 8));
        let name = kernel.pointer(byte);
        let list = kernel.structure("list_head", 16, &[("next", long, 0, 0), ("prev", long, 64, 0)]);
        let inner = kernel.structure("", 16, &[("hash", word, 0, 0), ("len", word, 32, 0), ("text", name, 64, 0)]);
        kernel.structure("host", 8, &[("other", long, 0, 0)]);
        let announced = kernel.announced("late");
        let mut module = kernel.module();
        let constant = module.modified("", 10, word);
        let alias = module.modified("u32", 8, constant);
        let table = module.array(alias, 5);
        let late = module.pointer(announced);
        let members = [
            ("list", list, 0, 0),
            ("", inner, 128, 0),
            ("busy", word, 256, 3),
            ("server", word, 259, 1),
            ("table", table, 288, 0),
            ("late", late, 448, 0),
        ];
        module.structure("host", 64, &members);
        module.structure("late", 24, &[("state", byte, 8, 0)]);
        (kernel.file(), module.file())
    }

    fn read() -> Btf {
        let (kernel, module) = files();
        let mut btf = Btf::new(&kernel).unwrap();
        btf.add(&module).unwrap();
        btf
    }

    #[test]
    fn members_are_found_by_path_through_the_module_and_the_kernel() {
        let btf = read();
        let host = btf.structure("host", &["list", "late"]).unwrap();
        assert_eq!(btf.size(host), Some(64));
        let at = |path: &str| btf.field(host, path).map(|field| (field.offset(), field.size()));
        assert_eq!(at("list.prev"), Some((8, 8)));
        assert_eq!((at("len"), at("text")), (Some((20, 4)), Some((24, 8))));
        assert_eq!(at("table"), Some((36, 20)));
        assert_eq!([at("nothing"), at("list.nothing"), at("len.x"), at("")], [None; 4]);
        let table = btf.field(host, "table").unwrap();
        assert_eq!(btf.element(table.ty()).and_then(|each| btf.size(each)), Some(4));
    }

    #[test]
    fn of_two_structures_of_a_name_the_one_with_these_members_is_meant() {
        let btf = read();
        let other = btf.structure("host", &["other"]).unwrap();
        assert_eq!((btf.size(other), btf.structure("host", &["other", "list"])), (Some(8), None));
    }

    #[test]
    fn what_was_only_announced_is_found_where_it_is_told_in_full() {
        let btf = read();
        let late = btf.field(btf.structure("host", &["late"]).unwrap(), "late").unwrap();
        let behind = btf.behind(late.ty()).unwrap();
        assert_eq!(btf.field(behind, "state").map(Field::offset), Some(1));
        assert_eq!(btf.behind(behind), None);
    }

    #[test]
    fn numbers_are_read_in_this_machines_order_and_bits_from_where_they_are() {
        let btf = read();
        let host = btf.structure("host", &["late"]).unwrap();
        let mut bytes = vec![0; 64];
        bytes[20..24].copy_from_slice(&77_u32.to_ne_bytes());
        bytes[32] = if cfg!(target_endian = "big") { 0b1011_0000 } else { 0b0000_1101 };
        let told = |path: &str| btf.field(host, path).unwrap().number(&bytes);
        assert_eq!((told("len"), told("busy"), told("server")), (Some(77), Some(0b101), Some(1)));
        assert_eq!(btf.field(host, "late").unwrap().number(&bytes[..60]), None);
        assert_eq!(btf.field(host, "len").unwrap().moved(4).offset(), 24);
    }

    #[test]
    fn a_member_beyond_the_end_of_its_structure_is_none() {
        let mut kernel = Types::kernel();
        let word = kernel.int("unsigned int", 4);
        let huge = kernel.array(word, u32::MAX);
        kernel.structure("short", 6, &[("a", word, 0, 0), ("b", word, 32, 0), ("c", huge, 0, 0), ("d", word, 4, 0)]);
        let btf = Btf::new(&kernel.file()).unwrap();
        let short = btf.structure("short", &[]).unwrap();
        assert!(btf.field(short, "a").is_some());
        assert_eq!(["b", "c", "d"].map(|path| btf.field(short, path)), [None; 3]);
    }

    #[test]
    fn types_that_lead_to_themselves_end_a_look_up() {
        let mut kernel = Types::kernel();
        let circle = kernel.modified("circle", 8, 1);
        kernel.structure("x", 8, &[("", 2, 0, 0), ("", 2, 0, 0), ("me", circle, 0, 0), ("", 2, 0, 0)]);
        let btf = Btf::new(&kernel.file()).unwrap();
        let x = btf.structure("x", &[]).unwrap();
        assert_eq!((btf.size(Type(circle)), btf.field(x, "me"), btf.field(x, "other")), (None, None, None));
    }

    #[test]
    fn another_byte_order_a_newer_kind_and_what_is_cut_short_are_refused() {
        let (kernel, _) = files();
        let mut other = kernel.clone();
        other.swap(0, 1);
        assert_eq!(Btf::new(&other).unwrap_err(), BtfError::Odd);
        for end in [0, 3, 23, 40, kernel.len() - 1] {
            assert_eq!(Btf::new(&kernel[..end]).unwrap_err(), BtfError::Odd, "{end}");
        }
        let mut newer = Types::kernel();
        newer.modified("new", 31, 0);
        assert_eq!(Btf::new(&newer.file()).unwrap_err(), BtfError::Kind(31));
    }

    proptest::proptest! {
        #[test]
        fn no_types_are_too_odd(changes in proptest::collection::vec((0_usize..900, proptest::num::u8::ANY), 1..12)) {
            let (mut kernel, mut module) = files();
            let split = kernel.len();
            for (at, byte) in changes {
                if let Some(place) = kernel.get_mut(at) { *place = byte; }
                if let Some(place) = at.checked_sub(split).and_then(|at| module.get_mut(at)) { *place = byte; }
            }
            let Ok(mut btf) = Btf::new(&kernel) else { return Ok(()) };
            let _ = btf.add(&module);
            for name in ["host", "late", "list_head"] {
                let Some(ty) = btf.structure(name, &[]) else { continue };
                for path in ["list.prev", "len", "server", "late", "x"] {
                    if let Some(field) = btf.field(ty, path) {
                        proptest::prop_assert!(field.offset() + field.size().min(1) <= btf.size(ty).unwrap());
                        let _ = (field.number(&[7; 64]), field.bytes(&[7; 64]), btf.behind(field.ty()));
                    }
                }
            }
        }
    }
}
