//! `nlmctl reconcile`: a round of looking for stale locks, for cron and timers.

use std::io::IsTerminal;

use super::args::ReconcileArgs;
use super::context::{Context, blocking};
use super::discovery::For;
use super::signals::signals;
use crate::controller::reconcile::{self, RoundTerms};
use crate::report::Failure;
use crate::store::Store;

pub(super) async fn run(context: &Context, args: ReconcileArgs) -> Result<u8, Failure> {
    let manager = context.manager_for(For::Run { soft: false, method: None, resume: false }).await?;
    let mut options = context.options();
    // A timer or cron mails each line, and a client that does not answer is no finding.
    if !std::io::stderr().is_terminal() {
        options.say = |_| ();
    }
    let terms = RoundTerms { grace: args.grace, max_drop: args.max_drop, names: context.settings.names.clone() };
    let report = if args.dry_run {
        let path = context.settings.record_path()?;
        let store = blocking(move || Ok(Store::open_existing(&path)?)).await?;
        reconcile::dry_run(manager, store, terms, options).await?
    } else {
        let store = context.with_store(Ok).await?;
        reconcile::reconcile(manager, store, terms, options, signals()?).await?
    };
    let exit = report.reconcile.exit;
    context.print_done(&report, exit)?;
    Ok(exit)
}
