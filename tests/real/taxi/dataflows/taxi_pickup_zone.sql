-- Demand where trips begin. `zones` is joined twice: for where the trip began, and for where it went.
CREATE FEATURE VIEW taxi_pickup_zone AS
SELECT t.pu_location_id,
       count(*) FILTER (WHERE t.pickup_time > now() - INTERVAL '1 hour')   AS pickups_1h,
       count(*) FILTER (WHERE t.pickup_time > now() - INTERVAL '24 hours') AS pickups_24h,
       count(*) FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days')   AS pickups_7d,
       sum(t.fare_amount) FILTER (WHERE t.pickup_time > now() - INTERVAL '24 hours')  AS fares_24h,
       avg(CAST(t.fare_amount AS DOUBLE))
         FILTER (WHERE t.pickup_time > now() - INTERVAL '24 hours')                   AS avg_fare_24h,
       sum(t.total_amount) FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days')   AS total_7d,
       min(t.fare_amount) FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days')    AS min_fare_7d,
       max(t.trip_distance) FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days')  AS max_distance_7d,
       count(DISTINCT t.do_location_id)
         FILTER (WHERE t.pickup_time > now() - INTERVAL '24 hours')                   AS dropoff_zones_24h,
       count(DISTINCT t.do_location_id)
         FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days')                     AS dropoff_zones_7d,
       sum(t.passenger_count)
         FILTER (WHERE t.pickup_time > now() - INTERVAL '24 hours')                   AS passengers_24h,
       count(*) FILTER (WHERE t.pickup_time > now() - INTERVAL '24 hours' AND t.passenger_count IS NULL)
         AS no_passenger_count_24h,
       count(*) FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days' AND zp.borough <> zd.borough)
         AS cross_borough_7d,
       last_value(zd.zone ORDER BY t.pickup_time, t.seq)
         FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days') AS last_dropoff_zone_7d,
       last_value(t.total_amount ORDER BY t.pickup_time, t.seq)
         FILTER (WHERE t.pickup_time > now() - INTERVAL '7 days') AS last_total_7d,
       count(*) AS pickups_all
FROM trips AS t
LEFT JOIN zones AS zp ON zp.location_id = t.pu_location_id
LEFT JOIN zones AS zd ON zd.location_id = t.do_location_id
GROUP BY t.pu_location_id;
