//! `headwater check`: parse, type-check and plan, read the settings, and say what there is.

use super::run::settings;
use super::{Common, Outcome, say};

pub(super) fn run(args: &Common) -> Outcome {
    let (definitions, plan) = args.plan()?;
    settings(args, &[])?;
    let tables = definitions.sources.values().filter(|s| s.is_table()).count();
    say(format!(
        "ok: {} streams, {tables} tables, {} feature views, {} services",
        definitions.sources.len() - tables,
        plan.views.len(),
        plan.services.len(),
    ))?;
    Ok(())
}
