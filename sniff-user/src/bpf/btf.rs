//! What the running kernel says of its own types, in BTF: where a structure has a field, and which id a function has
//! (Documentation/bpf/btf.rst).

use std::iter;

/// First word of a blob, in the byte order of its kernel.
const MAGIC: u16 = 0xeb9f;
/// Bytes of a type's head: name, info, size or type.
const HEAD: usize = 12;
/// Types from one mark to the next.
const STRIDE: usize = 64;
/// Bytes of a member of a structure: name, type, offset.
const MEMBER: usize = 12;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// The types of a kernel.
pub struct Btf<'a> {
    types: &'a [u8],
    names: &'a [u8],
    /// Where every [`STRIDE`]th type begins; that with id 1 is the first. Where each of the hundred thousand begins would be
    /// more memory than an idle capture has, and the allocator keeps it.
    marks: Vec<usize>,
}

impl<'a> Btf<'a> {
    /// Takes a blob as `/sys/kernel/btf/vmlinux` has it; none when it is broken.
    pub fn parse(blob: &'a [u8]) -> Option<Self> {
        if blob.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let header = |at| word(blob, at).map(|value| value as usize);
        let body = blob.get(header(4)?..)?;
        let part = |at| body.get(header(at)?..)?.get(..header(at + 4)?);
        let (types, names) = (part(8)?, part(16)?);
        let (mut marks, mut at) = (Vec::new(), 0);
        for number in 0_usize.. {
            if at >= types.len() {
                break;
            }
            if number.is_multiple_of(STRIDE) {
                marks.push(at);
            }
            at = behind(types, at)?;
        }
        Some(Self { types, names, marks })
    }

    /// The id of a function.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.named(FUNC, name)
    }

    /// Where a structure has a field, in bytes; also one of a structure or union without a name in it.
    pub fn offset_of(&self, structure: &str, field: &str) -> Option<u32> {
        let bits = self.bit_offset_of(structure, field)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Where a structure has a field of bits, in bits from its start. As [`Self::offset_of`].
    pub fn bit_offset_of(&self, structure: &str, field: &str) -> Option<u32> {
        self.bits_of(self.named(STRUCT, structure)?, field)
    }

    fn named(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it = |at| kind_at(self.types, at) == Some(kind) && self.is_named(at, name);
        let at = self.starts(0).position(is_it)?;
        u32::try_from(at + 1).ok()
    }

    fn bits_of(&self, id: u32, field: &str) -> Option<u32> {
        let number = (id as usize).checked_sub(1)?;
        let at = self.starts(number / STRIDE).nth(number % STRIDE)?;
        let kind = kind_at(self.types, at)?;
        if kind != STRUCT && kind != UNION {
            return None;
        }
        let info = word(self.types, at + 4)?;
        (0..(info & 0xffff) as usize).find_map(|member| {
            let member = at + HEAD + member * MEMBER;
            let offset = word(self.types, member + 8)?;
            // The upper byte is the size of a bit field, where the structure has any.
            let offset = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            if self.is_named(member, field) {
                Some(offset)
            } else if self.is_named(member, "") {
                Some(offset + self.bits_of(word(self.types, member + 4)?, field)?)
            } else {
                None
            }
        })
    }

    /// Where types begin, from a mark on.
    fn starts(&self, mark: usize) -> impl Iterator<Item = usize> {
        let is_there = |at: &usize| *at < self.types.len();
        let first = self.marks.get(mark).copied();
        iter::successors(first, move |&at| behind(self.types, at).filter(is_there))
    }

    /// Whether what is at `at`, which begins with the place of its name, has this one.
    fn is_named(&self, at: usize, name: &str) -> bool {
        let place = word(self.types, at).and_then(|place| self.names.get(place as usize..));
        place.is_some_and(|rest| {
            rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        })
    }
}

/// Where the type behind the one at `at` begins.
fn behind(types: &[u8], at: usize) -> Option<usize> {
    Some(at + HEAD + tail(word(types, at + 4)?))
}

fn kind_at(types: &[u8], at: usize) -> Option<u32> {
    Some(word(types, at + 4)? >> 24 & 0x1f)
}

/// Bytes behind a type's head.
fn tail(info: u32) -> usize {
    let count = (info & 0xffff) as usize;
    match info >> 24 & 0x1f {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION => count * MEMBER,
        DATASEC | ENUM64 => count * 12,
        ENUM | FUNC_PROTO => count * 8,
        _ => 0,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob of these types and names.
    fn blob(types: &[u32], names: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let lengths = [24, 0, types.len() as u32, types.len() as u32, names.len() as u32];
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        blob.extend(lengths.iter().flat_map(|word| word.to_ne_bytes()));
        blob.extend(types);
        blob.extend(names);
        blob
    }

    fn info(kind: u32, count: u32) -> u32 {
        kind << 24 | count
    }

    #[test]
    fn fields_are_found_in_nested_structures_and_behind_bit_fields() {
        let names = b"\0int\0outer\0first\0inner\0last\0call\0";
        for ahead in [0, STRIDE as u32 - 2, 3 * STRIDE as u32] {
            let int = [1, info(INT, 0), 4, 32];
            let types = [
                int.repeat(ahead as usize),
                // 1, behind those ahead: int, with its word behind it
                int.to_vec(),
                // 2: a union without a name
                [0, info(UNION, 1), 4, 17, ahead + 1, 0].to_vec(),
                // 3: the structure, with a bit field of 3 bits first
                [
                    5,
                    info(STRUCT, 3) | 1 << 31,
                    12,
                    11,
                    ahead + 1,
                    3 << 24,
                    0,
                    ahead + 2,
                    32,
                    23,
                    ahead + 1,
                    65,
                ]
                .to_vec(),
                // 4: a function
                [28, info(FUNC, 0), ahead + 3].to_vec(),
            ]
            .concat();
            let blob = blob(&types, names);
            let btf = Btf::parse(&blob).unwrap();
            assert_eq!(btf.offset_of("outer", "first"), Some(0));
            assert_eq!(btf.offset_of("outer", "inner"), Some(4));
            assert_eq!(
                (btf.bit_offset_of("outer", "last"), btf.offset_of("outer", "last")),
                (Some(65), None)
            );
            assert_eq!(btf.function("call"), Some(ahead + 4));
            for (structure, field) in
                [("outer", "las"), ("outer", "lastx"), ("int", "last"), ("oute", "last")]
            {
                assert_eq!(btf.bit_offset_of(structure, field), None);
            }
            assert_eq!(btf.function("outer"), None);
        }
    }

    #[test]
    fn a_broken_blob_is_none() {
        let whole = blob(&[1, info(INT, 0), 4, 32], b"\0int\0");
        assert!(Btf::parse(&whole).is_some());
        assert!((0..whole.len()).all(|len| Btf::parse(&whole[..len]).is_none()));
    }
}
