-- 27. Notices by status, at the end of each of the last 30 days (that of today: now).
-- Change: the number of days, the table.
WITH days AS (
  SELECT CAST(value AS DATE) AS day,
         CAST(CAST(value AS DATE) + INTERVAL '1 day' AS TIMESTAMP) AT TIME ZONE 'UTC' AS ends_at
    FROM generate_series(CAST(current_date - INTERVAL '29 days' AS TIMESTAMP),
                         CAST(current_date AS TIMESTAMP), INTERVAL '1 day')
)
SELECT d.day, h.status, count(*) AS notices
  FROM days AS d
  JOIN status_history AS h
    ON h.source_table = 'notices'
   AND h.began_at < d.ends_at AND (h.ended_at IS NULL OR h.ended_at >= d.ends_at)
 GROUP BY d.day, h.status
 ORDER BY d.day, h.status;
