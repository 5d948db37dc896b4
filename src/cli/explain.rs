//! `headwater explain VIEW`: the plan as text or JSON.

use clap::Args;

use super::{Common, Outcome, say};
use crate::online::find_view;
use crate::plan::explain;

#[derive(Args)]
pub(super) struct ExplainArgs {
    /// The view.
    view: String,
    /// text or json.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    format: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &ExplainArgs) -> Outcome {
    let (_, plan) = args.common.plan()?;
    let view = &plan.views[find_view(&plan, &args.view)?];
    match args.format.as_str() {
        "json" => say(serde_json::to_string_pretty(&explain::json(view)).expect("plain values always encode"))?,
        _ => say(explain::text(view).trim_end())?,
    }
    Ok(())
}
