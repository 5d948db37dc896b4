-- A feature service is the list of features one model is served with, from as many views as it takes. One request reads
-- them all under one stamp, so the numbers belong together; a training set asked by the same name has the same columns.
--
--   curl localhost:6566/v1/features -d '{"service":"home_ranker","entities":{"user_id":[42,43],"item_id":[7,8]}}'
CREATE FEATURE SERVICE home_ranker AS user_activity, item_popularity(views_1h, ctr_24h);
