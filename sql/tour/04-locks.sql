-- Tour, 4 of 8: locks. Needs files 1 to 3.

-- A lock is a lease on a resource, which is a path. Whoever holds notices/104-2024 keeps workers
-- and all other programs away from that source; a lock on notices covers all of them, and keeps
-- new rows of others out. It ends when it is released or when its time is over. The answer is the
-- fencing token.
SELECT acquire_lock('notices/104-2024', ttl => '1 hour', reason => 'reads it') AS token;

SELECT resource, mode, owner, token, reason, job_id FROM locks;

-- The lock belongs to its token, under the name that took it. This session shows the tokens that
-- it was given, so it may change what it holds. Another program, of the same user as well, may not;
-- sluicegate --lock-token N, or the header Sluicegate-Lock-Tokens, shows a token elsewhere.
SELECT notice_id, set_status('notices', notice_id, status || '_READ') AS changed
  FROM notices WHERE notice_id = '104-2024';
SELECT notice_id, set_status('notices', notice_id, replace(status, '_READ', '')) AS changed_back
  FROM notices WHERE notice_id = '104-2024';

-- Who asks for what is held gets NULL. The reason is an event, and so is every other refusal.
SELECT acquire_lock('notices/104-2024') AS token;
SELECT acquire_lock('notices') AS token;

SELECT function, outcome, resource, owner AS in_the_way FROM events
 WHERE kind = 'effect-refused' AND function = 'acquire_lock' ORDER BY version;

-- The column locked makes selections that leave alone what somebody else works on.
SELECT notice_id, locked FROM notices WHERE locked ORDER BY notice_id;

-- Shared locks exclude only exclusive ones.
SELECT reason, acquire_lock('notices/105-2024', mode => 'shared', ttl => '1 hour', reason => reason)
    AS token
  FROM (VALUES ('ben reads it'), ('carla reads it')) AS readers (reason) ORDER BY reason;

-- A name that is no table begins with @: programs that agree on it take turns.
SELECT acquire_lock('@nightly-import', ttl => '1 hour') AS token;

-- To renew or release, give the token. A wrong one, or that of somebody else, is refused: FALSE.
SELECT renew_lock('notices/104-2024', 0, INTERVAL '1 hour') AS renewed;
SELECT resource, owner, release_lock(resource, token) AS released FROM locks ORDER BY token;

-- force => true releases a lock whose holder is gone, and the ledger says so. There is none here.
SELECT release_lock('notices/104-2024', force => true) AS released;

-- Who held what, and how it ended: explicit locks and running jobs alike.
SELECT resource, mode, owner, token, job_id, ending FROM lock_history ORDER BY token;
