//! A run's result in the format of versions that did not judge by server address.

use crate::wire::control::{ClientResult, Counts, Delivery, FullResult, LockFate, Reaction, RunResult};
use crate::wire::types::{Address, CallerName};
use crate::wire::xdr::{List, XdrCodec};

#[derive(Debug, XdrCodec)]
struct Row {
    client: u32,
    name: CallerName,
    address: Address,
    delivery: Delivery,
    suspect: bool,
    reaction: Reaction,
    counts: Counts,
}

#[derive(Debug, XdrCodec)]
pub(super) struct ResultBefore {
    result: RunResult,
    clients: List<Row, 16_777_216>,
    locks: List<LockFate, 16_777_216>,
}

impl From<ResultBefore> for FullResult {
    fn from(ResultBefore { result, clients, locks }: ResultBefore) -> Self {
        let client = |Row { client, name, address, delivery, suspect, reaction, counts }| ClientResult {
            client,
            name,
            address,
            delivery,
            suspect,
            reaction,
            counts,
            paths: List::default(),
        };
        Self { result, clients: List::clipped(clients.into_vec().into_iter().map(client).collect()), locks }
    }
}

#[cfg(test)]
impl From<FullResult> for ResultBefore {
    fn from(FullResult { result, clients, locks }: FullResult) -> Self {
        let client = |ClientResult { client, name, address, delivery, suspect, reaction, counts, .. }| Row {
            client,
            name,
            address,
            delivery,
            suspect,
            reaction,
            counts,
        };
        Self { result, clients: List::clipped(clients.into_vec().into_iter().map(client).collect()), locks }
    }
}
