//! The oracle's `array_agg`: a list of values in order, the first few of them.
//!
//! DataFusion has no LIMIT inside an aggregate: [`limits_as_arguments`] makes it the second argument of the text that is planned.
//! What orders the rows is each row's place among all, a number, which `recompute` gives as a column.
//!
//! Neighbours: `recompute` plans and calls it; `oracle_rows` ranks the rows.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, Ident, Query, VisitMut, VisitorMut,
};

use super::oracle_groups::{Groups, whole};
use crate::definition::LISTED;

/// The name of an `array_agg` with a LIMIT in a query that is planned: as in the query that `definition` has made of the text,
/// which is planned where DataFusion would give two aggregates one name.
pub(super) const LIST: &str = LISTED;

/// A query in which the LIMIT of every `array_agg` is its second argument.
pub(super) fn limits_as_arguments(mut query: Box<Query>) -> Box<Query> {
    struct Limits;
    impl VisitorMut for Limits {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr
                && function.name.to_string().eq_ignore_ascii_case("array_agg")
                && let FunctionArguments::List(list) = &mut function.args
                && let Some(at) = list.clauses.iter().position(|c| matches!(c, FunctionArgumentClause::Limit(_)))
                && let FunctionArgumentClause::Limit(limit) = list.clauses.remove(at)
            {
                list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(limit)));
                // DataFusion makes another function of an element of an array_agg.
                function.name = Ident::new(LIST).into();
            }
            ControlFlow::Continue(())
        }
    }
    let _: ControlFlow<()> = VisitMut::visit(query.as_mut(), &mut Limits);
    query
}

/// `array_agg(value, limit)` as it is planned; `array_agg(value, limit, place)` as it is computed.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Listed {
    distinct: bool,
    nulls: bool,
    signature: Signature,
}

impl Listed {
    /// Of different values only, if `distinct`; without nulls, unless `nulls`.
    pub(super) fn new(distinct: bool, nulls: bool) -> Listed {
        Listed { distinct, nulls, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Listed {
    fn name(&self) -> &str {
        LIST
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(arg_types[0].clone(), true))))
    }

    fn supports_null_handling_clause(&self) -> bool {
        true
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("the oracle's array_agg was asked for without groups")
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let returns = args.return_field.data_type().clone();
        whole(Lists { distinct: self.distinct, nulls: self.nulls, limit: usize::MAX, returns, groups: vec![] })
    }
}

struct Lists {
    distinct: bool,
    nulls: bool,
    limit: usize,
    returns: DataType,
    /// Of each group the values and their places, as they came.
    groups: Vec<(Vec<ArrayRef>, Vec<u64>)>,
}

impl Groups for Lists {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Default::default);
        let [items, others @ .., places] = values else { return internal_err!("array_agg has a value and a place") };
        if let Some(limit) = others.first().filter(|limit| !limit.is_empty()) {
            let ScalarValue::Int64(Some(limit)) = ScalarValue::try_from_array(limit, 0)? else {
                return internal_err!("the limit is a whole number");
            };
            self.limit = usize::try_from(limit).unwrap_or(0);
        }
        let places = places.as_primitive::<UInt64Type>();
        let mut rows: Vec<Vec<u32>> = vec![vec![]; total_num_groups];
        for (row, group) in (0u32..).zip(group_indices) {
            let at = row as usize;
            if (self.nulls || items.is_valid(at)) && opt_filter.is_none_or(|f| f.is_valid(at) && f.value(at)) {
                rows[*group].push(row);
                self.groups[*group].1.push(places.value(at));
            }
        }
        for (group, rows) in self.groups.iter_mut().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            group.0.push(take(items, &UInt32Array::from(rows), None)?);
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        let lists = groups.iter().map(|(parts, places)| self.list(parts, places)).collect::<Result<Vec<_>>>()?;
        if lists.is_empty() { Ok(new_empty_array(&self.returns)) } else { ScalarValue::iter_to_array(lists) }
    }

    fn size(&self) -> usize {
        let of = |(parts, places): &(Vec<ArrayRef>, Vec<u64>)| {
            parts.iter().map(|p| p.get_array_memory_size()).sum::<usize>() + places.capacity() * 8
        };
        self.groups.iter().map(of).sum()
    }
}

impl Lists {
    fn list(&self, parts: &[ArrayRef], places: &[u64]) -> Result<ScalarValue> {
        if parts.is_empty() {
            return ScalarValue::try_from(&self.returns);
        }
        let items = concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
        let mut rows: Vec<u32> = (0..u32::try_from(items.len()).unwrap_or(u32::MAX)).collect();
        rows.sort_unstable_by_key(|row| places[*row as usize]);
        if self.distinct {
            // Each value stands where it stands first.
            let converter = RowConverter::new(vec![SortField::new(items.data_type().clone())])?;
            let encoded = converter.convert_columns(std::slice::from_ref(&items))?;
            let mut seen = std::collections::HashSet::new();
            rows.retain(|row| seen.insert(encoded.row(*row as usize).data().to_vec()));
        }
        rows.truncate(self.limit);
        let kept = take(&items, &UInt32Array::from(rows), None)?;
        Ok(SingleRowListArrayBuilder::new(kept).build_list_scalar())
    }
}
