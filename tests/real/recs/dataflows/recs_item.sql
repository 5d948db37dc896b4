-- How an item does where it is shown. `weighted_clicks_7d` is the inverse-propensity estimate: a click counts for as
-- many impressions as it stands for.
CREATE FEATURE VIEW recs_item AS
SELECT policy,
       campaign,
       item_id,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '1 hour')   AS imps_1h,
       count(*) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS imps_24h,
       count(*)                                                         AS imps_7d,
       sum(click) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS clicks_24h,
       sum(click)                                                         AS clicks_7d,
       avg(click)                                                         AS ctr_7d,
       count(DISTINCT struct(user_feature_0, user_feature_1, user_feature_2, user_feature_3))
         FILTER (WHERE event_time > now() - INTERVAL '24 hours')                              AS user_kinds_24h,
       count(DISTINCT struct(user_feature_0, user_feature_1, user_feature_2, user_feature_3)) AS user_kinds_7d,
       avg(position) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS avg_position_24h,
       last_value(position ORDER BY event_time, seq)                         AS last_position_7d,
       last_value(propensity ORDER BY event_time, seq)                       AS last_propensity_7d,
       min(propensity) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS min_propensity_24h,
       max(propensity) FILTER (WHERE event_time > now() - INTERVAL '24 hours') AS max_propensity_24h,
       sum(CAST(click AS DOUBLE) / propensity)     AS weighted_clicks_7d,
       max(list_sum(affinity))                     AS max_affinity_sum_7d,
       max(event_time) FILTER (WHERE click = 1)    AS last_click_time_7d
FROM impressions
WHERE event_time > now() - INTERVAL '7 days'
GROUP BY policy, campaign, item_id;
