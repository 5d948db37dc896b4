#!/usr/bin/env python3
"""Compares what `headwater history` wrote with the expected values of a real data set.

    python3 tests/real/compare.py EXPECTED.csv OUT.csv [--skip COLUMN,...]

EXPECTED is one of the data's `expected/<view>.csv`; OUT is the same view asked for the rows of
`expected/probes/<view>.csv`. Headwater's windows are open below and closed above, so only the expected rows of
bounds `(]` count. Rows are matched by `probe_id`; every column that both files have is compared, the copied label
columns too. Doubles may differ by one part in 10^9; everything else, decimals, times and nulls included, is equal as
text. (A null is an empty field, an empty string is `""`: they differ.)

Expected columns that OUT lacks are listed. Those of LATER, and those of --skip, are not held against it.

Exit code: 0 all equal; 1 something differs, or a row or a column is missing; 2 a file cannot be read.
"""

import argparse
import math
import re
import sys
from pathlib import Path

BOUNDS = "(]"
RELATIVE_TOLERANCE = 1e-9

# Feature columns that no view has yet: they need a second stream, a look-up as of a time, or a join after the grouping.
LATER = {
    "retail_customer": ["last_name_at_event", "last_name_at_probe"],
    "flights_tail": [
        "arrs_24h", "arrs_7d", "avg_arr_delay_7d", "air_minutes_7d", "last_arrived_at_7d", "deps_minus_arrs_7d",
        "plane_manufacturer", "plane_model",
    ],
    "flights_origin": [
        "avg_wind_at_dep_24h", "low_visibility_deps_7d", "avg_delay_low_visibility_7d",
        "wx_time", "wx_temp", "wx_wind_speed", "wx_visib", "wx_pressure",
    ],
    "flights_carrier_dest": ["airline_name", "dest_name", "dest_alt"],
    "recs_item": ["item_feature_0", "item_feature_1"],
    "taxi_pickup_zone": ["pu_zone", "pu_borough"],
}

FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|\Z)')
INTEGER = re.compile(r"-?\d+\Z")
NUMBER = re.compile(r"(?:-?\d+(?:\.(\d+))?(?:[eE][-+]?\d+)?|NaN|-?Infinity|-?inf|nan)\Z")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("expected", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--skip", default="", help="expected columns that OUT may lack, and that are not compared")
    options = arguments.parse_args()
    skip = [column for column in options.skip.split(",") if column]
    try:
        expected_columns, expected = read(options.expected)
        out_columns, out = read(options.out)
    except (OSError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2

    problems = []
    compared = [c for c in expected_columns if c in out_columns and c != "bounds" and c not in skip]
    missing = [c for c in expected_columns if c not in out_columns and c != "bounds"]
    later = [c for c in missing if c in skip or c in LATER.get(options.expected.stem, [])]
    problems += [f"column {c}: missing" for c in missing if c not in later]

    wanted = {row["probe_id"]: row for row in expected if row["bounds"] == BOUNDS}
    found = {}
    for row in out:
        if row["probe_id"] in found:
            problems.append(f"probe {row['probe_id']}: more than one row")
        found[row["probe_id"]] = row
    problems += [f"probe {probe}: no row" for probe in wanted if probe not in found]
    problems += [f"probe {probe}: not expected" for probe in found if probe not in wanted]
    if not wanted:
        problems.append(f"{options.expected} has no rows of bounds {BOUNDS}")

    for column in compared:
        same = same_double if is_double([row[column] for row in expected]) else same_text
        for probe, row in wanted.items():
            if probe in found and not same(row[column], found[probe][column]):
                problems.append(
                    f"probe {probe} ({row['kind']}, as of {row['as_of']}) {column}: "
                    f"expected {show(row[column])}, got {show(found[probe][column])}"
                )

    for problem in problems:
        print(problem)
    if later:
        print(f"not compared: {', '.join(later)}")
    print(f"{options.expected.stem}: {len(wanted)} probes, {len(compared)} columns, {len(problems)} problems")
    return 1 if problems else 0


def read(path):
    """The columns of a CSV file, and its rows as dictionaries; None is an unquoted empty field.

    Not the `csv` module: it cannot tell null from the empty string.
    """
    text = path.read_text(encoding="utf-8")
    records, record, position = [], [], 0
    while position < len(text):
        field = FIELD.match(text, position)
        if not field:
            raise ValueError(f"{path}: line {text.count(chr(10), 0, position) + 1} is not CSV")
        quoted, plain, end = field.groups()
        record.append(quoted.replace('""', '"') if quoted is not None else plain or None)
        if end != ",":
            records.append(record)
            record = []
        position = field.end()
    if record:  # the last line ends in a comma: one more, empty field
        records.append(record + [None])
    if not records or "probe_id" not in records[0]:
        raise ValueError(f"{path}: has no column probe_id")
    header, rows = records[0], records[1:]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"{path}: record {number} has {len(row)} fields, the header {len(header)}")
    return header, [dict(zip(header, row)) for row in rows]


def is_double(values):
    """Whether a column of expected values holds doubles: numbers with a point that do not all have one scale."""
    values = [value for value in values if value is not None]
    numbers = [NUMBER.match(value) for value in values]
    if not all(numbers) or all(INTEGER.match(value) for value in values):
        return False
    scales = {len(number.group(1) or "") for number in numbers}
    is_decimal = len(scales) == 1 and scales <= {2, 3}  # all money here has two or three places
    return not is_decimal


def same_text(expected, got):
    return expected == got


def same_double(expected, got):
    if expected == got or expected is None or got is None:
        return expected == got
    try:
        return math.isclose(float(expected), float(got), rel_tol=RELATIVE_TOLERANCE, abs_tol=0.0)
    except ValueError:
        return False


def show(value):
    return "null" if value is None else repr(value)


if __name__ == "__main__":
    sys.exit(main())
