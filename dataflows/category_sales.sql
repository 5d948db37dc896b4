-- What sells, by category: each event is joined with its item first, then grouped by a column of the item. The join is
-- an inner one: an event whose item is not in the table counts nowhere, until the item appears.
--
-- resolution: inside the windows, event times are rounded down to the minute. A busy category then keeps one partial
-- result a minute and not one entry an event. Without it, a window is exact to the microsecond.
CREATE FEATURE VIEW category_sales
WITH (resolution = '1 minute', owner = 'merchandising', description = 'what sells, by category')
AS
SELECT i.category,
       count(*)     FILTER (WHERE c.ts > now() - INTERVAL '1 hour')   AS sales_1h,
       count(*)     FILTER (WHERE c.ts > now() - INTERVAL '24 hours') AS sales_24h,
       count(*)                                                       AS sales_7d,
       sum(c.price) FILTER (WHERE c.ts > now() - INTERVAL '24 hours') AS revenue_24h,
       sum(c.price)                                                   AS revenue_7d,
       avg(c.price)                                                   AS avg_price_7d,
       stddev(c.price)                                                AS stddev_price_7d,
       avg(c.price - i.price)                                         AS avg_over_list_price_7d,
       first_value(c.item_id ORDER BY c.ts)                           AS first_item_7d,
       last_value(c.item_id ORDER BY c.ts)                            AS last_item_7d
FROM clicks AS c
JOIN items AS i ON i.item_id = c.item_id
WHERE c.kind = 'purchase' AND c.ts > now() - INTERVAL '7 days'
GROUP BY i.category;
