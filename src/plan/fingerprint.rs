//! The fingerprint of a plan: what it means and what its inputs look like, in 128 bits.
//!
//! Invariant: it is made of names, types and the identities of expressions alone; where inputs come from is not in it, nor
//! what changes no answer.
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
        let identities = |k: &[Compiled]| k.iter().map(|c| c.identity.clone()).collect::<Vec<_>>();
        let filter = join.table_filter.as_ref().map(|f| &f.identity);
        hash.update(format!(
            "{} {:?} {:?} {filter:?} {:?}",
            join.left,
            identities(&join.row_key),
            identities(&join.table_key),
            join.table_columns
        ));
    }
    let identity = |c: &Compiled| c.identity.clone();
    hash.update(format!("{:?} {:?}", plan.stream_columns, plan.admit.as_ref().map(identity)));
    hash.update(format!("{:?}", plan.groups.iter().map(|(n, c)| (n, identity(c))).collect::<Vec<_>>()));
    hash.update(format!("{:?}", plan.values.iter().map(identity).collect::<Vec<_>>()));
    hash.update(format!("{:?}", plan.filters.iter().map(identity).collect::<Vec<_>>()));
    let orders: Vec<Vec<_>> =
        plan.orders.iter().map(|o| o.iter().map(|(c, d, n)| (identity(c), *d, *n)).collect()).collect();
    hash.update(format!("{orders:?} {:?} {:?}", plan.fold, plan.entity));
    if let Some(having) = &plan.having {
        hash.update(format!("having {}", identity(having)));
    }
    for feature in &plan.features {
        let output = match &feature.output {
            Output::Group(n) => format!("group {n}"),
            Output::Aggregate(n) => format!("aggregate {n}"),
            Output::Expression(c) => identity(c),
        };
        hash.update(format!("{} {:?} {output}", feature.name, feature.data_type));
    }
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}
