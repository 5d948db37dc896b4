-- Departures from New York's three airports in 2013 (see README.md of the data), and the planes that flew them.
--
-- The file is in the order of the departures themselves; `flight_id` tells those of one minute apart. Delays are
-- minutes and negative when early; distances are miles.
--
-- To run on live data, put FROM KAFKA (topic = '…', format = 'json') in place of a FROM FILE clause.

CREATE STREAM departures (
  event_time TIMESTAMP NOT NULL,
  flight_id  BIGINT NOT NULL,
  sched_time TIMESTAMP,
  dep_delay  BIGINT,
  carrier    TEXT NOT NULL,
  flight     BIGINT,
  tailnum    TEXT,
  origin     TEXT NOT NULL,
  dest       TEXT NOT NULL,
  distance   BIGINT
) EVENT TIME event_time
FROM FILE (path = '${DATA}/departures.jsonl.gz', format = 'jsonl');

-- One departure in seven is by a plane that is not in this table; most rows of it lack the speed.
CREATE TABLE planes (
  tailnum      TEXT,
  "year"       BIGINT,
  "type"       TEXT,
  manufacturer TEXT,
  model        TEXT,
  engines      BIGINT,
  seats        BIGINT,
  speed        BIGINT,
  engine       TEXT,
  PRIMARY KEY (tailnum)
) FROM FILE (path = '${DATA}/planes.csv.gz', format = 'csv');
