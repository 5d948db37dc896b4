//! The name somebody probably meant.
//!
//! Neighbours: every "did you mean" of `definition`, and of whoever else reports an unknown name.

/// The candidate nearest to `name`, if one is near enough to be a slip of the hand: about one wrong, missing, extra or
/// swapped character in three. Case does not count; of two as near, one that has all the characters in their order, or of
/// which all are there, before one with others; then the first.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.to_lowercase().chars().collect();
    let mut best: Option<((usize, bool), &str)> = None;
    for candidate in candidates {
        let other: Vec<char> = candidate.to_lowercase().chars().collect();
        let steps = distance(&name, &other);
        let allowed = (name.len().max(other.len()) / 3).max(1);
        let slip = (steps, !lies_in(&name, &other) && !lies_in(&other, &name));
        if steps <= allowed && steps < other.len() && best.is_none_or(|(before, _)| slip < before) {
            best = Some((slip, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Are all the characters of one in the other, in their order?
fn lies_in(one: &[char], other: &[char]) -> bool {
    let mut rest = other.iter();
    one.iter().all(|c| rest.any(|o| o == c))
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut steps = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(rows[i - 2][j - 2] + 1);
            }
            row.push(steps);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// `a`, `b` and `c`, each in backticks: for lists in messages.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_nothing_else() {
        let check = |name: &str, want: Option<&str>| {
            assert_eq!(nearest(name, ["amount", "user_id", "ts", "kind"]), want, "{name}");
        };
        check("amout", Some("amount"));
        check("Amount", Some("amount"));
        check("userid", Some("user_id"));
        check("usre_id", Some("user_id"));
        check("knid", Some("kind"));
        check("st", Some("ts"));
        assert_eq!(nearest("NULS", ["NULL", "NULLS"]), Some("NULLS"), "a letter that was left out");
        assert_eq!(nearest("NULX", ["NULLS", "NULL"]), Some("NULL"));
        check("price", None);
        check("", None);
        check("x", None);
    }
}
