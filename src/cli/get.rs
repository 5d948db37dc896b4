//! (next)
use super::{Common, Outcome};
#[derive(clap::Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    common: Common,
}
pub(super) fn run(args: &GetArgs) -> Outcome {
    args.common.plan()?;
    Ok(())
}
