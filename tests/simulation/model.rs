//! What the answers should be, in plain Rust over the records that were taken in: a few loops for each view, and no code of
//! the engine.
//!
//! Invariants: every answer is computed anew from all records; nothing is kept between two questions. Neighbours: `topic`
//! has the records, `world` knows which epoch took which.

use std::collections::BTreeSet;

/// A second, in µs.
pub(crate) const SECOND: i64 = 1_000_000;
/// How far ahead of its arrival an event may be dated.
const FUTURE: i64 = 24 * 3_600 * SECOND;

/// The streams and tables, and the views that `expected` knows.
pub(crate) const DEFINITIONS: &str = "
CREATE STREAM clicks (usr TEXT, item BIGINT, n BIGINT CHECK (n < 1000), s TEXT, ts TIMESTAMP NOT NULL)
  EVENT TIME ts FROM KAFKA (topic = 'clicks', format = 'json', brokers = 'nowhere:1');
CREATE TABLE items (item BIGINT, price BIGINT, valid_from TIMESTAMP NOT NULL, PRIMARY KEY (item))
  EVENT TIME valid_from FROM KAFKA (topic = 'items', format = 'json', brokers = 'nowhere:1');
CREATE TABLE users (usr TEXT, tier TEXT, PRIMARY KEY (usr))
  FROM KAFKA (topic = 'users', format = 'json', brokers = 'nowhere:1');

CREATE FEATURE VIEW windows AS SELECT usr,
  count(*) FILTER (WHERE ts > now() - INTERVAL '10 seconds') AS n_10s,
  sum(n) FILTER (WHERE ts > now() - INTERVAL '30 seconds') AS sum_30s,
  max(n) FILTER (WHERE ts > now() - INTERVAL '30 seconds') AS max_30s,
  last_value(s ORDER BY ts) FILTER (WHERE ts > now() - INTERVAL '30 seconds') AS last_30s,
  count(*) FILTER (WHERE ts > now() - INTERVAL '20 seconds' AND ts <= now() - INTERVAL '5 seconds') AS older,
  count(DISTINCT s) FILTER (WHERE ts > now() - INTERVAL '1 minute') AS distinct_1m
FROM clicks GROUP BY usr;

CREATE FEATURE VIEW totals AS SELECT usr,
  count(*) AS n_all, sum(n) AS sum_all, min(n) AS min_all, last_value(n ORDER BY ts) AS last_all,
  count(*) FILTER (WHERE ts <= now() - INTERVAL '5 seconds') AS settled, sum(12 / n) AS shares
FROM clicks GROUP BY usr;

CREATE FEATURE VIEW recent AS SELECT usr, count(*) AS n_20s, min(s) AS min_s
FROM clicks WHERE ts > now() - INTERVAL '20 seconds' GROUP BY usr;

CREATE FEATURE VIEW priced AS SELECT c.usr,
  count(*) AS n_all, sum(i.price) AS sum_all, last_value(i.price ORDER BY c.ts) AS last_all,
  sum(i.price) FILTER (WHERE c.ts > now() - INTERVAL '30 seconds') AS sum_30s
FROM clicks AS c JOIN items AS i ON i.item = c.item GROUP BY c.usr;

CREATE FEATURE VIEW tiered AS SELECT c.usr,
  count(*) AS n_all, count(u.tier) AS known, max(u.tier) AS tier,
  count(u.tier) FILTER (WHERE c.ts > now() - INTERVAL '10 seconds') AS known_10s
FROM clicks AS c LEFT JOIN users AS u ON u.usr = c.usr GROUP BY c.usr;";

/// The views, in the order of their names as the plan has them.
pub(crate) const VIEWS: [&str; 5] = ["windows", "totals", "recent", "priced", "tiered"];
/// Everybody who may click.
pub(crate) const USERS: [&str; 4] = ["a", "b", "c", "somebody with a name"];
/// The topics, each a source of that name.
pub(crate) const TOPICS: [&str; 3] = ["clicks", "items", "users"];

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Click {
        usr: &'static str,
        item: i64,
        n: Option<i64>,
        s: Option<&'static str>,
        ts: i64,
    },
    /// A version of an item.
    Item {
        item: i64,
        price: Option<i64>,
        from: i64,
    },
    /// The item is gone from the record's timestamp on.
    NoItem {
        item: i64,
    },
    User {
        usr: &'static str,
        tier: Option<&'static str>,
    },
    NoUser {
        usr: &'static str,
    },
    /// Bytes that are no record of its source.
    Broken,
}

/// A record in a topic.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) body: Body,
    /// When it was appended, in whole milliseconds, as µs.
    pub(crate) appended: i64,
}

impl Record {
    /// Is it refused by its source, whatever the views say?
    pub(crate) fn is_refused(&self) -> bool {
        let too_far = |at: i64| at > self.appended + FUTURE;
        match &self.body {
            Body::Click { n, ts, .. } => n.is_some_and(|n| n >= 1000) || too_far(*ts),
            Body::Item { from, .. } => too_far(*from),
            Body::NoItem { .. } | Body::User { .. } | Body::NoUser { .. } => false,
            Body::Broken => true,
        }
    }

    /// The view that refuses the row, if one does.
    pub(crate) fn is_refused_by_totals(&self) -> bool {
        !self.is_refused() && matches!(self.body, Body::Click { n: Some(0), .. })
    }
}

/// A record and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) epoch: u64,
    pub(crate) topic: usize,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) record: Record,
}

/// A click that a view sees.
#[derive(Clone, Copy)]
struct Click {
    item: i64,
    n: Option<i64>,
    s: Option<&'static str>,
    ts: i64,
    /// (event time, partition, offset): the order of rows.
    place: (i64, i32, i64),
}

/// The records up to an epoch, seen at an instant.
struct Seen<'a> {
    taken: Vec<&'a Taken>,
    at: i64,
}

/// An answer as text: status, event time where the model knows it, values.
pub(crate) fn expected(taken: &[Taken], view: &str, user: &str, epoch: u64, at: i64) -> String {
    let taken = taken.iter().filter(|t| t.epoch <= epoch && !t.record.is_refused()).collect();
    let seen = Seen { taken, at };
    match view {
        "windows" => seen.windows(user),
        "totals" => seen.totals(user),
        "recent" => seen.recent(user),
        "priced" => seen.priced(user),
        "tiered" => seen.tiered(user),
        other => panic!("no view {other}"),
    }
}

impl Seen<'_> {
    /// The clicks of a user with event times up to the instant, in order.
    fn clicks(&self, user: &str) -> Vec<Click> {
        let mut clicks = vec![];
        for t in &self.taken {
            let Body::Click { usr, item, n, s, ts } = t.record.body else { continue };
            if usr == user && ts <= self.at {
                clicks.push(Click { item, n, s, ts, place: (ts, t.partition, t.offset) });
            }
        }
        clicks.sort_by_key(|c| c.place);
        clicks
    }

    fn within(&self, click: &Click, seconds: i64) -> bool {
        click.ts > self.at - seconds * SECOND
    }

    fn windows(&self, user: &str) -> String {
        let clicks = self.clicks(user);
        let last = |seconds: i64| -> Vec<&Click> { clicks.iter().filter(|c| self.within(c, seconds)).collect() };
        let older = last(20).iter().filter(|c| c.ts <= self.at - 5 * SECOND).count();
        let distinct: BTreeSet<&str> = last(60).iter().filter_map(|c| c.s).collect();
        let ns = |clicks: &[&Click]| clicks.iter().filter_map(|c| c.n).collect::<Vec<_>>();
        row(
            status(clicks.is_empty(), true),
            Some(clicks.last()),
            &[
                number(last(10).len()),
                sum(&ns(&last(30))),
                text(ns(&last(30)).iter().max()),
                text(last(30).last().and_then(|c| c.s)),
                number(older),
                number(distinct.len()),
            ],
        )
    }

    fn totals(&self, user: &str) -> String {
        // 12 / 0 has no value: the row is refused for this view.
        let clicks: Vec<Click> = self.clicks(user).into_iter().filter(|c| c.n != Some(0)).collect();
        let ns: Vec<i64> = clicks.iter().filter_map(|c| c.n).collect();
        let settled = clicks.iter().filter(|c| c.ts <= self.at - 5 * SECOND).count();
        let shares: Vec<i64> = ns.iter().map(|n| 12 / n).collect();
        row(
            status(clicks.is_empty(), true),
            Some(clicks.last()),
            &[
                number(clicks.len()),
                sum(&ns),
                text(ns.iter().min()),
                text(clicks.last().and_then(|c| c.n)),
                number(settled),
                sum(&shares),
            ],
        )
    }

    fn recent(&self, user: &str) -> String {
        let clicks = self.clicks(user);
        let recent: Vec<&Click> = clicks.iter().filter(|c| self.within(c, 20)).collect();
        let least = recent.iter().filter_map(|c| c.s).min();
        row(status(clicks.is_empty(), !recent.is_empty()), Some(clicks.last()), &[number(recent.len()), text(least)])
    }

    /// Versions of an item in order: (valid from, price, or nothing where it is gone).
    fn versions(&self, wanted: i64) -> Vec<(i64, Option<Option<i64>>)> {
        let mut versions = vec![];
        for t in &self.taken {
            let (item, from, price) = match t.record.body {
                Body::Item { item, price, from } => (item, from, Some(price)),
                Body::NoItem { item } => (item, t.record.appended, None),
                _ => continue,
            };
            if item == wanted {
                versions.push(((from, t.partition, t.offset), price));
            }
        }
        versions.sort_by_key(|(place, _)| *place);
        versions.into_iter().map(|((from, _, _), price)| (from, price)).collect()
    }

    fn priced(&self, user: &str) -> String {
        let clicks = self.clicks(user);
        let mut joined = vec![];
        for click in &clicks {
            let versions = self.versions(click.item);
            let current = versions.iter().rev().find(|(from, _)| *from <= self.at);
            if let Some((_, Some(price))) = current {
                joined.push((click, *price));
            }
        }
        let prices: Vec<i64> = joined.iter().filter_map(|(_, p)| *p).collect();
        let recent = joined.iter().filter(|(c, _)| self.within(c, 30)).filter_map(|(_, p)| *p).collect::<Vec<_>>();
        row(
            // Without a lower time bound nothing expires (rule 12), though an item may be taken away again.
            status(joined.is_empty(), true),
            None,
            &[number(joined.len()), sum(&prices), text(joined.last().and_then(|(_, p)| *p)), sum(&recent)],
        )
    }

    fn tiered(&self, user: &str) -> String {
        let clicks = self.clicks(user);
        // A table without times: the last of a key by offset, and a key stays in one partition.
        let mut last = None;
        for t in &self.taken {
            let tier = match t.record.body {
                Body::User { usr, tier } if usr == user => tier,
                Body::NoUser { usr } if usr == user => None,
                _ => continue,
            };
            last = last.max(Some((t.offset, tier)));
        }
        let tier = last.and_then(|(_, tier)| tier);
        let known = if tier.is_some() { clicks.len() } else { 0 };
        let recent = clicks.iter().filter(|c| self.within(c, 10)).count();
        row(
            status(clicks.is_empty(), true),
            None,
            &[
                number(clicks.len()),
                number(known),
                text(tier.filter(|_| known > 0)),
                number(if tier.is_some() { recent } else { 0 }),
            ],
        )
    }
}

fn status(never: bool, now: bool) -> &'static str {
    match (never, now) {
        (true, _) => "absent",
        (false, true) => "present",
        (false, false) => "expired",
    }
}

fn number(n: usize) -> String {
    n.to_string()
}

fn sum(values: &[i64]) -> String {
    if values.is_empty() { "NULL".into() } else { values.iter().sum::<i64>().to_string() }
}

fn text(value: Option<impl std::fmt::Display>) -> String {
    value.map_or("NULL".into(), |v| v.to_string())
}

/// `newest`: the event time, of views whose rows are the clicks themselves.
fn row(status: &str, newest: Option<Option<&Click>>, values: &[String]) -> String {
    let newest = newest.map_or("-".into(), |click| text(click.map(|c| c.ts)));
    answer(status, &newest, values)
}

/// An answer as text, so that the model's can be compared with the engine's.
pub(crate) fn answer(status: &str, event_time: &str, values: &[String]) -> String {
    format!("{status} at {event_time}: {}", values.join(" | "))
}

/// Does the model know the event times of this view's answers?
pub(crate) fn knows_event_time(view: &str) -> bool {
    !matches!(view, "priced" | "tiered")
}
