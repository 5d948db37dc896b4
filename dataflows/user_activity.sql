-- What a user has been doing lately: the features a recommender asks for when the user opens the home page.
--
-- A feature view is one query in which now() is the moment somebody asks. `ts > now() - INTERVAL '1 hour'` is a window:
-- an event is in it from when it arrives until exactly an hour after it happened. Each feature may have its own, in
-- FILTER; the one in WHERE bounds them all. Asked today, now() is the present; asked for a training set, it is the time
-- of each label, and the same query answers.
--
-- GROUP BY names the entity: here a user. Of a user nobody has heard of, the counts are 0 and everything else is null.
--
--   headwater get user_activity 42
--   curl localhost:6566/v1/views/user_activity/42
CREATE FEATURE VIEW user_activity
WITH (entity = 'user_id', freshness = '1 second', owner = 'recs', description = 'what a user has been doing lately')
AS
SELECT user_id,
       count(*)   FILTER (WHERE kind = 'view'     AND ts > now() - INTERVAL '1 hour')   AS views_1h,
       count(*)   FILTER (WHERE kind = 'view'     AND ts > now() - INTERVAL '24 hours') AS views_24h,
       count(*)   FILTER (WHERE kind = 'cart'     AND ts > now() - INTERVAL '1 hour')   AS carts_1h,
       count(*)   FILTER (WHERE kind = 'purchase' AND ts > now() - INTERVAL '7 days')   AS purchases_7d,
       count(DISTINCT item_id) FILTER (WHERE ts > now() - INTERVAL '24 hours')          AS items_24h,
       -- Sums of doubles are exact and do not depend on the order of the events.
       sum(price) FILTER (WHERE kind = 'purchase' AND ts > now() - INTERVAL '7 days')   AS spend_7d,
       avg(price) FILTER (WHERE kind = 'view'     AND ts > now() - INTERVAL '7 days')   AS avg_viewed_price_7d,
       bool_or(kind = 'purchase') FILTER (WHERE ts > now() - INTERVAL '24 hours')       AS bought_24h,
       -- Of two events with one ts, the later is the one with the greater offset: always the same one.
       last_value(item_id ORDER BY ts)                                                  AS last_item,
       last_value(item_id ORDER BY ts) FILTER (WHERE kind = 'purchase')                 AS last_bought_item,
       max(ts)                                                                          AS last_seen
FROM clicks
WHERE ts > now() - INTERVAL '30 days'
GROUP BY user_id;
