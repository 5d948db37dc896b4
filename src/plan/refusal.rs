//! Why a query is not a feature view: what is asked for that cannot be kept, by name, and what to write instead.
//!
//! Invariant: a refusal names the expression or the output that it is about; whoever has the syntax tree finds its place.
//! Neighbours: `lower`, `row`, `aggregate` and `feature` refuse; `mod.rs` makes diagnostics of it.

use datafusion::common::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};

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
        /// What it is about.
        about: About,
    },
    /// DataFusion's own complaint.
    #[error(transparent)]
    Query(#[from] DataFusionError),
}

impl LowerError {
    /// The same, about this expression if it was about no smaller part of the query.
    pub(super) fn about(self, expr: &Expr) -> LowerError {
        match self {
            LowerError::Refused { message, help, about: About::Query } => {
                LowerError::Refused { message, help, about: About::Expression(Box::new(expr.clone())) }
            }
            other => other,
        }
    }
}

/// What of a query a refusal is about.
#[derive(Debug)]
pub enum About {
    /// All of it.
    Query,
    /// An expression, as it was planned; of one that asks for `now()`, that call.
    Expression(Box<Expr>),
    /// The n-th column of SELECT.
    Output(usize),
}

/// What a query must look like.
pub(super) const SHAPE: &str = "write SELECT …, aggregate(…) FROM stream [JOIN table ON …] [WHERE …] GROUP BY …";

/// A refusal: what is asked for, and what to write instead.
pub(super) fn refuse<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, LowerError> {
    Err(LowerError::Refused { message: message.into(), help: help.into(), about: About::Query })
}

/// A refusal of this expression.
pub(super) fn refuse_expr<T>(
    expr: &Expr,
    message: impl Into<String>,
    help: impl Into<String>,
) -> Result<T, LowerError> {
    let about = About::Expression(Box::new(expr.clone()));
    Err(LowerError::Refused { message: message.into(), help: help.into(), about })
}

/// A refusal of the n-th column of SELECT.
pub(super) fn refuse_output<T>(n: usize, message: impl Into<String>, help: impl Into<String>) -> Result<T, LowerError> {
    Err(LowerError::Refused { message: message.into(), help: help.into(), about: About::Output(n) })
}

/// What a person calls the clause that became this node.
pub(super) fn name_of(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ']).next().unwrap_or("this clause").to_string()
}
