-- 20. Poison notices: the same error three times or more in the same transform.
-- Change: the number.
SELECT source_id AS notice_id, transform, error_code, error, count(*) AS times,
       max(ended_at) AS last_at
  FROM attempts
 WHERE source_table = 'notices' AND outcome = 'failed'
 GROUP BY source_id, transform, error_code, error
HAVING count(*) >= 3
 ORDER BY times DESC, notice_id;
