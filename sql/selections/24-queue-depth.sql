-- 24. Queue depth and the oldest waiting job per transform.
-- Change: nothing.
SELECT t.name AS transform, t.waiting, t.running, min(j.created_at) AS oldest_at,
       count(*) FILTER (WHERE j.state = 'available') AS due
  FROM transforms AS t
  LEFT JOIN jobs AS j
    ON j.transform = t.name AND j.ended_at IS NULL AND j.state <> 'running'
 GROUP BY t.name, t.waiting, t.running
 ORDER BY t.name;
