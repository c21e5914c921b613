//! `nlmctl release`: frees stuck locks of a client, or single ones.

use super::args::ReleaseArgs;
use super::consent::Terminal;
use super::context::{Context, blocking, to_stderr};
use super::discovery::For;
use super::locks::with_index;
use super::signals::signals;
use crate::controller;
use crate::controller::release::{self, ReleaseRequest};
use crate::report::{Failure, clean_lines};

pub(super) async fn run(context: &Context, args: ReleaseArgs) -> Result<u8, Failure> {
    let manager = context.manager_for(For::Release).await?;
    let options = context.options();
    let (dry_run, yes) = (args.dry_run, args.yes);
    let request = ReleaseRequest {
        clients: args.clients.iter().map(|text| with_index(text)).collect::<Result<_, _>>()?,
        exports: args.exports,
        files: args.files,
        owners: args.owners,
        ranges: args.ranges,
        live: args.live,
        if_held: args.if_held,
    };
    let plan = release::plan(&*manager, &request, &options).await?;
    // With -q too: a name that is not the client's own leaves its locks where they are.
    for unknown in &plan.unknown {
        to_stderr(&clean_lines(unknown));
    }
    if dry_run || plan.is_of_nothing() {
        let exit = plan.refuse_live().map_or_else(|refusal| refusal.kind.exit(), |()| 0);
        context.print_done(&plan.report(), exit)?;
        return Ok(exit);
    }
    // Before the user is asked: no answer to that question would help.
    plan.refuse_live()?;
    let store = context.caught_up_elsewhere(&*manager, context.with_store(Ok).await?).await?;
    let store = controller::catch_up(&*manager, store).await?;
    let mut shown = plan.report();
    if !yes {
        // They come with the question.
        shown.release.consent.clear();
    }
    context.show(&shown);
    let (plan, consent) = blocking(move || plan.agree(yes, &mut Terminal).map(|consent| (plan, consent))).await?;
    if !yes {
        // The operator may have taken time to agree: a client that was silent may be back.
        release::plan(&*manager, &request, &options).await?.is_agreed_to(&consent)?;
    }
    // Once locks are being freed a signal must not end this half-way: all of it is bounded in time.
    let mut signals = signals()?;
    let mut releasing = std::pin::pin!(release::carry_out(manager, store, plan, consent));
    let report = loop {
        tokio::select! {
            report = &mut releasing => break report?,
            Some(name) = signals.recv() => context.say(&format!("{name}: a release is not interrupted; it ends within \
                                                                 seconds")),
        }
    };
    let exit = report.release.exit.unwrap_or(1);
    context.print_done(&report, exit)?;
    Ok(exit)
}
