-- Trips by the borough they end in: joined first, then grouped by a column of the joined table.
CREATE FEATURE VIEW taxi_dropoff_borough AS
SELECT z.borough,
       count(*) FILTER (WHERE t.dropoff_time > now() - INTERVAL '1 hour')   AS dropoffs_1h,
       count(*) FILTER (WHERE t.dropoff_time > now() - INTERVAL '24 hours') AS dropoffs_24h,
       count(*)                                                             AS dropoffs_7d,
       sum(t.tip_amount) FILTER (WHERE t.dropoff_time > now() - INTERVAL '1 hour') AS tips_1h,
       sum(t.tip_amount)                                                           AS tips_7d,
       avg(CAST(t.trip_distance AS DOUBLE))
         FILTER (WHERE t.dropoff_time > now() - INTERVAL '1 hour')                       AS avg_distance_1h,
       max(t.total_amount) FILTER (WHERE t.dropoff_time > now() - INTERVAL '24 hours')   AS max_total_24h,
       min(t.total_amount) FILTER (WHERE t.dropoff_time > now() - INTERVAL '24 hours')   AS min_total_24h,
       count(DISTINCT t.pu_location_id)
         FILTER (WHERE t.dropoff_time > now() - INTERVAL '24 hours')                     AS pickup_zones_24h,
       last_value(t.pu_location_id ORDER BY t.dropoff_time, t.seq)                       AS last_pickup_zone_7d
FROM dropoffs AS t
JOIN zones AS z ON z.location_id = t.do_location_id
WHERE t.dropoff_time > now() - INTERVAL '7 days'
GROUP BY z.borough;
