//! The `taskhost` command: everything it does stands in [`taskhost::cli`].

/// An attempt makes and drops some hundred small things, on two runtimes: it costs a tenth less of the host than with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    taskhost::cli::main()
}
