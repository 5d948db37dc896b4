-- How an item is doing, over an hour, a day and a week, and how well a look at it turns into more.
--
-- Around the aggregates there may be any expression: it is evaluated when somebody asks. nullif keeps a division by
-- no views from being one by zero; coalesce gives an item that nobody looked at a rate of 0 instead of null.
CREATE FEATURE VIEW item_popularity
WITH (entity = 'item_id', freshness = '1 second', owner = 'recs', description = 'how much attention an item gets')
AS
SELECT item_id,
       count(*) FILTER (WHERE kind = 'view' AND ts > now() - INTERVAL '1 hour')   AS views_1h,
       count(*) FILTER (WHERE kind = 'view' AND ts > now() - INTERVAL '24 hours') AS views_24h,
       count(*) FILTER (WHERE kind = 'view')                                      AS views_7d,
       count(DISTINCT user_id) FILTER (WHERE ts > now() - INTERVAL '24 hours')    AS visitors_24h,
       count(*) FILTER (WHERE kind = 'purchase')                                  AS purchases_7d,
       -- Clicked through: of the looks at the item in the last 24 hours, the share that put it into a cart.
       coalesce(
         CAST(count(*) FILTER (WHERE kind = 'cart' AND ts > now() - INTERVAL '24 hours') AS DOUBLE)
           / nullif(count(*) FILTER (WHERE kind = 'view' AND ts > now() - INTERVAL '24 hours'), 0),
         0.0)                                                                     AS ctr_24h,
       coalesce(
         CAST(count(*) FILTER (WHERE kind = 'purchase') AS DOUBLE)
           / nullif(count(*) FILTER (WHERE kind = 'view'), 0),
         0.0)                                                                     AS conversion_7d,
       min(price) FILTER (WHERE kind = 'purchase')                                AS min_price_paid_7d,
       max(price) FILTER (WHERE kind = 'purchase')                                AS max_price_paid_7d
FROM clicks
WHERE ts > now() - INTERVAL '7 days'
GROUP BY item_id;
