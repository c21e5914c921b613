//! `nlmctl resync`: plan, consent, run, report.

use serde::Serialize;
use tokio::sync::watch;

use super::args::{RecordRows, ResyncArgs};
use super::consent::Terminal;
use super::context::{Context, blocking};
use super::discovery::For;
use super::live;
use super::locks::with_index;
use super::signals::signals;
use crate::controller::{self, Options};
use crate::report::{Failure, Outcome, Progress, Render, RunReport, View};
use crate::resync::plan::{Plan, Request};
use crate::units::count;

pub(super) async fn run(context: &Context, args: ResyncArgs) -> Result<u8, Failure> {
    let options = options(context, &args);
    let request = request(context, &args)?;
    let wanted = For::Run { soft: request.drops_nothing(), method: args.method, resume: args.resume };
    let manager = context.manager_for(wanted).await?;
    if args.dry_run {
        // Who may not write the record may ask for a plan.
        if let Err(fault) = context.usable_record().await {
            context.say(&format!("nlmctl: the run itself would fail: {}; {}", fault.message, fault.remedy));
        }
        let plan = controller::plan(&*manager, &request, &options).await?;
        context.print_done(&plan.report(), plan.dry_run_exit())?;
        return Ok(plan.dry_run_exit());
    }
    let store = context.caught_up_elsewhere(&*manager, context.with_store(Ok).await?).await?;
    if args.resume {
        let signals = signals()?;
        let (progress, view) = live_view(context);
        let resumed = controller::resume(manager, store, &request, options, progress, signals).await;
        let _ = view.await;
        return finish(context, &resumed?);
    }
    let store = controller::catch_up_idle(&*manager, store).await?;
    let plan = controller::plan(&*manager, &request, &options).await?;
    if let Some(words) = manager.nothing_to_resync().await? {
        context.print_done(&plan.report(), 0)?;
        context.say(&words);
        return Ok(0);
    }
    show(context, &plan, args.yes);
    let (plan, consent) = blocking(move || plan.agree(args.yes, &mut Terminal).map(|consent| (plan, consent))).await?;
    // Where beginning frees the locks, and the operator may have taken time to agree, all is looked at again.
    let plan =
        if plan.begin_frees && !args.yes { controller::plan(&*manager, &request, &options).await? } else { plan };
    let signals = signals()?;
    let (progress, view) = live_view(context);
    let ran = controller::resync(manager, store, plan, consent, options, progress, signals).await;
    // The view ends with the sender of progress, which the controller has dropped.
    let _ = view.await;
    finish(context, &ran?)
}

fn options(context: &Context, args: &ResyncArgs) -> Options {
    let options = context.options();
    let quiet_time = args.quiet_time.unwrap_or(options.quiet_time);
    Options { quiet_time, record_all: args.record == RecordRows::All, ..options }
}

fn request(context: &Context, args: &ResyncArgs) -> Result<Request, Failure> {
    Ok(Request {
        clients: args.clients.iter().map(|text| with_index(text)).collect::<Result<_, _>>()?,
        exports: args.exports.clone(),
        files: args.files.clone(),
        grace: args.grace,
        grace_max: args.grace_max,
        mode: args.mode,
        unreachable: args.unreachable,
        silent: args.silent,
        include_unmonitored: args.include_unmonitored,
        own_locks_lost: args.own_locks_lost,
        names: context.settings.names.clone(),
    })
}

/// What is about to happen: in full where the user is asked about it, else in a line.
fn show(context: &Context, plan: &Plan, yes: bool) {
    if plan.refusal.is_none() && (plan.asks(&Terminal).is_empty() || yes) {
        let untellable = match plan.untellable().len() as u64 {
            0 => String::new(),
            n => format!(", {} {} now", count(n, "client"), plan.why_untellable()),
        };
        context.say(&format!(
            "{} resync: {}{} of {} in scope{untellable}",
            plan.mode,
            count(plan.in_scope, "lock"),
            if plan.locks_listed { "" } else { " and those that cannot be listed" },
            count(plan.clients.len() as u64, "client"),
        ));
        plan.effects.iter().chain(&plan.caveats).for_each(|sentence| context.say(sentence));
    } else {
        let mut shown = plan.report();
        if plan.refusal.is_none() {
            // They come with the question.
            shown.plan.consent.clear();
        }
        context.show(&shown);
    }
}

fn live_view(context: &Context) -> (watch::Sender<Progress>, tokio::task::JoinHandle<()>) {
    let (progress, seen) = watch::channel(Progress::START);
    (progress, tokio::spawn(live::show(seen, context.settings.quiet, context.settings.verbose > 0)))
}

/// The report of a run that has ended, with the record that was named.
#[derive(Serialize)]
#[serde(transparent)]
struct Ended<'a> {
    report: &'a RunReport,
    #[serde(skip)]
    all_of_them: String,
}

impl Render for Ended<'_> {
    fn show(&self, view: &View) -> String {
        self.report.show_with(&self.all_of_them, view)
    }
}

fn finish(context: &Context, report: &RunReport) -> Result<u8, Failure> {
    let all_of_them = report.all_dropped(context.settings.db.as_deref());
    context.print_done(&Ended { report, all_of_them }, report.run.exit.unwrap_or(1))?;
    if report.run.outcome == Some(Outcome::Interrupted) {
        context.say(&format!(
            "run {} continues without nlmctl until its deadline, as long as the lock manager runs; to resume it: \
             `nlmctl resync --resume` (with the same --control, --db and --name)",
            report.run.id
        ));
    }
    Ok(report.run.exit.unwrap_or(1))
}
