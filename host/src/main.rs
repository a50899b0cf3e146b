//! The `taskhost` command: everything it does stands in [`taskhost::cli`].

fn main() -> std::process::ExitCode {
    taskhost::cli::main()
}
