-- 28. Lead time from registration to PUBLICLY_AVAILABLE, p50 and p95, by form type.
-- Change: the status that counts as the end.
WITH life AS (
  SELECT source_id, min(began_at) AS registered_at,
         min(began_at) FILTER (WHERE status = 'PUBLICLY_AVAILABLE') AS available_at
    FROM status_history
   WHERE source_table = 'notices'
   GROUP BY source_id
), lead AS (
  SELECT n.form_type,
         (date_part('epoch', l.available_at) - date_part('epoch', l.registered_at)) / 3600.0
           AS hours
    FROM life AS l
    JOIN notices AS n ON n.notice_id = l.source_id
   WHERE l.available_at IS NOT NULL
)
SELECT form_type, count(*) AS notices,
       round(approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY hours), 1) AS p50_hours,
       round(approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY hours), 1) AS p95_hours
  FROM lead
 GROUP BY form_type
 ORDER BY form_type;
