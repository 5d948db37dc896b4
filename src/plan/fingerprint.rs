//! The fingerprint of a plan: what it means and what its inputs look like, in 128 bits.
//!
//! Invariant: it is made of names, types and texts alone; where inputs come from is not in it, nor what changes no answer.
//! Neighbours: `lower` puts it into the plan; `state` compares it with the one that made a data directory.

use sha2::{Digest, Sha256};

use super::operator::{Compiled, Output, ViewPlan};
use crate::definition::Source;

/// What the plan means and what its inputs look like, hashed; not where they come from.
pub(super) fn fingerprint(plan: &ViewPlan) -> String {
    let source = |s: &Source| {
        format!("{:?} {:?} {:?} {:?}", s.name, s.kind, s.columns, s.event_time.as_ref().map(ToString::to_string))
    };
    let mut hash = Sha256::new();
    hash.update(source(&plan.stream));
    for join in &plan.joins {
        hash.update(source(&join.table));
        let texts = |k: &[Compiled]| k.iter().map(|c| c.text.clone()).collect::<Vec<_>>();
        let filter = join.table_filter.as_ref().map(|f| &f.text);
        hash.update(format!(
            "{} {:?} {:?} {filter:?} {:?}",
            join.left,
            texts(&join.row_key),
            texts(&join.table_key),
            join.table_columns
        ));
    }
    let text = |c: &Compiled| c.text.clone();
    hash.update(format!("{:?} {:?}", plan.stream_columns, plan.admit.as_ref().map(text)));
    hash.update(format!("{:?}", plan.groups.iter().map(|(n, c)| (n, text(c))).collect::<Vec<_>>()));
    hash.update(format!("{:?}", plan.values.iter().map(text).collect::<Vec<_>>()));
    hash.update(format!("{:?}", plan.filters.iter().map(text).collect::<Vec<_>>()));
    let orders: Vec<Vec<_>> =
        plan.orders.iter().map(|o| o.iter().map(|(c, d, n)| (text(c), *d, *n)).collect()).collect();
    hash.update(format!("{orders:?} {:?} {:?}", plan.fold, plan.entity));
    for feature in &plan.features {
        let output = match &feature.output {
            Output::Group(n) => format!("group {n}"),
            Output::Aggregate(n) => format!("aggregate {n}"),
            Output::Expression(c) => text(c),
        };
        hash.update(format!("{} {:?} {output}", feature.name, feature.data_type));
    }
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}
