//! (next)
use super::{Common, Outcome};
#[derive(clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    common: Common,
}
pub(super) fn run(args: &RunArgs) -> Outcome {
    args.common.plan()?;
    Ok(())
}
