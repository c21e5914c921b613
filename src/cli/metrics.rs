//! `nlmctl metrics`: what a monitoring system wants to know.

use std::path::PathBuf;

use super::context::{Context, blocking, written};
use crate::report::{Failure, MetricsView};
use crate::store::Store;
use crate::wire::control::{Info, Status};

/// A lock manager that is not reached, and a record that cannot be read, are metrics, not failures.
pub(super) async fn run(context: &Context, output: Option<PathBuf>) -> Result<u8, Failure> {
    let settings = context.settings.clone();
    let last_run = blocking(move || match Store::open_existing(&settings.record_path()?)? {
        Some(store) => Ok(store.list(1)?.pop()),
        None => Ok(None),
    })
    .await;
    let mut view = MetricsView {
        manager: context.settings.manager.word(),
        status: None,
        suspects: None,
        record_readable: last_run.is_ok(),
        last_run: last_run.as_ref().ok().and_then(Option::as_ref),
    };
    if let Err(error) = &last_run {
        context.show(&error.clone().report());
    }
    let text = match ask(context).await {
        Ok((kind, info, status, suspects)) => {
            view.manager = kind;
            MetricsView { status: Some((&info, &status)), suspects, ..view }.text()
        }
        Err(error) => {
            context.show(&error.report());
            view.text()
        }
    };
    let text = text.map_err(|_| Failure::failed("the metrics cannot be written as text", "please report this"))?;
    written(output, text, "the metrics").await?;
    Ok(0)
}

async fn ask(context: &Context) -> Result<(&'static str, Info, Status, Option<u64>), Failure> {
    let manager = context.manager().await?;
    let (info, status) = (manager.info().await?, manager.status().await?);
    let suspects = if info.capabilities.knows_owners {
        let clients = manager.clients().await?;
        Some(clients.iter().filter(|client| !client.suspicions.as_slice().is_empty()).count() as u64)
    } else {
        None
    };
    Ok((manager.kind(), info, status, suspects))
}
