//! Netlink: questions to the kernel and its answers (linux/netlink.h, linux/genetlink.h).
//!
//! A message is a header, a part of fixed length that its kind has (of generic netlink's: the command), and attributes: a
//! kind and a value each, which can be attributes again. Numbers are in the machine's own order, except where a family wants
//! the network's order (netfilter does), and all parts begin at multiples of four bytes.

/// The family that tells the numbers of all others, by their names.
pub const CONTROL: u16 = 0x10;
/// Its question for a family.
pub const GET_FAMILY: u8 = 3;
/// Its attribute with a family's number.
pub const FAMILY_ID: u16 = 1;
/// Its attribute with a family's name.
pub const FAMILY_NAME: u16 = 2;

/// The type of an answer that ends the exchange: an error number, or 0.
const ERROR: u16 = 2;
/// The type of an answer that ends a listing, with the same number.
const DONE: u16 = 3;
/// It is a request.
const REQUEST: u16 = 1;
/// It wants an answer that ends the exchange.
const ACK: u16 = 4;
/// It asks for all there are (`NLM_F_DUMP`).
const ALL: u16 = 0x100 | 0x200;
/// It makes something, and is refused if that is there already (`NLM_F_EXCL`, `NLM_F_CREATE`).
pub const CREATE: u16 = 0x200 | 0x400;
const VERSION: u8 = 1;
const HEADER: usize = 16;
const COMMAND: usize = 4;
const ATTRIBUTE: usize = 4;
/// Flag in an attribute's kind: it has attributes in it.
const NESTED: u16 = 0x8000;
/// An attribute's kind without its flags; the other one is that its numbers are in the network's order.
const KIND: u16 = 0x3fff;
/// Longest value that is sent, in bytes.
const MAX_VALUE: usize = 1024;

/// What was received is no netlink, or what is to be sent does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A length leads out of what was received.
    #[error("a netlink message of the kernel's is cut short")]
    Short,
    /// A value is longer than any that the kernel takes.
    #[error("a value is too long for a netlink message")]
    Long,
}

/// A kind and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Which one, by the numbers of the command.
    pub kind: u16,
    /// Its bytes.
    pub value: Vec<u8>,
}

impl Attribute {
    /// A number of 8 bits.
    pub fn byte(kind: u16, number: u8) -> Self {
        Self { kind, value: vec![number] }
    }
    /// A number of 32 bits.
    pub fn number(kind: u16, number: u32) -> Self {
        Self { kind, value: number.to_ne_bytes().to_vec() }
    }
    /// A number of 16 bits in the network's order.
    pub fn network16(kind: u16, number: u16) -> Self {
        Self { kind, value: number.to_be_bytes().to_vec() }
    }
    /// A number of 32 bits in the network's order.
    pub fn network32(kind: u16, number: u32) -> Self {
        Self { kind, value: number.to_be_bytes().to_vec() }
    }
    /// A number of 64 bits in the network's order.
    pub fn network64(kind: u16, number: u64) -> Self {
        Self { kind, value: number.to_be_bytes().to_vec() }
    }
    /// Attributes in an attribute.
    ///
    /// # Errors
    /// A value is too long.
    pub fn nest(kind: u16, attributes: &[Self]) -> Result<Self, MessageError> {
        let mut value = Vec::new();
        append(&mut value, attributes)?;
        Ok(Self { kind: kind | NESTED, value })
    }
    /// A text, which ends with a zero byte.
    pub fn text(kind: u16, text: &str) -> Self {
        Self { kind, value: [text.as_bytes(), &[0]].concat() }
    }
    /// The first of a kind.
    pub fn find(attributes: &[Self], kind: u16) -> Option<&Self> {
        attributes.iter().find(|attribute| attribute.kind == kind)
    }
    /// The number that it is, of 16 or 32 bits.
    pub fn as_number(&self) -> Option<u32> {
        match self.value.as_slice() {
            [a, b] => Some(u16::from_ne_bytes([*a, *b]).into()),
            [a, b, c, d] => Some(u32::from_ne_bytes([*a, *b, *c, *d])),
            _ => None,
        }
    }
    /// The number that it is, of 16 or 32 bits in the network's order.
    pub fn as_network(&self) -> Option<u32> {
        match self.value.as_slice() {
            [a, b] => Some(u16::from_be_bytes([*a, *b]).into()),
            [a, b, c, d] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => None,
        }
    }
    /// The attributes that it has in it.
    ///
    /// # Errors
    /// It has none.
    pub fn as_nest(&self) -> Result<Vec<Self>, MessageError> {
        parse_attributes(&self.value)
    }
    /// The text that it is.
    pub fn as_text(&self) -> Option<&str> {
        let text = self.value.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(text).ok()
    }
}

/// A part of what the kernel answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyPart {
    /// What was asked for.
    Attributes(Vec<Attribute>),
    /// It is done; or not, with the number of the error.
    Done(i32),
}

/// A question of generic netlink.
///
/// # Errors
/// A value is too long.
pub fn request(family: u16, command: u8, sequence: u32, attributes: &[Attribute]) -> Result<Vec<u8>, MessageError> {
    message(family, 0, sequence, &[command, VERSION, 0, 0], attributes)
}

/// A question of any kind; `fixed` is the part before the attributes, `flags` are those beyond a request's.
///
/// # Errors
/// A value is too long.
pub fn message(
    kind: u16,
    flags: u16,
    sequence: u32,
    fixed: &[u8],
    attributes: &[Attribute],
) -> Result<Vec<u8>, MessageError> {
    lay_out(kind, REQUEST | ACK | flags, sequence, fixed, attributes)
}

/// A question for all there are of a kind.
///
/// # Errors
/// A value is too long.
pub fn listing(kind: u16, sequence: u32, fixed: &[u8], attributes: &[Attribute]) -> Result<Vec<u8>, MessageError> {
    lay_out(kind, REQUEST | ALL, sequence, fixed, attributes)
}

/// A step of several that are sent together: it is answered only where it fails. The last of them is a [`message`].
///
/// # Errors
/// A value is too long.
pub fn step(
    kind: u16,
    flags: u16,
    sequence: u32,
    fixed: &[u8],
    attributes: &[Attribute],
) -> Result<Vec<u8>, MessageError> {
    lay_out(kind, REQUEST | flags, sequence, fixed, attributes)
}

fn lay_out(
    kind: u16,
    flags: u16,
    sequence: u32,
    fixed: &[u8],
    attributes: &[Attribute],
) -> Result<Vec<u8>, MessageError> {
    let mut body = fixed.to_vec();
    append(&mut body, attributes)?;
    let len = u32::try_from(HEADER + body.len()).map_err(|_| MessageError::Long)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    // The sender: the kernel knows it.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&body);
    Ok(message)
}

fn append(body: &mut Vec<u8>, attributes: &[Attribute]) -> Result<(), MessageError> {
    for attribute in attributes {
        if attribute.value.len() > MAX_VALUE {
            return Err(MessageError::Long);
        }
        let len = u16::try_from(ATTRIBUTE + attribute.value.len()).map_err(|_| MessageError::Long)?;
        body.extend_from_slice(&len.to_ne_bytes());
        body.extend_from_slice(&attribute.kind.to_ne_bytes());
        body.extend_from_slice(&attribute.value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    Ok(())
}

/// The answers to the question of this number in what was received at once. Others are left out.
///
/// # Errors
/// It is no netlink.
pub fn parse(mut bytes: &[u8], sequence: u32) -> Result<Vec<ReplyPart>, MessageError> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let len = word(bytes, 0).ok_or(MessageError::Short)? as usize;
        let message = bytes.get(..len).filter(|_| len >= HEADER).ok_or(MessageError::Short)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        if word(message, 8) != Some(sequence) {
            continue;
        }
        let body = message.get(HEADER..).unwrap_or_default();
        answers.push(if matches!(half(message, 4), Some(ERROR | DONE)) {
            // The kernel has it negative.
            ReplyPart::Done(word(body, 0).ok_or(MessageError::Short)?.cast_signed().saturating_neg())
        } else {
            ReplyPart::Attributes(parse_attributes(body.get(COMMAND..).ok_or(MessageError::Short)?)?)
        });
    }
    Ok(answers)
}

fn parse_attributes(mut bytes: &[u8]) -> Result<Vec<Attribute>, MessageError> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let (Some(len), Some(kind)) = (half(bytes, 0), half(bytes, 2)) else { return Err(MessageError::Short) };
        let len = usize::from(len);
        let value = bytes.get(ATTRIBUTE..len).ok_or(MessageError::Short)?;
        attributes.push(Attribute { kind: kind & KIND, value: value.to_vec() });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(attributes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn done(sequence: u32, error: i32) -> Vec<u8> {
        let mut message = request(ERROR, 0, sequence, &[]).unwrap();
        message[HEADER..HEADER + 4].copy_from_slice(&(-error).to_ne_bytes());
        message
    }

    #[test]
    fn a_question_is_laid_out_as_the_kernel_has_it() {
        let asked = request(CONTROL, GET_FAMILY, 7, &[Attribute::text(FAMILY_NAME, "nfsd")]).unwrap();
        let header: Vec<u8> = [32_u32.to_ne_bytes().as_slice(), &16_u16.to_ne_bytes(), &5_u16.to_ne_bytes()].concat();
        assert_eq!(asked[..8], header);
        assert_eq!(asked[8..12], 7_u32.to_ne_bytes());
        assert_eq!(asked[16..20], [3, 1, 0, 0]);
        // The length of an attribute is without what fills it up.
        assert_eq!(asked[20..22], 9_u16.to_ne_bytes());
        assert_eq!(&asked[24..], b"nfsd\0\0\0\0");
    }

    #[test]
    fn an_answer_and_its_end_are_told_from_those_of_other_questions() {
        let attributes = [Attribute::number(1, 8), Attribute { kind: 3, value: vec![1, 0] }, Attribute::text(4, "ha")];
        let bytes = [request(30, 3, 6, &attributes).unwrap(), done(6, 0), request(30, 3, 7, &attributes).unwrap()];
        let answers = parse(&[bytes.concat(), done(7, 0), done(8, 16)].concat(), 7).unwrap();
        assert_eq!(answers, [ReplyPart::Attributes(attributes.to_vec()), ReplyPart::Done(0)]);
        assert_eq!(parse(&done(8, 16), 8).unwrap(), [ReplyPart::Done(16)]);
        assert_eq!((attributes[0].as_number(), attributes[2].as_text()), (Some(8), Some("ha")));
        assert_eq!(attributes[2].as_number(), None);
    }

    #[test]
    fn attributes_in_an_attribute_come_back_and_numbers_are_in_the_order_that_was_asked_for() {
        let inner = [Attribute::network16(1, 0x102), Attribute::network32(2, 7), Attribute::network64(3, 9)];
        let nest = Attribute::nest(5, &inner).unwrap();
        assert_eq!((nest.kind & KIND, nest.kind & NESTED), (5, NESTED));
        assert_eq!(nest.as_nest().unwrap(), inner);
        assert_eq!(
            (inner[0].value.as_slice(), inner[0].as_network(), inner[1].as_network()),
            ([1, 2].as_slice(), Some(0x102), Some(7))
        );
        assert_eq!(inner[2].as_network(), None);
        assert_eq!(Attribute { kind: 1, value: vec![9, 0, 1, 0, 0] }.as_nest(), Err(MessageError::Short));
    }

    #[test]
    fn a_listing_ends_as_an_exchange_does() {
        let mut end = done(7, 0);
        end[4..6].copy_from_slice(&DONE.to_ne_bytes());
        let one = request(30, 3, 7, &[Attribute::number(1, 8)]).unwrap();
        let answers = parse(&[one, end].concat(), 7).unwrap();
        assert_eq!(answers, [ReplyPart::Attributes(vec![Attribute::number(1, 8)]), ReplyPart::Done(0)]);
    }

    #[test]
    fn a_value_that_no_kernel_takes_is_not_sent() {
        let long = Attribute::text(4, &"x".repeat(70_000));
        assert_eq!(request(30, 2, 1, &[long]), Err(MessageError::Long));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let sequence = word(&bytes, 8).unwrap_or_default();
            let _ = parse(&bytes, sequence);
            let _ = parse_attributes(&bytes);
        }

        #[test]
        fn what_is_cut_or_changed_anywhere_is_an_error_or_read_within_its_bounds(
            values in prop::collection::vec((1_u16..9, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            cut in 0_usize..200,
            flip in 0_usize..200,
            bits in any::<u8>(),
        ) {
            let attributes: Vec<_> = values.into_iter().map(|(kind, value)| Attribute { kind, value }).collect();
            let mut bytes = request(30, 3, 9, &attributes).unwrap();
            prop_assert_eq!(parse(&bytes, 9).unwrap(), vec![ReplyPart::Attributes(attributes)]);
            let _ = parse(bytes.get(..cut).unwrap_or_default(), 9);
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= bits;
            }
            let whole = bytes.len();
            for answer in parse(&bytes, 9).unwrap_or_default() {
                let ReplyPart::Attributes(read) = answer else { continue };
                prop_assert!(read.iter().map(|attribute| attribute.value.len() + ATTRIBUTE).sum::<usize>() <= whole);
            }
        }
    }
}
