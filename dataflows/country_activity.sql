-- Where visitors come from. A LEFT JOIN: a visitor who is not in `users` still counts, in the group whose country is
-- null. That group can be seen in SQL; a request names its entity, and so finds no null.
CREATE FEATURE VIEW country_activity
WITH (owner = 'merchandising', description = 'activity by the country of the user')
AS
SELECT u.country,
       count(*) FILTER (WHERE c.ts > now() - INTERVAL '1 hour')                  AS events_1h,
       count(*)                                                                  AS events_24h,
       count(DISTINCT c.user_id) FILTER (WHERE c.ts > now() - INTERVAL '1 hour') AS visitors_1h,
       count(DISTINCT c.user_id)                                                 AS visitors_24h,
       sum(c.price) FILTER (WHERE c.kind = 'purchase')                           AS revenue_24h,
       var(c.price) FILTER (WHERE c.kind = 'purchase')                           AS var_price_24h
FROM clicks AS c
LEFT JOIN users AS u ON u.user_id = c.user_id
WHERE c.ts > now() - INTERVAL '24 hours'
GROUP BY u.country;
