//! The oracle's own `approx_distinct`: different values by their hashes, counted up to 256 and estimated beyond.
//!
//! The estimate is defined by its algorithm (O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017,
//! algorithm 6, with 4096 registers and the 64-bit XXH3 of a value's bytes): this is another writing of it.
//!
//! Neighbours: `oracle_values` calls it with the values of a group.

use std::collections::{BTreeMap, HashSet};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use datafusion::common::{Result, internal_err};
use xxhash_rust::xxh3::xxh3_64;

/// About how many different values a column without nulls has.
pub(super) fn distinct(values: &ArrayRef) -> Result<i64> {
    let mut hashes = HashSet::new();
    for row in 0..values.len() {
        hashes.insert(hash(values, row)?);
    }
    if hashes.len() <= 256 {
        return Ok(i64::try_from(hashes.len()).unwrap_or_default());
    }
    Ok(estimate(hashes.into_iter().collect()).max(257))
}

fn hash(values: &ArrayRef, row: usize) -> Result<u64> {
    Ok(match values.data_type() {
        DataType::Float64 => xxh3_64(&values.as_primitive::<Float64Type>().value(row).to_bits().to_le_bytes()),
        DataType::Decimal128(_, _) => xxh3_64(&values.as_primitive::<Decimal128Type>().value(row).to_le_bytes()),
        DataType::Utf8 => xxh3_64(values.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => xxh3_64(values.as_binary::<i32>().value(row)),
        DataType::Boolean => xxh3_64(&i64::from(values.as_boolean().value(row)).to_le_bytes()),
        DataType::Int32 | DataType::Int64 | DataType::Timestamp(_, _) | DataType::Date32 => {
            // A DATE is a number of days by way of INT.
            let one = values.slice(row, 1);
            let one = if one.data_type() == &DataType::Date32 { cast(&one, &DataType::Int32)? } else { one };
            xxh3_64(&cast(&one, &DataType::Int64)?.as_primitive::<Int64Type>().value(0).to_le_bytes())
        }
        other => return internal_err!("approx_distinct over {other}"),
    })
}

#[expect(clippy::cast_possible_truncation, reason = "rounded, and far below 2^63")]
fn estimate(hashes: Vec<u64>) -> i64 {
    // Of the hashes with the same first twelve bits, the place of the first one among the other 52, from 1; 53: there is none.
    let mut places: BTreeMap<u64, u32> = BTreeMap::new();
    for hash in hashes {
        let rest = hash & ((1 << 52) - 1);
        let place = if rest == 0 { 53 } else { 52 - rest.ilog2() };
        let held = places.entry(hash >> 52).or_default();
        *held = place.max(*held);
    }
    let with = |place: u32| places.values().filter(|p| **p == place).count() as f64;
    let empty = 4096.0 - places.len() as f64;
    let mut z = 4096.0 * all_ones(1.0 - with(53) / 4096.0);
    for place in (1..=52).rev() {
        z = 0.5 * (z + with(place));
    }
    z += 4096.0 * all_zeros(empty / 4096.0);
    let half_over_ln_2 = 0.721_347_520_444_481_7;
    (4096.0 * 4096.0 * half_over_ln_2 / z).round() as i64
}

/// The paper's σ.
fn all_zeros(share: f64) -> f64 {
    let (mut power, mut weight, mut sum) = (share, 1.0, share);
    if share == 1.0 {
        return f64::INFINITY;
    }
    loop {
        power *= power;
        let next = sum + power * weight;
        weight *= 2.0;
        if next == sum {
            return sum;
        }
        sum = next;
    }
}

/// The paper's τ.
fn all_ones(share: f64) -> f64 {
    if share == 0.0 || share == 1.0 {
        return 0.0;
    }
    let (mut root, mut weight, mut sum) = (share, 1.0, 1.0 - share);
    loop {
        root = root.sqrt();
        weight *= 0.5;
        let next = sum - (1.0 - root) * (1.0 - root) * weight;
        if next == sum {
            return sum / 3.0;
        }
        sum = next;
    }
}
