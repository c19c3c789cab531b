//! The `sluicegate` program. Everything is in the library.

use std::process::ExitCode;

/// Commits make and free many arrays of some megabytes. The system's allocator gives such memory
/// back and asks for it again each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluicegate::cli::main()
}
