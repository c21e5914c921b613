//! A kernel's memory and types made by tests.

/// An ELF core file with these stretches of memory.
pub(crate) fn core(memory: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, if cfg!(target_endian = "big") { 2 } else { 1 }, 1];
    file.resize(64, 0);
    file[32..40].copy_from_slice(&64_u64.to_ne_bytes());
    file[54..56].copy_from_slice(&56_u16.to_ne_bytes());
    file[56..58].copy_from_slice(&u16::try_from(memory.len()).unwrap().to_ne_bytes());
    let mut place = (64 + 56 * memory.len()) as u64;
    for (address, bytes) in memory {
        let mut header = [0; 56];
        header[..4].copy_from_slice(&1_u32.to_ne_bytes());
        header[8..16].copy_from_slice(&place.to_ne_bytes());
        header[16..24].copy_from_slice(&address.to_ne_bytes());
        header[40..48].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
        file.extend_from_slice(&header);
        place += bytes.len() as u64;
    }
    for (_, bytes) in memory {
        file.extend_from_slice(bytes);
    }
    file
}

/// Writes BTF. A type's number is given back when it is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Types {
    written: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
    first_string: u32,
}

/// A member: name, type, bit at which it begins, and its width if it is a field of bits.
pub(crate) type Member<'a> = (&'a str, u32, u32, u32);

impl Types {
    /// Those of a kernel.
    pub(crate) fn kernel() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }
    /// Those of a module on top of these.
    pub(crate) fn module(&self) -> Self {
        Self { count: self.count, first_string: u32::try_from(self.strings.len()).unwrap(), ..Self::default() }
    }
    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.first_string + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }
    fn write(&mut self, name: &str, kind: u32, members: usize, size: u32, rest: &[u32]) -> u32 {
        let flag = if kind == 4 { 1 << 31 } else { 0 };
        let head = [self.string(name), kind << 24 | u32::try_from(members).unwrap() | flag, size];
        for word in head.iter().chain(rest) {
            self.written.extend_from_slice(&word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }
    pub(crate) fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.write(name, 1, 0, bytes, &[8 * bytes])
    }
    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.write("", 2, 0, to, &[])
    }
    pub(crate) fn array(&mut self, of: u32, times: u32) -> u32 {
        self.write("", 3, 0, 0, &[of, of, times])
    }
    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[Member<'_>]) -> u32 {
        let mut rest = Vec::new();
        for (name, ty, bit, bits) in members {
            rest.extend([self.string(name), *ty, bits << 24 | bit]);
        }
        self.write(name, 4, members.len(), size, &rest)
    }
    pub(crate) fn announced(&mut self, name: &str) -> u32 {
        self.write(name, 7, 0, 0, &[])
    }
    /// A modifier: 8 typedef, 9 volatile, 10 const.
    pub(crate) fn modified(&mut self, name: &str, kind: u32, ty: u32) -> u32 {
        self.write(name, kind, 0, ty, &[])
    }
    pub(crate) fn file(&self) -> Vec<u8> {
        let (types, strings) = (u32::try_from(self.written.len()).unwrap(), u32::try_from(self.strings.len()).unwrap());
        let mut file = 0xeb9f_u16.to_ne_bytes().to_vec();
        file.extend([1, 0]);
        for word in [24, 0, types, types, strings] {
            file.extend_from_slice(&word.to_ne_bytes());
        }
        file.extend_from_slice(&self.written);
        file.extend_from_slice(&self.strings);
        file
    }
}
