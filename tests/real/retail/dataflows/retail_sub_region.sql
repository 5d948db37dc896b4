-- Sales by part of the world: joined first, then grouped by a column of the joined table. Nothing reaches back
-- further than 7 days, so the view says so once, in WHERE, and its 7-day features need no FILTER.
CREATE FEATURE VIEW retail_sub_region AS
SELECT c.sub_region,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '1 hour')   AS lines_1h,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS lines_24h,
       count(*)                                                           AS lines_7d,
       sum(e.quantity * e.unit_price) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS spend_24h,
       sum(e.quantity * e.unit_price)                                                           AS spend_7d,
       count(DISTINCT e.customer_id) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS buyers_24h,
       count(DISTINCT e.customer_id)                                                           AS buyers_7d,
       max(e.unit_price)                                     AS max_price_7d,
       last_value(e.invoice_no ORDER BY e.event_time, e.seq) AS last_invoice_7d
FROM events AS e
JOIN country_alias AS a ON a.country = e.country
JOIN countries     AS c ON c.iso3 = a.iso3
WHERE e.event_time > now() - INTERVAL '7 days'
GROUP BY c.sub_region;
