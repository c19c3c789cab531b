-- 3a. The old selection "unnormalised". A notice that was not normalised has no form, version or
-- date of publication yet; when it came in is known all the same.
-- Change: the days.
SELECT notice_id, status, status_at
  FROM notices
 WHERE status = 'RAW'
   AND status_at >= TIMESTAMP '2026-01-05T00:00:00Z'
   AND status_at < TIMESTAMP '2026-02-05T00:00:00Z'
 ORDER BY notice_id;
