-- 23. Throughput per hour and worker.
-- Change: add a day.
SELECT date_trunc('hour', ended_at) AS hour, worker,
       count(*) FILTER (WHERE outcome = 'completed') AS completed,
       count(*) FILTER (WHERE outcome = 'failed') AS failed
  FROM attempts
 WHERE ended_at IS NOT NULL
 GROUP BY hour, worker
 ORDER BY hour, worker;
