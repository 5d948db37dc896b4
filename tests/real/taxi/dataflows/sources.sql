-- Trips of New York's green taxis in January 2024 (see README.md of the data).
--
-- A trip is known only when it ends. Asked about pick-ups, its event time is the pick-up and it arrives at the
-- drop-off, up to a day later; asked about drop-offs, it is on time. So one file is two streams, each with the
-- columns its views read. Amounts are dollars, a reversed fare negative; distances are miles.
--
-- To run on live data, put FROM KAFKA (topic = '…', format = 'json') in place of a FROM FILE clause.

CREATE STREAM trips (
  pickup_time     TIMESTAMP NOT NULL,
  dropoff_time    TIMESTAMP NOT NULL,
  seq             BIGINT NOT NULL,
  pu_location_id  BIGINT NOT NULL,
  do_location_id  BIGINT NOT NULL,
  passenger_count BIGINT,
  trip_distance   DECIMAL(12, 2),
  fare_amount     DECIMAL(12, 2),
  total_amount    DECIMAL(12, 2)
) EVENT TIME pickup_time ARRIVAL TIME dropoff_time
FROM FILE (path = '${DATA}/trips.jsonl.gz', format = 'jsonl');

CREATE STREAM dropoffs (
  dropoff_time   TIMESTAMP NOT NULL,
  seq            BIGINT NOT NULL,
  pu_location_id BIGINT NOT NULL,
  do_location_id BIGINT NOT NULL,
  trip_distance  DECIMAL(12, 2),
  tip_amount     DECIMAL(12, 2),
  total_amount   DECIMAL(12, 2)
) EVENT TIME dropoff_time
FROM FILE (path = '${DATA}/trips.jsonl.gz', format = 'jsonl');

CREATE TABLE zones (
  location_id  BIGINT,
  borough      TEXT,
  zone         TEXT,
  service_zone TEXT,
  PRIMARY KEY (location_id)
) FROM FILE (path = '${DATA}/zones.csv.gz', format = 'csv');
