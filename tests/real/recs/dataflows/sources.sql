-- Recommendations shown by a fashion shop, and whether they were clicked (see README.md of the data).
--
-- There is no user id, only four hashed features of the user and an array of affinities, 34 numbers for men and 46
-- for women. An item id means another item under another policy or campaign, so the key of an item is all three.
--
-- To run on live data, put FROM KAFKA (topic = '…', format = 'json') in place of a FROM FILE clause.

CREATE STREAM impressions (
  event_time     TIMESTAMP NOT NULL,
  seq            BIGINT NOT NULL,
  policy         TEXT NOT NULL,
  campaign       TEXT NOT NULL,
  item_id        BIGINT NOT NULL,
  position       BIGINT,
  click          BIGINT,
  propensity     DOUBLE,
  user_feature_0 TEXT,
  user_feature_1 TEXT,
  user_feature_2 TEXT,
  user_feature_3 TEXT,
  affinity       DOUBLE[]
) EVENT TIME event_time
FROM FILE (path = '${DATA}/impressions.jsonl.gz', format = 'jsonl');

CREATE TABLE items (
  policy         TEXT,
  campaign       TEXT,
  item_id        BIGINT,
  item_feature_0 DOUBLE,
  item_feature_1 TEXT,
  item_feature_2 TEXT,
  item_feature_3 TEXT,
  PRIMARY KEY (policy, campaign, item_id)
) FROM FILE (path = '${DATA}/items.csv.gz', format = 'csv');
