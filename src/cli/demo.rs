//! `nlmctl demo`: the product at work, with simulated clients.

use tokio::sync::watch;

use super::args::DemoArgs;
use super::context::Context;
use super::live;
use super::signals::signals;
use crate::demo::run::{Script, play};
use crate::demo::setup::Cast;
use crate::report::{Failure, Progress};
use crate::units::{count, number};

pub(super) async fn run(context: &Context, args: DemoArgs) -> Result<u8, Failure> {
    let nlmctl = std::env::current_exe().map_err(|e| {
        Failure::failed(
            format!("cannot find this program's own file, which the demo also starts as nlmd: {e}"),
            "run nlmctl from where it is installed",
        )
    })?;
    let script = Script {
        cast: Cast {
            clients: args.clients as usize,
            locks: args.locks as usize,
            dead: args.dead as usize,
            stale: args.stale as usize,
            rebooted: args.rebooted as usize,
            lost: args.lost as usize,
            seed: args.seed.unwrap_or_default(),
        },
        grace: args.grace,
        mode: args.mode,
        unreachable: args.unreachable,
        db: context.settings.typed_db.clone(),
    };
    script.cast.check()?;
    context.say(&format!(
        "{} {} each",
        number(args.clients.into(), "simulated client takes", "simulated clients take"),
        count(args.locks.into(), "lock")
    ));
    let (progress, shown) = watch::channel(Progress::default());
    let mut signals = signals()?;
    let settings = &context.settings;
    let play = async {
        tokio::join!(play(&script, &nlmctl, progress), live::show(shown, settings.quiet, settings.verbose > 0)).0
    };
    // Leaving this scope ends nlmd and removes the demo's files, whichever way it is left.
    let played = tokio::select! {
        played = play => played?,
        Some(name) = signals.recv() => {
            return Err(Failure::failed(format!("{name}: the demo was stopped, with all processes that it had \
                                                started"), "run it again"));
        }
    };
    context.print_done(&played, played.exit())?;
    Ok(played.exit())
}
