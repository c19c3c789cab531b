//! Every limit, with its unit, its default and why it is that.

use std::time::Duration;

/// The bounds within which a session, a worker and the ledger keep.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rows that one effect statement may touch. Chosen: ten times the design's bulk case, so
    /// that a forgotten WHERE on a large table stops before it schedules everything.
    pub effect_rows_max: usize,
    /// Memory of one statement in bytes. Chosen: leaves room for several on a small machine.
    pub statement_memory_bytes: usize,
    /// Disk that sorts and joins may spill to, in bytes, for the whole process.
    pub spill_bytes_max: u64,
    /// How often a commit is decided again after another process was first. Chosen: with
    /// jittered pauses, far more than contending processes on one store were seen to need.
    pub commit_retries_max: u32,
    /// How often UPDATE, DELETE or a merge is planned again when rows changed under it.
    pub write_retries_max: u32,
    /// Proposals that one commit may hold (group commit). Bounds the size of a ledger file and
    /// the time that the last proposal waits.
    pub commit_proposals_max: usize,
    /// Commits after which a checkpoint is written. Chosen: replay of so many small commits
    /// stays below a second on a local disk.
    pub checkpoint_commits: u64,
    /// Bytes of ledger files after which a checkpoint is written.
    pub checkpoint_bytes: u64,
    /// Events of ledger files after which a checkpoint is written. Chosen: two million are replayed
    /// in about a second.
    pub checkpoint_events: u64,
    /// By how much the clock of a process that commits may differ from the store's. Chosen: ten
    /// times what NTP leaves on a bad day, and small against a lease; a bucket's times have whole
    /// seconds.
    pub clock_skew_max: Duration,
    /// How long a process goes on before it compares its clock with the store's again.
    pub clock_check: Duration,
    /// How often a process looks for leases that are over, and reads what others committed, while
    /// nothing else makes it.
    pub ledger_watch: Duration,
    /// Lost races after which a commit asks for the next turn. Chosen: small commits that race get
    /// through by luck before; a large one never would.
    pub turn_races: u32,
    /// How long a turn lasts at most, and how long others wait for whoever has one. Chosen: the
    /// deciding and writing of a commit of ten million rows.
    pub turn: Duration,
    /// How long a ledger file that `history/` already holds is kept for slow readers.
    pub ledger_grace: Duration,
    /// Runs of a source table that start a merge of its small ones.
    pub merge_runs: usize,
    /// Rows below which a run counts as small.
    pub small_run_rows: u64,
    /// A lease without `ttl =>`, and of every running job.
    pub lease: Duration,
    /// The longest lease that may be asked for.
    pub lease_max: Duration,
    /// Crashes after which a job is discarded, for it may be what takes its workers down. Fewer use
    /// up no attempt.
    pub crashes_max: u16,
    /// How often a job may be handed back and wait again at once; then it pauses as after failures.
    /// Chosen: workers that are started anew with each release hand back that often in a bad hour.
    pub hand_backs_free: u16,
    /// Times that a job is handed back, with the last of which it is discarded. Chosen: a slow
    /// group may get through a few of its sources at a time, a day of pauses later nobody will.
    pub hand_backs_max: u16,
    /// Locks that one request may show. Chosen: as many as a statement takes in a selection.
    pub lock_tokens_max: usize,
    /// Jobs that one `claim_jobs` call may ask for.
    pub claim_jobs_max: usize,
    /// Bytes of one file that `read_text` and the `content` column read.
    pub file_bytes_max: u64,
    /// Files that one `list_files` call lists.
    pub list_files_max: usize,
    /// Bytes of one line that a command may answer.
    pub answer_line_bytes_max: usize,
    /// Bytes of log kept of one attempt; the rest is counted and dropped.
    pub log_bytes_max: u64,
    /// How long a command has to end after it was asked to, before it is killed.
    pub kill_grace: Duration,
    /// How often a worker that has nothing to do looks for jobs. Chosen: a job waits a quarter of a
    /// second at most, at the cost of four small reads of the store per second and worker.
    pub worker_poll: Duration,
    /// How often a worker looks whether somebody cancelled what it runs. Chosen: whoever cancels
    /// still watches when the command ends, at the cost of one small read per second and worker.
    pub worker_watch: Duration,
    /// How often in a row a worker tries to claim while the store does not answer, with pauses
    /// that grow by `worker_poll` each time.
    pub worker_retries_max: u32,
    /// How long the end of a process waits for workers to hand back what runs.
    pub shutdown_wait: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// Statements that a server runs at once; the next one is told to come back. Chosen: each
    /// may hold memory, and two cores are busy with far fewer.
    pub server_statements_max: usize,
    /// Statements of one user that run at once on a server without anybody waiting for them; also
    /// those whose kept rows are sent to the user at once.
    pub server_background_max: usize,
    /// Bytes of the body of one request. Chosen: an INSERT of some ten thousand rows.
    pub server_body_bytes_max: usize,
    /// Bytes of the tables that come with one request, as sent and as decoded. Chosen: some
    /// million rows of a data frame.
    pub server_upload_bytes_max: usize,
    /// Bytes of one gRPC message, which is in memory before it can be counted. Chosen: a data
    /// frame that a client sends as one batch.
    pub server_message_bytes_max: usize,
    /// Bytes of the tables that all requests of a server hold at once.
    pub server_uploads_bytes_max: usize,
    /// Bytes of one file that a worker reads or writes through a server. Chosen: far more than a
    /// source document has. Only pieces of it are in memory.
    pub server_file_bytes_max: u64,
    /// Bytes of all files that one attempt stores through a server.
    pub server_attempt_bytes_max: u64,
    /// Records of ended statements that a server keeps.
    pub server_records_max: usize,
    /// Bytes of rows that a server keeps of one ended statement.
    pub server_result_bytes_max: usize,
    /// Bytes of rows that a server keeps of all ended statements.
    pub server_results_bytes_max: usize,
    /// How long a server keeps the record and the rows of an ended statement.
    pub server_keep: Duration,
    /// How long a ticket can be fetched. Chosen: a client fetches it at once, or after a retry.
    pub server_ticket_keep: Duration,
    /// Bytes of a ticket over HTTP, where it is part of the address. Chosen: what HTTP/2 clients
    /// and proxies take, less the other headers.
    pub server_ticket_bytes_max: usize,
    /// How long a client may neither send its body on nor take rows. Chosen: one that works on the
    /// rows that it has takes the next ones before.
    pub server_stall_max: Duration,
    /// The longest time that `Prefer: wait` waits.
    pub server_wait_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            effect_rows_max: 10_000_000,
            statement_memory_bytes: 8 << 30,
            spill_bytes_max: 20 << 30,
            commit_retries_max: 100,
            write_retries_max: 10,
            commit_proposals_max: 4096,
            checkpoint_commits: 512,
            checkpoint_bytes: 256 << 20,
            checkpoint_events: 2_000_000,
            clock_skew_max: Duration::from_secs(10),
            clock_check: Duration::from_secs(600),
            ledger_watch: Duration::from_secs(2),
            turn_races: 3,
            turn: Duration::from_secs(30),
            ledger_grace: Duration::from_secs(600),
            merge_runs: 16,
            small_run_rows: 100_000,
            lease: Duration::from_secs(60),
            lease_max: Duration::from_secs(7 * 24 * 3600),
            crashes_max: 5,
            hand_backs_free: 5,
            hand_backs_max: 1_000,
            lock_tokens_max: 100_000,
            claim_jobs_max: 100_000,
            file_bytes_max: 64 << 20,
            list_files_max: 10_000_000,
            answer_line_bytes_max: 16 << 20,
            log_bytes_max: 16 << 20,
            kill_grace: Duration::from_secs(5),
            worker_poll: Duration::from_millis(250),
            worker_watch: Duration::from_secs(1),
            worker_retries_max: 20,
            shutdown_wait: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(3600),
            server_statements_max: 64,
            server_background_max: 16,
            server_body_bytes_max: 16 << 20,
            server_upload_bytes_max: 256 << 20,
            server_message_bytes_max: 64 << 20,
            server_uploads_bytes_max: 1 << 30,
            server_file_bytes_max: 4 << 30,
            server_attempt_bytes_max: 16 << 30,
            server_records_max: 10_000,
            server_result_bytes_max: 64 << 20,
            server_results_bytes_max: 512 << 20,
            server_keep: Duration::from_secs(600),
            server_ticket_keep: Duration::from_secs(900),
            server_ticket_bytes_max: 12 << 10,
            server_stall_max: Duration::from_secs(120),
            server_wait_max: Duration::from_secs(300),
        }
    }
}
