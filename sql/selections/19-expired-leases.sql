-- 19. Leases that expired, by worker or owner.
-- Change: nothing, or add a day.
SELECT owner, count(*) AS expired, count(job_id) AS of_jobs, max(ended_at) AS last_at
  FROM lock_history
 WHERE ending = 'expired'
 GROUP BY owner
 ORDER BY expired DESC, owner;
