-- Who buys an item, and from where. The country of a line goes through the shop's own names to the code; both joins
-- are LEFT, because a line of an unknown country is still a sale.
CREATE FEATURE VIEW retail_item AS
SELECT e.stock_code,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '1 hour')   AS lines_1h,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS lines_24h,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '7 days')   AS lines_7d,
       count(DISTINCT e.customer_id) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS buyers_24h,
       count(DISTINCT e.customer_id) FILTER (WHERE e.event_time > now() - INTERVAL '7 days')   AS buyers_7d,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '7 days' AND e.customer_id IS NULL) AS anon_lines_7d,
       sum(e.quantity) FILTER (WHERE e.event_time > now() - INTERVAL '7 days')   AS qty_7d,
       avg(e.quantity) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS avg_qty_24h,
       sum(e.quantity * e.unit_price) FILTER (WHERE e.event_time > now() - INTERVAL '7 days') AS revenue_7d,
       min(e.unit_price) FILTER (WHERE e.event_time > now() - INTERVAL '7 days') AS min_price_7d,
       max(e.unit_price) FILTER (WHERE e.event_time > now() - INTERVAL '7 days') AS max_price_7d,
       count(DISTINCT e.country) FILTER (WHERE e.event_time > now() - INTERVAL '7 days') AS countries_7d,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '7 days' AND c.region = 'Europe') AS europe_lines_7d,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '7 days' AND c.iso3 IS NULL)
         AS unmatched_country_lines_7d,
       last_value(e.country ORDER BY e.event_time, e.seq)
         FILTER (WHERE e.event_time > now() - INTERVAL '7 days') AS last_country_7d,
       last_value(e.customer_id ORDER BY e.event_time, e.seq)
         FILTER (WHERE e.event_time > now() - INTERVAL '7 days') AS last_customer_7d,
       last_value(e.customer_id ORDER BY e.event_time, e.seq)
         FILTER (WHERE e.event_time > now() - INTERVAL '7 days' AND e.customer_id IS NOT NULL)
         AS last_known_customer_7d,
       count(*) AS lines_all
FROM events AS e
LEFT JOIN country_alias AS a ON a.country = e.country
LEFT JOIN countries     AS c ON c.iso3 = a.iso3
GROUP BY e.stock_code;
