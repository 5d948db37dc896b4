-- A plane's departures. The seats it flew need its row of `planes`; a plane that has none still has departures.
CREATE FEATURE VIEW flights_tail AS
SELECT d.tailnum,
       count(*) FILTER (WHERE d.event_time > now() - INTERVAL '24 hours') AS deps_24h,
       count(*) FILTER (WHERE d.event_time > now() - INTERVAL '7 days')   AS deps_7d,
       sum(d.distance) FILTER (WHERE d.event_time > now() - INTERVAL '24 hours') AS miles_24h,
       sum(d.distance) FILTER (WHERE d.event_time > now() - INTERVAL '7 days')   AS miles_7d,
       avg(d.dep_delay) FILTER (WHERE d.event_time > now() - INTERVAL '24 hours') AS avg_dep_delay_24h,
       avg(d.dep_delay) FILTER (WHERE d.event_time > now() - INTERVAL '7 days')   AS avg_dep_delay_7d,
       min(d.dep_delay) FILTER (WHERE d.event_time > now() - INTERVAL '7 days')   AS min_dep_delay_7d,
       max(d.dep_delay) FILTER (WHERE d.event_time > now() - INTERVAL '7 days')   AS max_dep_delay_7d,
       count(DISTINCT d.dest) FILTER (WHERE d.event_time > now() - INTERVAL '7 days') AS dests_7d,
       last_value(d.dest ORDER BY d.event_time, d.flight_id)
         FILTER (WHERE d.event_time > now() - INTERVAL '7 days') AS last_dest_7d,
       last_value(d.dep_delay ORDER BY d.event_time, d.flight_id)
         FILTER (WHERE d.event_time > now() - INTERVAL '7 days') AS last_dep_delay_7d,
       sum(p.seats) FILTER (WHERE d.event_time > now() - INTERVAL '7 days') AS seats_flown_7d,
       count(*) AS deps_all
FROM departures AS d
LEFT JOIN planes AS p ON p.tailnum = d.tailnum
GROUP BY d.tailnum;
