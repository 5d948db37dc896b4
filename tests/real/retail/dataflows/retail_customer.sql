-- What a customer bought. `lines_all` and `spend_all` have no window, so the view has no WHERE on time and each
-- feature says its own window.
CREATE FEATURE VIEW retail_customer AS
SELECT customer_id,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '1 hour')   AS lines_1h,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS lines_24h,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '7 days')   AS lines_7d,
       count(DISTINCT invoice_no) FILTER (WHERE event_time > now() - INTERVAL '7 days')   AS invoices_7d,
       count(DISTINCT stock_code) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS items_24h,
       count(DISTINCT stock_code) FILTER (WHERE event_time > now() - INTERVAL '7 days')   AS items_7d,
       sum(quantity) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS qty_24h,
       sum(quantity) FILTER (WHERE event_time > now() - INTERVAL '7 days')   AS qty_7d,
       sum(quantity * unit_price) FILTER (WHERE event_time > now() - INTERVAL '1 hour')   AS spend_1h,
       sum(quantity * unit_price) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS spend_24h,
       sum(quantity * unit_price) FILTER (WHERE event_time > now() - INTERVAL '7 days')   AS spend_7d,
       avg(CAST(unit_price AS DOUBLE)) FILTER (WHERE event_time > now() - INTERVAL '7 days') AS avg_price_7d,
       min(unit_price) FILTER (WHERE event_time > now() - INTERVAL '7 days') AS min_price_7d,
       max(unit_price) FILTER (WHERE event_time > now() - INTERVAL '7 days') AS max_price_7d,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '7 days' AND quantity < 0) AS returns_7d,
       last_value(stock_code ORDER BY event_time, seq)
         FILTER (WHERE event_time > now() - INTERVAL '7 days') AS last_item_7d,
       last_value(unit_price ORDER BY event_time, seq)
         FILTER (WHERE event_time > now() - INTERVAL '7 days') AS last_price_7d,
       max(event_time) FILTER (WHERE event_time > now() - INTERVAL '7 days') AS last_time_7d,
       count(*)                   AS lines_all,
       sum(quantity * unit_price) AS spend_all
FROM events
GROUP BY customer_id;
