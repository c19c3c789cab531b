-- Tour, 8 of 8: workers outside. Needs files 1 to 7.

-- Any program that can send SQL can be a worker: it claims jobs, works, and reports. Here the
-- worker is played by these statements.
CREATE TRANSFORM publish ON notices
  FROM STATUS 'NORMALISED' TO STATUS 'PUBLISHED', 'WITHHELD'
  WITH (max_attempts 1, lease '10 minutes')
  USING OUTSIDE WORKER;

SELECT notice_id, schedule_job('publish', notice_id) AS job_id FROM notices
 WHERE status = 'NORMALISED' ORDER BY notice_id;

-- Claimed jobs are running and their sources are locked when the rows arrive. The token goes
-- with every report.
SELECT count(*) AS locked FROM notices WHERE locked;
CALL claim_jobs('robot-1', transforms => 'publish', max => 2);
SELECT count(*) AS locked FROM notices WHERE locked;

-- Nobody else can take what robot-1 holds.
SELECT acquire_lock('notices/103-2024') AS token;

-- A heartbeat renews the lease. Where it stays away, the lease runs out, and somebody else gets
-- the job. The worker keeps job id and token from the claim; here they come from table jobs.
SELECT job_id, heartbeat(job_id, token) AS answer FROM jobs
 WHERE state = 'running' ORDER BY job_id;

-- Success, with one of the statuses that the transform may set, and values for columns.
SELECT job_id, complete_job(job_id, token, status => 'WITHHELD',
                            columns => '{"title": "withheld"}') AS done
  FROM jobs WHERE state = 'running' ORDER BY job_id LIMIT 1;

-- Failure, with a reason for people and one for programs.
SELECT job_id, fail_job(job_id, token, 'the portal is closed', code => 'portal-closed') AS done
  FROM jobs WHERE state = 'running' ORDER BY job_id;

-- Whoever reports with an older token is refused, and that is recorded.
SELECT complete_job(1, 1) AS done;

SELECT notice_id, title, status, locked FROM notices ORDER BY notice_id;
SELECT name, completed, failed, crashed FROM workers ORDER BY name;

-- Was a source ever held by two jobs at once? The ledger knows every start and end.
SELECT count(*) AS overlaps
  FROM attempts AS a JOIN attempts AS b
    ON b.source_table = a.source_table AND b.source_id = a.source_id AND b.token > a.token
 WHERE a.ended_at IS NULL OR b.started_at < a.ended_at;
