//! `nlmctl clients`: the clients that the lock manager knows.

use super::context::Context;
use crate::report::{ClientListing, ClientsReport, Failure, SCHEMA};

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let manager = context.manager().await?;
    let clients = manager.clients().await?.iter().map(ClientListing::from).collect();
    context.print(&ClientsReport { schema: SCHEMA, manager: manager.kind().to_owned(), clients })?;
    Ok(0)
}
