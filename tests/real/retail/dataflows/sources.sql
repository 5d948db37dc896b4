-- Order lines of a UK online gift shop (see README.md of the data): one stream, two tables.
--
-- The lines come in event-time order, many to the minute; `seq` tells those of one minute apart. Cancellations and
-- returns are lines of a negative quantity. A line may lack its customer, so may a price be zero or negative: no
-- column is checked beyond being there, because every line counts.
--
-- To run on live data, put FROM KAFKA (topic = '…', format = 'json') in place of a FROM FILE clause.

CREATE STREAM events (
  event_time  TIMESTAMP NOT NULL,
  seq         BIGINT NOT NULL,
  invoice_no  TEXT NOT NULL,
  stock_code  TEXT NOT NULL,
  description TEXT,
  quantity    BIGINT NOT NULL,
  unit_price  DECIMAL(12, 3) NOT NULL,      -- GBP
  customer_id BIGINT,
  country     TEXT NOT NULL
) EVENT TIME event_time
FROM FILE (path = '${DATA}/events.jsonl.gz', format = 'jsonl');

-- The shop's own names of countries; three of them are no country, and have no code.
CREATE TABLE country_alias (
  country TEXT,
  iso3    TEXT,
  PRIMARY KEY (country)
) FROM FILE (path = '${DATA}/country_alias.csv.gz', format = 'csv');

CREATE TABLE countries (
  iso3          TEXT,
  iso2          TEXT,
  name          TEXT,
  official_name TEXT,
  region        TEXT,
  sub_region    TEXT,
  currency      TEXT,
  PRIMARY KEY (iso3)
) FROM FILE (path = '${DATA}/countries.csv.gz', format = 'csv');
