//! Why a query is not a feature view: what is asked for that cannot be kept, by name, and what to write instead.
//!
//! Invariant: a refusal has no place in the text; whoever has the syntax tree adds it. Neighbours: `lower`, `row`,
//! `aggregate` and `feature` refuse; `mod.rs` makes diagnostics of it.

use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;

/// Why a query is not a feature view that can be kept.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// It asks for what is not supported (yet); says what to write.
    #[error("{message}")]
    Refused {
        /// What.
        message: String,
        /// What to write instead.
        help: String,
    },
    /// DataFusion's own complaint.
    #[error(transparent)]
    Query(#[from] DataFusionError),
}

/// What a query must look like.
pub(super) const SHAPE: &str = "write SELECT …, aggregate(…) FROM stream [JOIN table ON …] [WHERE …] GROUP BY …";

/// A refusal: what is asked for, and what to write instead.
pub(super) fn refuse<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, LowerError> {
    Err(LowerError::Refused { message: message.into(), help: help.into() })
}

/// What a person calls the clause that became this node.
pub(super) fn name_of(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ']).next().unwrap_or("this clause").to_string()
}
