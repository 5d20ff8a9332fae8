//! The command `tidegate`.

use std::process::ExitCode;

/// A message's buffers are made on one thread and freed on another, where glibc's allocator takes its arenas' locks:
/// they cost a tenth of the CPU, and its arenas grow with the threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::main()
}
