//! lockd's replies, and which of the calls that passed they answer.
//!
//! For each connection the latest calls are remembered by their xids, even answered ones: a call that came twice
//! is answered twice. A reply without its call was asked for before this filter looked, or its call is forgotten; then what
//! its client has is not known in full.

use std::collections::{HashMap, VecDeque};

use super::call::ReplyBody;
use crate::wire::nlm::Stat;
use crate::wire::rpc::{DecodeError, parse_reply};
use crate::wire::types::Cookie;
use crate::wire::xdr::Unpack;

/// Most calls that are remembered of a connection. A Linux client's processes wait for one call each.
pub(super) const MAX_CALLS: usize = 4096;

/// A call that passed.
#[derive(Debug, Clone, Copy)]
struct Passed {
    /// How often the connection had remembered one before it.
    order: u64,
    /// Its number at the keeper, if that heard of it.
    told: Option<(u64, ReplyBody)>,
}

/// The calls of one connection.
#[derive(Debug, Default)]
pub(super) struct Calls {
    by_xid: HashMap<u32, Passed>,
    /// The oldest first; those that were sent again stand here twice.
    by_age: VecDeque<(u32, u64)>,
    orders: u64,
}

/// What a message on its way to a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// It answers the call of this number.
    Answer(u64, Stat),
    /// Nothing that the keeper hears of.
    Nothing,
    /// It answers a call that was not seen, or cannot be read.
    Unknown,
}

impl Calls {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.by_age.len()
    }

    /// A call is about to pass; of one that was sent again the latest counts. No more than `most` are remembered.
    pub(super) fn remember(&mut self, xid: u32, told: Option<(u64, ReplyBody)>, most: usize) {
        self.orders += 1;
        let order = self.orders;
        self.by_xid.insert(xid, Passed { order, told });
        self.by_age.push_back((xid, order));
        while self.by_age.len() > most {
            let Some((oldest, order)) = self.by_age.pop_front() else { break };
            if self.by_xid.get(&oldest).is_some_and(|passed| passed.order == order) {
                self.by_xid.remove(&oldest);
            }
        }
    }

    /// What lockd says.
    pub(super) fn hear(&self, message: &[u8]) -> Outgoing {
        let reply = match parse_reply(message) {
            Ok(reply) => reply,
            Err(DecodeError::NotAReply) => return Outgoing::Nothing,
            Err(DecodeError::Malformed(_)) => return Outgoing::Unknown,
        };
        let Some(passed) = self.by_xid.get(&reply.xid) else { return Outgoing::Unknown };
        let Some((number, answer)) = passed.told else { return Outgoing::Nothing };
        match (reply.outcome, answer) {
            (Err(_), _) => Outgoing::Answer(number, Stat::Failed),
            (Ok(_), ReplyBody::Void) => Outgoing::Answer(number, Stat::Granted),
            (Ok(results), ReplyBody::Stat) => {
                stat(results).map_or(Outgoing::Unknown, |stat| Outgoing::Answer(number, stat))
            }
        }
    }
}

/// The status of `nlm4_res` and of `nlm4_shareres`, which has a number behind it.
fn stat(mut results: &[u8]) -> Option<Stat> {
    Cookie::unpack(&mut results).ok()?;
    Some(Stat::unpack(&mut results).ok()?.0)
}

/// The xid of what is a reply.
pub(super) fn xid(message: &[u8]) -> Option<u32> {
    parse_reply(message).ok().map(|reply| reply.xid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nlm::{Res, ShareRes};
    use crate::wire::rpc::{self, Answer as Rpc};
    use crate::wire::xdr::encode;

    fn res(xid: u32, stat: Stat) -> Vec<u8> {
        rpc::reply(xid, &Rpc::Success(encode(&Res { cookie: Cookie::default(), stat })))
    }

    #[test]
    fn a_reply_answers_the_latest_call_of_its_xid_as_often_as_it_comes() {
        let mut calls = Calls::default();
        calls.remember(7, Some((1, ReplyBody::Stat)), MAX_CALLS);
        calls.remember(7, Some((2, ReplyBody::Stat)), MAX_CALLS);
        calls.remember(8, None, MAX_CALLS);
        assert_eq!(calls.hear(&res(7, Stat::Blocked)), Outgoing::Answer(2, Stat::Blocked));
        assert_eq!(calls.hear(&res(7, Stat::Denied)), Outgoing::Answer(2, Stat::Denied));
        assert_eq!(calls.hear(&res(8, Stat::Denied)), Outgoing::Nothing);
        assert_eq!(calls.hear(&res(9, Stat::Denied)), Outgoing::Unknown);
    }

    #[test]
    fn what_became_of_a_call_is_read_from_each_kind_of_reply() {
        let mut calls = Calls::default();
        for (xid, answer) in [(1, ReplyBody::Stat), (2, ReplyBody::Void)] {
            calls.remember(xid, Some((xid.into(), answer)), MAX_CALLS);
        }
        let share = ShareRes { cookie: Cookie::default(), stat: Stat::DeniedGracePeriod, sequence: 5 };
        let share = rpc::reply(1, &Rpc::Success(encode(&share)));
        assert_eq!(calls.hear(&share), Outgoing::Answer(1, Stat::DeniedGracePeriod));
        assert_eq!(calls.hear(&rpc::reply(1, &Rpc::GarbageArgs)), Outgoing::Answer(1, Stat::Failed));
        assert_eq!(calls.hear(&rpc::reply(1, &Rpc::TooWeak)), Outgoing::Answer(1, Stat::Failed));
        assert_eq!(calls.hear(&rpc::reply(1, &Rpc::Success(vec![0; 4]))), Outgoing::Unknown);
        assert_eq!(calls.hear(&rpc::reply(2, &Rpc::Success(Vec::new()))), Outgoing::Answer(2, Stat::Granted));
        assert_eq!(calls.hear(&rpc::reply(1, &Rpc::SystemErr)[..11]), Outgoing::Unknown);
    }

    #[test]
    fn the_oldest_calls_are_forgotten_and_their_replies_are_unknown() {
        let mut calls = Calls::default();
        (0..=10).for_each(|xid| calls.remember(xid, Some((xid.into(), ReplyBody::Stat)), 10));
        assert_eq!(calls.hear(&res(0, Stat::Granted)), Outgoing::Unknown);
        assert_eq!(calls.hear(&res(1, Stat::Granted)), Outgoing::Answer(1, Stat::Granted));
        (0..10).for_each(|_| calls.remember(10, None, 10));
        assert_eq!((calls.count(), calls.by_xid.len()), (10, 1));
    }
}
