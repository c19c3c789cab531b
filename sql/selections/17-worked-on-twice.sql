-- 17. Was any notice ever worked on twice at once? Two holders of the same notice whose times
-- overlap, one of them exclusive. overlaps must be 0.
-- Change: nothing.
WITH held AS (
  SELECT * FROM lock_history WHERE resource LIKE 'notices/%'
), overlap AS (
  SELECT a.token
    FROM held AS a
    JOIN held AS b
      ON b.resource = a.resource AND b.token > a.token
     AND (a.mode = 'exclusive' OR b.mode = 'exclusive')
     AND b.acquired_at < coalesce(a.ended_at, now())
     AND a.acquired_at < coalesce(b.ended_at, now())
)
SELECT (SELECT count(*) FROM held) AS times_held,
       (SELECT count(DISTINCT resource) FROM held) AS notices,
       (SELECT count(*) FROM overlap) AS overlaps;
