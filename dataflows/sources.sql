-- Where the shop's data comes from: one stream of events, two tables that describe them.
--
-- A stream is append-only: things that happened. A table holds the newest row of each key: things as they are; a record
-- without a value deletes its key. The topics have the names of the sources. The brokers are not named here: they come
-- from --brokers or HEADWATER_KAFKA_BROKERS, and `headwater demo` brings its own.

-- What visitors do. EVENT TIME names the column that says when it happened: windows go by it, and not by when the
-- record arrived. A record that breaks a NOT NULL or a CHECK goes to the quarantine with the reason, and stops nothing:
-- `headwater quarantine list` shows it.
CREATE STREAM clicks (
  user_id BIGINT NOT NULL,
  item_id BIGINT NOT NULL,
  kind    TEXT   NOT NULL CHECK (kind IN ('view', 'cart', 'purchase')),
  price   DOUBLE CHECK (price >= 0),      -- what was paid, or would have been; may be missing
  ts      TIMESTAMP NOT NULL              -- RFC 3339 text, such as 2026-11-20T21:00:00.123456Z
) EVENT TIME ts
FROM KAFKA (topic = 'clicks', format = 'json');

-- Who they are.
CREATE TABLE users (
  user_id   BIGINT PRIMARY KEY,
  country   TEXT,
  signed_up TIMESTAMP
) FROM KAFKA (topic = 'users', format = 'json');

-- What is on sale. Avro, by the schema in schemas/items.avsc; an item that moves to another category takes the events
-- joined with it along.
CREATE TABLE items (
  item_id  BIGINT PRIMARY KEY,
  category TEXT,
  price    DOUBLE
) FROM KAFKA (topic = 'items', format = 'avro', schema = 'items.avsc');
