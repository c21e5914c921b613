//! NFQUEUE: packets that netfilter hands out, and what becomes of them (linux/netfilter/nfnetlink_queue.h).
//!
//! Numbers in these messages are in the network's order. A queue is made without `NFQA_CFG_F_FAIL_OPEN`, so what it has no
//! room for is dropped, and without `NFQA_CFG_F_GSO`, so the kernel cuts large packets into segments, each with its checksum.

use super::netlink::{Attribute, MessageError, message};

/// The kind of a netlink message of this part of netfilter (`NFNL_SUBSYS_QUEUE`).
const PACKET: u16 = 3 << 8;
const VERDICT: u16 = 3 << 8 | 1;
const CONFIG: u16 = 3 << 8 | 2;
/// `NFQA_CFG_CMD`, `NFQA_CFG_PARAMS`, `NFQA_CFG_QUEUE_MAXLEN`.
const CONFIG_COMMAND: u16 = 1;
const CONFIG_COPY: u16 = 2;
const CONFIG_LENGTH: u16 = 3;
/// `NFQA_PACKET_HDR`, `NFQA_VERDICT_HDR`, `NFQA_IFINDEX_INDEV`, `NFQA_IFINDEX_OUTDEV`, `NFQA_PAYLOAD`.
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const INTERFACE_IN: u16 = 5;
const INTERFACE_OUT: u16 = 6;
const PAYLOAD: u16 = 10;
/// `NFQNL_CFG_CMD_BIND`, `NFQNL_COPY_PACKET`.
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// `NF_DROP`, `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NLM_F_REQUEST`: a verdict wants no answer.
const REQUEST: u16 = 1;
const HEADER: usize = 16;
/// `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;
const ATTRIBUTE: usize = 4;
/// Flags in an attribute's kind.
const KIND: u16 = 0x3fff;

/// A packet that waits for its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued<'a> {
    /// Its number in the queue.
    pub id: u32,
    /// Whether it is on its way to this host.
    pub way_in: bool,
    /// The number of the interface that it came in by, or leaves by.
    pub interface: u32,
    /// Its bytes, from the IP header on.
    pub bytes: &'a [u8],
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate<'a> {
    /// It goes on as it is.
    Pass,
    /// These bytes go on in its place.
    Changed(&'a [u8]),
    /// It is gone.
    Drop,
}

fn family_header(queue: u16) -> [u8; FAMILY_HEADER] {
    let [high, low] = queue.to_be_bytes();
    [0, 0, high, low]
}

/// Takes the queue of this number, with whole packets, and with so many that wait in it. `EBUSY`: another has it.
///
/// # Errors
/// Never: what it says is short.
pub fn bind(queue: u16, length: u32, sequence: u32) -> Result<Vec<u8>, MessageError> {
    let attributes = [
        Attribute { kind: CONFIG_COMMAND, value: vec![BIND, 0, 0, 0] },
        // The most that the kernel copies.
        Attribute { kind: CONFIG_COPY, value: vec![0, 0, 0, 0, COPY_PACKET] },
        Attribute { kind: CONFIG_LENGTH, value: length.to_be_bytes().to_vec() },
    ];
    message(CONFIG, 0, sequence, &family_header(queue), &attributes)
}

/// Adds a verdict to a message.
pub fn add_verdict(messages: &mut Vec<u8>, queue: u16, id: u32, fate: Fate<'_>) {
    let (verdict, payload) = match fate {
        Fate::Drop => (DROP, None),
        Fate::Pass => (ACCEPT, None),
        Fate::Changed(bytes) => (ACCEPT, Some(bytes)),
    };
    let start = messages.len();
    messages.extend_from_slice(&[0; 4]);
    messages.extend_from_slice(&VERDICT.to_ne_bytes());
    messages.extend_from_slice(&REQUEST.to_ne_bytes());
    messages.extend_from_slice(&[0; 8]);
    messages.extend_from_slice(&family_header(queue));
    add_attribute(messages, VERDICT_HEADER, &[verdict.to_be_bytes(), id.to_be_bytes()].concat());
    if let Some(bytes) = payload {
        add_attribute(messages, PAYLOAD, bytes);
    }
    let len = u32::try_from(messages.len() - start).unwrap_or_default();
    if let Some(place) = messages.get_mut(start..start + 4) {
        place.copy_from_slice(&len.to_ne_bytes());
    }
}

fn add_attribute(messages: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // The kernel hands out no more of a packet than fits in here.
    let len = u16::try_from(ATTRIBUTE + value.len()).unwrap_or_default();
    messages.extend_from_slice(&len.to_ne_bytes());
    messages.extend_from_slice(&kind.to_ne_bytes());
    messages.extend_from_slice(value);
    messages.resize(messages.len().next_multiple_of(4), 0);
}

/// The packets in what was received at once. Answers to verdicts are left out: the kernel complains of one whose packet is
/// gone with its interface.
///
/// # Errors
/// It is no netlink.
pub fn packets(mut bytes: &[u8]) -> Result<Vec<Queued<'_>>, MessageError> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let len = native(bytes, 0).map(u32::from_ne_bytes).ok_or(MessageError::Short)? as usize;
        let message = bytes.get(..len).filter(|_| len >= HEADER).ok_or(MessageError::Short)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        if native(message, 4).map(u16::from_ne_bytes) == Some(PACKET) {
            packets.push(packet(message.get(HEADER + FAMILY_HEADER..).ok_or(MessageError::Short)?)?);
        }
    }
    Ok(packets)
}

fn packet(mut attributes: &[u8]) -> Result<Queued<'_>, MessageError> {
    let mut packet = Queued { id: 0, way_in: false, interface: 0, bytes: &[] };
    let (mut interface_in, mut interface_out) = (0, 0);
    while !attributes.is_empty() {
        let half = |at| native(attributes, at).map(u16::from_ne_bytes).ok_or(MessageError::Short);
        let (len, kind) = (usize::from(half(0)?), half(2)? & KIND);
        let value = attributes.get(ATTRIBUTE..len).ok_or(MessageError::Short)?;
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
        let number = || native(value, 0).map(u32::from_be_bytes).ok_or(MessageError::Short);
        match kind {
            PACKET_HEADER => {
                packet.id = number()?;
                // The hooks before and behind the decision that a packet is for this host.
                packet.way_in = matches!(value.get(6), Some(0 | 1));
            }
            INTERFACE_IN => interface_in = number()?,
            INTERFACE_OUT => interface_out = number()?,
            PAYLOAD => packet.bytes = value,
            _ => {}
        }
    }
    packet.interface = if packet.way_in { interface_in } else { interface_out };
    Ok(packet)
}

fn native<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_queue_is_taken_with_whole_packets_and_a_length() {
        let asked = bind(258, 1024, 7).unwrap();
        assert_eq!(asked[4..6], CONFIG.to_ne_bytes());
        assert_eq!(asked[16..20], [0, 0, 1, 2]);
        let copy = [&[9, 0][..], &2_u16.to_ne_bytes(), &[0, 0, 0, 0, 2]].concat();
        assert_eq!(asked[28..37], copy);
        assert_eq!(asked[40..], [&[8, 0][..], &3_u16.to_ne_bytes(), &[0, 0, 4, 0]].concat());
    }

    #[test]
    fn verdicts_of_several_packets_stand_in_one_message_each_with_its_length() {
        let mut messages = Vec::new();
        for (id, fate, len) in [(1, Fate::Pass, 32), (2, Fate::Drop, 32), (3, Fate::Changed(b"abc"), 40)] {
            let start = messages.len();
            add_verdict(&mut messages, 5, id, fate);
            let message = &messages[start..];
            assert_eq!((message.len(), &message[..4]), (len, &u32::try_from(len).unwrap().to_ne_bytes()[..]));
            assert_eq!(message[16..20], [0, 0, 0, 5]);
            let verdict = u8::from(fate != Fate::Drop);
            assert_eq!(message[24..32], [0, 0, 0, verdict, 0, 0, 0, u8::try_from(id).unwrap()]);
        }
        assert_eq!(messages[64 + 32..64 + 40], [&[7, 0][..], &10_u16.to_ne_bytes(), b"abc\0"].concat());
    }

    /// A message of the kernel's.
    fn handed_out(kind: u16, hook: u8, bytes: &[u8]) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 5];
        add_attribute(&mut body, PACKET_HEADER, &[0, 0, 0, 9, 8, 0, hook]);
        add_attribute(&mut body, INTERFACE_IN, &[0, 0, 0, 2]);
        add_attribute(&mut body, INTERFACE_OUT, &[0, 0, 0, 3]);
        add_attribute(&mut body, PAYLOAD, bytes);
        let len = u32::try_from(HEADER + body.len()).unwrap();
        [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &body].concat()
    }

    #[test]
    fn packets_are_read_with_the_interface_of_their_way_and_complaints_are_left_out() {
        let received = [handed_out(PACKET, 1, b"in"), handed_out(2, 0, b""), handed_out(PACKET, 3, b"out!!")].concat();
        let way_in = Queued { id: 9, way_in: true, interface: 2, bytes: b"in" };
        let way_out = Queued { id: 9, way_in: false, interface: 3, bytes: b"out!!" };
        assert_eq!(packets(&received).unwrap(), [way_in, way_out]);
    }

    proptest! {
        #[test]
        fn what_is_cut_or_changed_anywhere_is_an_error_or_read_within_its_bounds(
            cut in 0_usize..120,
            flip in 0_usize..120,
            bits in any::<u8>(),
        ) {
            let mut received = [handed_out(PACKET, 1, b"in"), handed_out(PACKET, 3, b"out")].concat();
            let _ = packets(received.get(..cut).unwrap_or_default());
            if let Some(byte) = received.get_mut(flip) {
                *byte ^= bits;
            }
            let _ = packets(&received);
        }
    }
}
