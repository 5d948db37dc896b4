-- How the items of one kind do together: joined on a key of three columns, then grouped by a column of the table.
CREATE FEATURE VIEW recs_item_feature AS
SELECT i.item_feature_1,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '1 hour')   AS imps_1h,
       count(*) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS imps_24h,
       count(*)                                                           AS imps_7d,
       sum(e.click)                                                       AS clicks_7d,
       count(DISTINCT e.item_id) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours') AS items_24h,
       avg(i.item_feature_0) FILTER (WHERE e.event_time > now() - INTERVAL '24 hours')     AS avg_item_feature_0_24h,
       last_value(e.campaign ORDER BY e.event_time, e.seq) AS last_campaign_7d,
       last_value(e.item_id ORDER BY e.event_time, e.seq)  AS last_item_7d
FROM impressions AS e
JOIN items AS i ON i.policy = e.policy AND i.campaign = e.campaign AND i.item_id = e.item_id
WHERE e.event_time > now() - INTERVAL '7 days'
GROUP BY i.item_feature_1;
