//! The canonical text of a plan: golden tests compare it, `headwater explain` prints it.
//!
//! Invariants: the text follows from the plan alone; an interval is written in the largest unit that divides it.

use std::fmt::Write;

use serde_json::{Value, json};

use super::PlannedView;
use super::operator::{Compiled, Output, ViewPlan};
use crate::fold::plan::{Aggregate, Window};

/// Microseconds as a person writes them.
pub fn interval(micros: i64) -> String {
    for (unit, size) in
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
    {
        if micros != 0 && micros % size == 0 {
            return format!("{}{unit}", micros / size);
        }
    }
    format!("{micros}us")
}

fn window(w: Window) -> String {
    match (w.from, w.until) {
        (0, None) => "up to now".into(),
        (from, None) => format!("age >= {}", interval(from)),
        (from, Some(Window::FOREVER)) => format!("age >= {}, of all rows", interval(from)),
        (0, Some(until)) => format!("age < {}", interval(until)),
        (from, Some(until)) => format!("{} <= age < {}", interval(from), interval(until)),
    }
}

fn aggregate(plan: &ViewPlan, a: &Aggregate) -> String {
    let argument = a.value.map_or("*".to_string(), |v| plan.values[v].text.clone());
    // The name, and in braces the call's constants.
    let called = format!("{:?}", a.function).to_lowercase();
    let (name, constants) = called.split_once(' ').unwrap_or((&called, ""));
    let mut text = format!("{name}({argument}");
    if let Some(second) = a.second {
        let _ = write!(text, ", {}", plan.values[second].text);
    }
    if !constants.is_empty() {
        let _ = write!(text, ", {}", constants.trim_matches(['{', '}', ' ']));
    }
    if let Some(order) = a.order {
        let keys = &plan.orders[order - plan.values.len()];
        let key = |(c, desc, _): &(Compiled, bool, bool)| format!("{}{}", c.text, if *desc { " desc" } else { "" });
        let _ = write!(text, " order by {}", keys.iter().map(key).collect::<Vec<_>>().join(", "));
    }
    text.push(')');
    if let Some(filter) = a.filter {
        let _ = write!(text, " where {}", plan.filters[filter].text);
    }
    format!("{text} over {} -> {}", window(a.window), a.result)
}

/// The plan as text.
pub fn text(view: &PlannedView) -> String {
    let plan = &view.plan;
    let mut out = String::new();
    let entity: Vec<&str> = plan.entity.iter().map(|(n, _)| n.as_str()).collect();
    let _ = writeln!(out, "view {} version {} ({})", plan.name, view.version, plan.fingerprint);
    let _ = writeln!(out, "  entity ({})", entity.join(", "));
    for feature in &plan.features {
        let from = match &feature.output {
            Output::Group(n) => format!("group {n}"),
            Output::Aggregate(n) => format!("aggregate {n}"),
            Output::Expression(c) => c.text.clone(),
        };
        let _ = writeln!(out, "  feature {}: {} = {from}", feature.name, feature.data_type);
    }
    if let Some(having) = &plan.having {
        let _ = writeln!(out, "  having {}", having.text);
    }
    let groups: Vec<&str> = plan.groups.iter().map(|(_, c)| c.text.as_str()).collect();
    let resolution = plan.fold.resolution.map_or(String::new(), |r| format!(" resolution {}", interval(r)));
    let _ = writeln!(out, "  fold by ({}), rows {}{resolution}", groups.join(", "), window(plan.fold.admit));
    for (n, a) in plan.fold.aggregates.iter().enumerate() {
        let _ = writeln!(out, "    {n}: {}", aggregate(plan, a));
    }
    if let Some(admit) = &plan.admit {
        let _ = writeln!(out, "  filter {}", admit.text);
    }
    for join in plan.joins.iter().rev() {
        let pair = |(a, b): (&Compiled, &Compiled)| format!("{} = {}", a.text, b.text);
        let keys: Vec<String> = join.row_key.iter().zip(&join.table_key).map(pair).collect();
        let kind = if join.left { "left join" } else { "join" };
        let only = join.table_filter.as_ref().map_or(String::new(), |f| format!(" where {}", f.text));
        let _ = writeln!(out, "  {kind} table {} on {}{only}", join.table.name, keys.join(" and "));
    }
    let columns: Vec<&str> = plan.row.fields()[..plan.stream_columns.len()].iter().map(|f| f.name().as_str()).collect();
    let _ = writeln!(out, "  stream {} ({})", plan.stream.name, columns.join(", "));
    out
}

/// The plan as JSON.
pub fn json(view: &PlannedView) -> Value {
    let plan = &view.plan;
    json!({
        "view": plan.name,
        "version": view.version,
        "fingerprint": plan.fingerprint,
        "entity": plan.entity.iter().map(|(n, _)| n).collect::<Vec<_>>(),
        "features": plan.features.iter().map(|f| json!({"name": f.name, "type": f.data_type.to_string()})).collect::<Vec<_>>(),
        "having": plan.having.as_ref().map(|c| &c.text),
        "groups": plan.groups.iter().map(|(_, c)| &c.text).collect::<Vec<_>>(),
        "rows": window(plan.fold.admit),
        "aggregates": plan.fold.aggregates.iter().map(|a| aggregate(plan, a)).collect::<Vec<_>>(),
        "filter": plan.admit.as_ref().map(|c| &c.text),
        "joins": plan.joins.iter().map(|j| json!({"table": j.table.name, "left": j.left})).collect::<Vec<_>>(),
        "stream": plan.stream.name,
    })
}
