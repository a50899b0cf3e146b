//! `top` in a real terminal, which tmux plays: the screen, keys, and a broker that goes away and comes back.

use std::process::Command;

use crate::support::program::{Taskhost, until};

/// A terminal of its own server, which ends with it.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// `None`, and a word about it, where there is no tmux.
    fn open(host: &Taskhost, width: u32, height: u32, words: &[&str]) -> Option<Self> {
        let terminal = Self { socket: format!("taskhost-{}-{width}", std::process::id()) };
        let command = [&[env!("CARGO_BIN_EXE_taskhost")], words].concat().join(" ");
        let (width, height) = (width.to_string(), height.to_string());
        let mut tmux = Command::new("tmux");
        tmux.args(["-f", "/dev/null", "-L", &terminal.socket, "new-session", "-d", "-x", &width, "-y", &height, &command])
            .current_dir(host.dir());
        let Ok(status) = tmux.status() else {
            eprintln!("NOT RUN: tmux is not installed here (Debian: `apt-get install tmux`)");
            return None;
        };
        assert!(status.success(), "tmux begins");
        Some(terminal)
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(words).output().expect("tmux");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn until(&self, words: &str) {
        until(&format!("the screen says `{words}`: {}", self.screen()), || self.screen().contains(words));
    }

    fn is_over(&self) -> bool {
        self.tmux(&["list-sessions"]).is_empty()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_steers_and_outlives_its_broker() {
    let mut host = Taskhost::on_redis();
    let broker = host.redis_url().expect("an address");
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--in", "1h", "--id", "later"]);
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--queue", "mail"]);
    let Some(terminal) = Terminal::open(&host, 80, 24, &["top", "--every", "200ms", "--broker", &broker]) else { return };
    terminal.until("No worker lives");
    let screen = terminal.screen();
    assert!(screen.lines().count() <= 24 && screen.contains("mail") && screen.contains("1 ready"), "{screen}");
    terminal.press("p");
    terminal.until("default is paused");
    terminal.until("‖ paused");
    terminal.press("p");
    terminal.until("default goes on");
    for _ in 0..3 {
        terminal.press("s");
    }
    terminal.until("Tasks: scheduled");
    terminal.press("Tab");
    terminal.until("later");
    terminal.press("c");
    terminal.until("later: cancelled");
    assert!(host.ok(&["task", "show", "later"]).contains("cancelled"));

    host.kill_redis();
    terminal.until("the broker is away");
    assert!(terminal.screen().contains("mail"), "what was last known is shown");
    host.empty_redis();
    until("it is back", || !terminal.screen().contains("the broker is away"));
    terminal.press("q");
    until("it has ended", || terminal.is_over());
}

#[test]
fn top_without_a_terminal_says_so() {
    let host = Taskhost::new();
    let refused = host.run(&["top"]);
    assert!(refused.code == 2 && refused.stderr.contains("stdout is none"), "{refused:?}");
}
