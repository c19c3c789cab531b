-- 9. Everything that failed yesterday with one class of error, except what somebody has locked.
-- Change: the class (column error_code), the day.
SELECT DISTINCT a.source_id AS notice_id, a.transform, a.error_code
  FROM attempts AS a
  JOIN notices AS n ON n.notice_id = a.source_id
 WHERE a.source_table = 'notices' AND a.outcome = 'failed' AND a.error_code = 'no-mapping'
   AND CAST(a.ended_at AS DATE) = current_date - INTERVAL '1 day'
   AND NOT n.locked
 ORDER BY notice_id;
