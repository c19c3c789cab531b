-- Tour, 4 of 8: locks. Needs files 1 to 3.

-- A lock is a lease on a resource, which is a path. Whoever holds notices/104-2024 keeps workers
-- and other users away from that source; a lock on notices covers all of them. It ends when it
-- is released or when its time is over. The answer is the fencing token.
SELECT acquire_lock('notices/104-2024', ttl => '1 hour', owner => 'ben', reason => 'reads it')
    AS token;

SELECT resource, mode, owner, token, reason, job_id FROM locks;

-- A second holder gets NULL. The reason is an event, and so is every other refusal.
SELECT acquire_lock('notices/104-2024', owner => 'carla') AS token;
SELECT acquire_lock('notices', owner => 'carla') AS token;

SELECT function, outcome, resource, owner AS in_the_way FROM events
 WHERE kind = 'effect-refused' AND function = 'acquire_lock' ORDER BY version;

-- The column locked makes selections that leave alone what somebody else works on.
SELECT notice_id, locked FROM notices WHERE locked ORDER BY notice_id;

-- Shared locks exclude only exclusive ones.
SELECT owner, acquire_lock('notices/105-2024', mode => 'shared', ttl => '1 hour', owner => owner)
    AS token
  FROM (VALUES ('ben'), ('carla')) AS readers (owner) ORDER BY owner;

-- To renew or release, show the token. A wrong one is refused: FALSE.
SELECT renew_lock('notices/104-2024', 0, INTERVAL '1 hour') AS renewed;
SELECT resource, owner, release_lock(resource, token) AS released FROM locks ORDER BY token;

-- force => true releases a lock whose holder is gone. There is none here.
SELECT release_lock('notices/104-2024', force => true) AS released;

-- Who held what, and how it ended: explicit locks and running jobs alike.
SELECT resource, mode, owner, token, job_id, ending FROM lock_history ORDER BY token;
