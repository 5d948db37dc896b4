//! A shop that never closes: who visits, what is on sale, what they do, and what goes wrong.
//!
//! Users and items have a Zipf-like popularity; looks turn into carts and carts into purchases. About 2 % of the events
//! come minutes late, about 0.5 % are broken in some way; now and then an item changes its category or price, or is
//! deleted for a while. Invariants: two shops of one seed, asked the same, say the same; it reads no clock.
//! Neighbours: `demo` sends what this makes.

use std::sync::Arc;

use anyhow::Context;
use apache_avro::types::Value;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::source::broker::Outgoing;
use crate::time::format_instant;

pub(super) const CLICKS: &str = "clicks";
pub(super) const USERS: &str = "users";
pub(super) const ITEMS: &str = "items";
pub(super) const CLICK_PARTITIONS: i32 = 4;

const USER_COUNT: i64 = 500;
const ITEM_COUNT: i64 = 300;
const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 86_400 * SECOND;
const CATEGORIES: [&str; 8] = ["audio", "bikes", "books", "coffee", "garden", "kitchen", "shoes", "toys"];
const COUNTRIES: [&str; 9] = ["BR", "DE", "FR", "GB", "IN", "JP", "NG", "PL", "US"];

struct Item {
    category: &'static str,
    price: f64,
    deleted_until: Option<i64>,
}

/// The shop. Instants are µs since 1970-01-01 UTC, and are given by whoever asks.
pub(super) struct Shop {
    rng: StdRng,
    schema: Arc<apache_avro::Schema>,
    items: Vec<Item>,
    by_user: Popularity,
    by_item: Popularity,
}

impl Shop {
    /// `schema`: that of the items' payloads.
    pub(super) fn new(seed: u64, schema: Arc<apache_avro::Schema>) -> Shop {
        let mut rng = StdRng::seed_from_u64(seed);
        let item = |_| Item {
            category: pick(&mut rng, &CATEGORIES),
            price: cents(2.0 + 198.0 * rng.random::<f64>().powi(3)),
            deleted_until: None,
        };
        let items = (0..ITEM_COUNT).map(item).collect();
        Shop { rng, schema, items, by_user: Popularity::new(USER_COUNT), by_item: Popularity::new(ITEM_COUNT) }
    }

    /// All users and items, as of `at`.
    ///
    /// # Errors
    /// The schema is not that of an item.
    pub(super) fn opening(&mut self, at: i64) -> anyhow::Result<Vec<Outgoing>> {
        let mut records = vec![];
        for user in 1..=USER_COUNT {
            let signed_up = format_instant(at - self.rng.random_range(DAY..1_000 * DAY));
            let country = pick(&mut self.rng, &COUNTRIES);
            // One in fifty did not say where they live; the view by country must cope.
            let country = if self.rng.random_bool(0.02) { None } else { Some(country) };
            let payload = json!({"user_id": user, "country": country, "signed_up": signed_up});
            records.push(table_row(USERS, at, user, Some(payload.to_string().into_bytes())));
        }
        for item in 1..=ITEM_COUNT {
            records.push(self.item_record(item, at)?);
        }
        Ok(records)
    }

    /// What somebody does at `at`, as it arrives; or something broken.
    pub(super) fn click(&mut self, at: i64) -> Outgoing {
        let (user, item) = (self.by_user.pick(&mut self.rng), self.by_item.pick(&mut self.rng));
        let happened = match self.rng.random_bool(0.02) {
            true => at - self.rng.random_range(MINUTE..30 * MINUTE),
            false => at - self.rng.random_range(0..50_000),
        };
        let kind = match self.rng.random_range(0..100) {
            0..80 => "view",
            80..94 => "cart",
            _ => "purchase",
        };
        let list = self.items[index(item)].price;
        let price = match kind {
            "purchase" => Some(cents(list * self.rng.random_range(0.8..1.0))),
            _ if self.rng.random_bool(0.1) => None,
            _ => Some(list),
        };
        let ts = format_instant(happened);
        let mut payload = json!({"user_id": user, "item_id": item, "kind": kind, "price": price, "ts": ts});
        let mut cut = false;
        if self.rng.random_bool(0.005) {
            match self.rng.random_range(0..5) {
                0 => cut = true,
                1 => payload["price"] = json!(-list),
                2 => payload["kind"] = json!("wish"),
                3 => payload["ts"] = json!(format_instant(at + 30 * DAY)),
                _ => payload["user_id"] = json!(null),
            }
        }
        let mut text = payload.to_string();
        if cut {
            text.truncate(text.len() / 2); // JSON in ASCII: any cut is at a character
        }
        let partition = i32::try_from(user % i64::from(CLICK_PARTITIONS)).unwrap_or(0);
        let payload = Some(text.into_bytes());
        Outgoing { topic: CLICKS, partition, millis: at / 1_000, key: user.to_string(), payload }
    }

    /// What changed in the catalogue in the second before `at`.
    ///
    /// # Errors
    /// The schema is not that of an item.
    pub(super) fn catalogue(&mut self, at: i64) -> anyhow::Result<Vec<Outgoing>> {
        let mut records = vec![];
        for n in 1..=ITEM_COUNT {
            if self.items[index(n)].deleted_until.is_some_and(|until| until <= at) {
                self.items[index(n)].deleted_until = None;
                records.push(self.item_record(n, at)?);
            }
        }
        let moved = self.rng.random_range(1..=ITEM_COUNT);
        if self.items[index(moved)].deleted_until.is_some() {
            return Ok(records);
        }
        match self.rng.random_range(0..60) {
            0..3 => {
                self.items[index(moved)].category = pick(&mut self.rng, &CATEGORIES);
                records.push(self.item_record(moved, at)?);
            }
            3..6 => {
                let item = &mut self.items[index(moved)];
                item.price = cents(item.price * self.rng.random_range(0.8..1.25));
                records.push(self.item_record(moved, at)?);
            }
            6 => {
                self.items[index(moved)].deleted_until = Some(at + 30 * SECOND);
                records.push(table_row(ITEMS, at, moved, None));
            }
            _ => {}
        }
        Ok(records)
    }

    fn item_record(&self, n: i64, at: i64) -> anyhow::Result<Outgoing> {
        let item = &self.items[index(n)];
        let fields = vec![
            ("item_id".to_string(), Value::Long(n)),
            ("category".to_string(), Value::Union(1, Box::new(Value::String(item.category.into())))),
            ("price".to_string(), Value::Union(1, Box::new(Value::Double(item.price)))),
        ];
        let datum = apache_avro::to_avro_datum(&self.schema, Value::Record(fields));
        Ok(table_row(ITEMS, at, n, Some(datum.context("the schema of `items` does not fit the demo's items")?)))
    }
}

fn table_row(topic: &'static str, at: i64, key: i64, payload: Option<Vec<u8>>) -> Outgoing {
    Outgoing { topic, partition: 0, millis: at / 1_000, key: key.to_string(), payload }
}

/// Items are numbered from 1.
fn index(item: i64) -> usize {
    usize::try_from(item - 1).unwrap_or(0)
}

fn cents(price: f64) -> f64 {
    (price * 100.0).round() / 100.0
}

fn pick(rng: &mut StdRng, from: &[&'static str]) -> &'static str {
    from[rng.random_range(0..from.len())]
}

/// Numbers from 1, number n with a weight of 1/n (Zipf's law with exponent 1).
struct Popularity {
    /// The share of all numbers up to this one.
    up_to: Vec<f64>,
}

impl Popularity {
    fn new(count: i64) -> Popularity {
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = vec![];
        for n in 1..=count {
            sum += 1.0 / n as f64;
            up_to.push(sum);
        }
        for share in &mut up_to {
            *share /= sum;
        }
        Popularity { up_to }
    }

    fn pick(&self, rng: &mut StdRng) -> i64 {
        let drawn = rng.random::<f64>();
        let position = self.up_to.partition_point(|share| *share <= drawn).min(self.up_to.len() - 1);
        i64::try_from(position).unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_763_672_400_000_000;

    fn shop() -> Shop {
        let schema = apache_avro::Schema::parse_str(include_str!("../../schemas/items.avsc")).expect("a schema");
        Shop::new(1, Arc::new(schema))
    }

    #[test]
    fn it_is_mostly_sound_and_skewed() {
        let mut shop = shop();
        let (mut broken, mut late, mut first) = (0, 0, 0);
        for _ in 0..20_000 {
            let click = shop.click(NOW);
            let text = click.payload.expect("a click is never deleted");
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            let ts = value["ts"].as_str().and_then(crate::time::parse_instant);
            let wrong = [
                value["user_id"].is_null(),
                value["kind"] == "wish",
                value["price"].as_f64().is_some_and(|p| p < 0.0),
                ts.is_none_or(|ts| ts > NOW + DAY),
            ];
            if wrong.contains(&true) {
                broken += 1;
                continue;
            }
            late += i32::from(ts < Some(NOW - MINUTE));
            first += i32::from(value["user_id"] == 1);
            assert_eq!(value["user_id"].to_string(), click.key);
        }
        assert!((20..200).contains(&broken), "{broken} broken");
        assert!((200..700).contains(&late), "{late} late");
        assert!((2_000..4_500).contains(&first), "{first} of user 1");
    }

    #[test]
    fn what_is_deleted_comes_back() {
        let mut shop = shop();
        assert_eq!(shop.opening(NOW).expect("a schema that fits").len(), 800);
        let mut gone = std::collections::BTreeSet::new();
        let (mut deleted, mut returned) = (0, 0);
        for second in 0..2_000 {
            for record in shop.catalogue(NOW + second * SECOND).expect("a schema that fits") {
                match record.payload {
                    None => deleted += i32::from(gone.insert(record.key)),
                    Some(_) => returned += i32::from(gone.remove(&record.key)),
                }
            }
        }
        assert!(deleted > 5, "{deleted} deleted");
        assert!(returned >= deleted - 3, "{returned} of {deleted} returned");
    }
}
