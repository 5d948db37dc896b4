-- A carrier's flights to one destination: an entity of two columns.
CREATE FEATURE VIEW flights_carrier_dest AS
SELECT carrier,
       dest,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '1 hour')   AS deps_1h,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS deps_24h,
       count(*)                                                         AS deps_7d,
       count(*) FILTER (WHERE dep_delay > 15) AS late_7d,
       avg(dep_delay)                         AS avg_delay_7d,
       min(dep_delay)                         AS min_delay_7d,
       max(dep_delay)                         AS max_delay_7d,
       count(DISTINCT origin)                 AS origins_7d,
       count(DISTINCT tailnum)                AS planes_7d,
       last_value(origin ORDER BY event_time, flight_id) AS last_origin_7d,
       last_value(flight ORDER BY event_time, flight_id) AS last_flight_7d
FROM departures
WHERE event_time > now() - INTERVAL '7 days'
GROUP BY carrier, dest;
