-- How an airport is running: three groups only, some 2,000 departures a week each.
CREATE FEATURE VIEW flights_origin AS
SELECT origin,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '1 hour')   AS deps_1h,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS deps_24h,
       count(*)                                                         AS deps_7d,
       avg(dep_delay) FILTER (WHERE event_time > now() - INTERVAL '1 hour')   AS avg_delay_1h,
       avg(dep_delay) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS avg_delay_24h,
       avg(dep_delay)                                                         AS avg_delay_7d,
       min(dep_delay) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS min_delay_24h,
       max(dep_delay) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS max_delay_24h,
       count(DISTINCT carrier) FILTER (WHERE event_time > now() - INTERVAL '1 hour')   AS carriers_1h,
       count(DISTINCT tailnum) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS planes_24h,
       count(DISTINCT dest)                                                            AS dests_7d,
       last_value(carrier ORDER BY event_time, flight_id)
         FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS last_carrier_24h,
       last_value(flight_id ORDER BY event_time, flight_id)
         FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS last_flight_id_24h
FROM departures
WHERE event_time > now() - INTERVAL '7 days'
GROUP BY origin;
