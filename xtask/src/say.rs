//! Output of the commands on stdout.

/// Prints one line to stdout.
macro_rules! say {
    ($($text:tt)*) => {
        crate::say::print(&(format!($($text)*) + "\n"))
    };
}

#[expect(clippy::print_stdout, reason = "stdout carries the output of a command")]
pub(crate) fn print(text: &str) {
    print!("{text}");
}
