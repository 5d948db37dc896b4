//! `headwater quarantine list | show`: refused records, with reason, source and offset.

use clap::{Args, Subcommand};

use super::{Common, Outcome, say};
use crate::state::Store;
use crate::time::Epoch;

#[derive(Args)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// One line each.
    List(Common),
    /// One of them whole.
    Show {
        /// The source.
        source: String,
        /// PARTITION/OFFSET, as list shows it.
        place: String,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) fn run(args: &QuarantineArgs) -> Outcome {
    match &args.action {
        Action::List(common) => {
            let (_, plan) = common.plan()?;
            let store = Store::open_reader(&common.data_dir(), &plan)?;
            for rejected in store.quarantine() {
                let r = rejected?;
                let view = r.view.map_or(String::new(), |v| format!(" view={v}"));
                say(format!("{} {} {}/{}{view} {}", Epoch(r.epoch), r.source, r.partition, r.offset, r.reason));
            }
        }
        Action::Show { source, place, common } => {
            let (_, plan) = common.plan()?;
            let store = Store::open_reader(&common.data_dir(), &plan)?;
            let mut found = false;
            for rejected in store.quarantine() {
                let r = rejected?;
                if r.source == *source && format!("{}/{}", r.partition, r.offset) == *place {
                    found = true;
                    say(format!("epoch: {}\nreason: {}", Epoch(r.epoch), r.reason));
                    if let Some(key) = &r.key {
                        say(format!("key: {}", String::from_utf8_lossy(key)));
                    }
                    say(format!("record: {}", String::from_utf8_lossy(&r.bytes)));
                }
            }
            if !found {
                return Err(anyhow::anyhow!("no refused record of `{source}` at {place}; see `quarantine list`").into());
            }
        }
    }
    Ok(())
}
