//! `headwater get VIEW KEY…`: features of entities, now or at a stamp, read beside a running node.

use std::sync::Arc;

use clap::Args;

use super::{Common, Failure, Outcome, say};
use crate::key::EntityCodec;
use crate::online::{Online, StampRequest, ViewRequest, find_features, find_view};
use crate::serve::json;
use crate::time::{Ask, Clock, Epoch, parse_instant};

#[derive(Args)]
pub(super) struct GetArgs {
    /// The view.
    view: String,
    /// Entities: the value; for a composite key a=1,b=x or 1,x in declared order, where "x,y" is one part.
    #[arg(required = true)]
    keys: Vec<String>,
    /// Only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    features: Vec<String>,
    /// The instant asked about, RFC 3339; default now, or when the epoch became visible.
    #[arg(long)]
    as_of: Option<String>,
    /// The commit to read, as an answer's `epoch` gave it.
    #[arg(long)]
    epoch: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &GetArgs) -> Outcome {
    let (_, plan) = args.common.plan()?;
    let view = find_view(&plan, &args.view)?;
    let names: Vec<&str> = args.features.iter().map(String::as_str).collect();
    let features = find_features(&plan, view, (!names.is_empty()).then_some(&names))?;
    let codec = EntityCodec::new(&plan.views[view].plan)?;
    let entities = args.keys.iter().map(|k| codec.parse(k)).collect::<Result<Vec<_>, _>>()?;
    let instant = |text: &Option<String>, flag: &str| -> Result<Option<i64>, Failure> {
        let Some(text) = text else { return Ok(None) };
        let parsed = parse_instant(text);
        let wrong = || anyhow::anyhow!("{flag} takes an instant such as 2026-11-20T21:00:00.123456Z, not `{text}`");
        parsed.map(Some).ok_or_else(|| Failure::Usage(wrong()))
    };
    let epoch = instant(&args.epoch, "--epoch")?.map(u64::try_from).transpose();
    let epoch = epoch.map_err(|_| Failure::Usage(anyhow::anyhow!("--epoch: no epoch is before 1970")))?.map(Epoch);
    let stamp = StampRequest { epoch, as_of: instant(&args.as_of, "--as-of")?.map(Ask) };
    let reader = args.common.reader(&plan)?;
    let cache = Arc::new(reader.pages(Some(view))?);
    let online = Online::new(Arc::clone(&plan), cache, reader.offline, Clock::Machine)?;
    let request = ViewRequest { view, features, entities };
    let answer = online.lookup(std::slice::from_ref(&request), stamp)?;
    for (entity, row) in request.entities.iter().zip(&answer.rows[0]) {
        say(json::entity_json(&plan.views[view], entity, &request.features, &answer, row))?;
    }
    Ok(())
}
