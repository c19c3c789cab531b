-- Tour, 3 of 8: schedule jobs and run them. Needs files 1 and 2.

-- The selection of the preview, without PREVIEW. The answer is the job id, or NULL where the
-- effect was refused; all jobs of a statement are a batch, which may have a name.
SELECT notice_id, schedule_job('normalise', notice_id, batch => 'first') AS job_id
  FROM notices WHERE form IN ('F03', 'F06')
 ORDER BY notice_id;

-- Of one transform, a source has one live job at most. Scheduling again returns that one, so
-- the same statement may be sent twice without harm.
SELECT notice_id, schedule_job('normalise', notice_id) AS job_id FROM notices
 WHERE status = 'RAW' ORDER BY notice_id;

SELECT job_id, source_id, transform, batch_id, state, attempt FROM jobs ORDER BY job_id;

-- A worker inside a statement: it works until no job is due, and tells how attempts ended.
-- With wait => it also waits for the retries that come due within that time.
-- `sluicegate work` is the same as a process of its own; any number may share a store.
CALL run_jobs('normalise', wait => '10 seconds');

-- A finished job, its source's new status and new columns are one commit. The source that
-- failed kept its row and its status.
SELECT notice_id, title, status, last_job_id FROM notices ORDER BY notice_id;

SELECT job_id, source_id, state, attempt, error FROM jobs ORDER BY job_id;
