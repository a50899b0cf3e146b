//! The Lua scripts, one a verb, each with what it needs of what they share put before it.
//!
//! Called by their digest; a server that does not know one yet (a restart, `SCRIPT FLUSH`, another node) gets its text.

use std::{collections::HashSet, sync::LazyLock};

use redis::{Arg, Cmd, ToRedisArgs};

/// One script: its text and the SHA-1 that Redis knows it by.
#[derive(Debug)]
pub(super) struct Script {
    head: &'static str,
    text: String,
    digest: String,
}

impl Script {
    fn new(head: &'static str, lib: &str, body: &str) -> Self {
        let text = format!("{head}\n{}\n{body}", needed(lib, body));
        let digest = redis::Script::new(&text).get_hash().to_owned();
        Self { head, text, digest }
    }

    /// The same verb, which sets aside what is of another kind than it should be. It answers `{its answer, the keys that were}`.
    fn careful(&self) -> String {
        let body = self.text[self.head.len()..].replace("redis.call", "careful");
        let keeps_tasks = body.contains("\n-- finish: ");
        format!(
            "{}\nlocal keeps_tasks = {keeps_tasks}\n{CAREFUL}\nlocal function verb()\n{body}\nend\nlocal reply = verb()\nif reply == nil then reply = false end\nreturn \
             {{ reply, set_aside }}",
            self.head
        )
    }

    /// A call on the keys that begin with `key`; arguments follow.
    ///
    /// Two keys are named, and neither ever stands there: while a cluster moves their slot, keys that are missing on both nodes make
    /// it answer TRYAGAIN, so that no script ever runs on the half of a queue that has arrived.
    pub(super) fn call(&'static self, key: &str) -> Call {
        let mut by_digest = redis::cmd("EVALSHA");
        by_digest.arg(&self.digest).arg(2).arg(key).arg(format!("{key}-"));
        Call { script: self, key: key.to_owned(), by_digest }
    }
}

/// A script with its arguments, written as they come; it can be sent by digest and again by text.
#[derive(Debug)]
pub(super) struct Call {
    script: &'static Script,
    key: String,
    by_digest: Cmd,
}

impl Call {
    pub(super) fn arg(mut self, value: impl ToRedisArgs) -> Self {
        self.push(value);
        self
    }

    /// `value` is one argument: text as it is, numbers in decimal.
    pub(super) fn push(&mut self, value: impl ToRedisArgs) {
        self.by_digest.arg(value);
    }

    /// What its keys begin with.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn by_digest(&self) -> &Cmd {
        &self.by_digest
    }

    pub(super) fn by_text(&self) -> Cmd {
        self.eval(&self.script.text)
    }

    /// See [`Script::careful`].
    pub(super) fn carefully(&self) -> Cmd {
        self.eval(&self.script.careful())
    }

    fn eval(&self, text: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(text);
        for arg in self.by_digest.args_iter().skip(2) {
            if let Arg::Simple(arg) = arg {
                command.arg(arg);
            }
        }
        command
    }
}

/// The first block of the library, and of the others those that `body` names, and what these name: Redis makes every function of a
/// script anew at each call. Blocks stand between empty lines and name only what stands before them.
fn needed(lib: &str, body: &str) -> String {
    let mut blocks = lib.split("\n\n");
    let first = blocks.next().unwrap_or_default();
    let mut named: HashSet<&str> = words(body).collect();
    let mut taken = Vec::new();
    for block in blocks.collect::<Vec<_>>().into_iter().rev() {
        let defined = block.lines().filter_map(|line| line.strip_prefix("local ")).flat_map(|line| {
            let line = line.strip_prefix("function ").unwrap_or(line);
            words(&line[..line.find(['(', '=']).unwrap_or(line.len())])
        });
        if defined.into_iter().any(|name| named.contains(name)) {
            named.extend(words(block));
            taken.push(block);
        }
    }
    taken.push(first);
    taken.reverse();
    taken.join("\n\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

const LIB: &str = include_str!("lua/lib.lua");
const CAREFUL: &str = include_str!("lua/careful.lua");
const ENQUEUE_LUA: &str = include_str!("lua/enqueue.lua");
/// A broker without memory must still let tasks end: only what adds to it is refused.
const ALLOW_OOM: &str = "#!lua flags=allow-oom";
const DENY_OOM: &str = "#!lua";

/// What this program enqueues is checked where it is made: the script need not look at each record again.
pub(super) static ENQUEUE: LazyLock<Script> = LazyLock::new(|| {
    let body: Vec<_> = ENQUEUE_LUA.lines().filter(|line| !line.starts_with("local refused = refusal(")).collect();
    Script::new(DENY_OOM, LIB, &body.join("\n"))
});
/// What others wrote may stand among what is relayed.
pub(super) static RELAY: LazyLock<Script> = LazyLock::new(|| Script::new(ALLOW_OOM, LIB, include_str!("lua/relay.lua")));
/// One command, sent again after it met a key of another kind; it answers as [`Script::careful`].
pub(super) static ASIDE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        ALLOW_OOM,
        "",
        &format!("local keeps_tasks = false\n{CAREFUL}\nlocal reply = careful(unpack(ARGV))\nreturn {{ reply, set_aside }}"),
    )
});

macro_rules! scripts {
    ($($name:ident: $head:ident $lib:expr, $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($head, $lib, include_str!(concat!("lua/", $file))));)*
    };
}

scripts! {
    CLAIM: ALLOW_OOM LIB, "claim.lua";
    EXTEND: ALLOW_OOM LIB, "extend.lua";
    REGISTER: ALLOW_OOM LIB, "register.lua";
    EXPIRE: ALLOW_OOM LIB, "expire.lua";
    LEAVE: ALLOW_OOM LIB, "leave.lua";
    HELD: ALLOW_OOM LIB, "held.lua";
    FINISH: ALLOW_OOM LIB, "finish.lua";
    COUNTS: ALLOW_OOM LIB, "counts.lua";
    VIEW: ALLOW_OOM LIB, "view.lua";
    WAITING: ALLOW_OOM LIB, "waiting.lua";
    ENDED: ALLOW_OOM LIB, "ended.lua";
    AWAIT: ALLOW_OOM LIB, "await.lua";
    PROGRESS: ALLOW_OOM LIB, "progress.lua";
    CANCEL: ALLOW_OOM LIB, "cancel.lua";
    RETRY: ALLOW_OOM LIB, "retry.lua";
    DELETE: ALLOW_OOM LIB, "delete.lua";
    PURGE: ALLOW_OOM LIB, "purge.lua";
    UNREADABLE: ALLOW_OOM LIB, "unreadable.lua";
    SWEEP: ALLOW_OOM LIB, "sweep.lua";
    RESUME: ALLOW_OOM LIB, "resume.lua";
    FIRE: DENY_OOM LIB, "fire.lua";
    PUT_SCHEDULE: DENY_OOM LIB, "put_schedule.lua";
    PAUSE_SCHEDULE: ALLOW_OOM LIB, "pause_schedule.lua";
    KV: DENY_OOM "", "kv.lua";
    MARK: ALLOW_OOM "", "mark.lua";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_gets_what_it_names_and_what_that_names() {
        let lib = "-- all\nlocal K = 1\n\n-- one\nlocal function one(a) return K end\n\nlocal two, too = 2\nlocal function use_two() end\n\n\
                   local function three() return one() end";
        assert_eq!(needed(lib, "return K"), "-- all\nlocal K = 1");
        assert_eq!(needed(lib, "return use_two()"), [lib.split("\n\n").next().unwrap(), lib.split("\n\n").nth(2).unwrap()].join("\n\n"));
        assert!(needed(lib, "return three()").contains("function one"));
    }

    #[test]
    fn no_block_of_the_library_is_torn() {
        for block in LIB.split("\n\n").skip(1) {
            assert!(block.starts_with("--") || block.starts_with("local "), "an empty line within a function: {block}");
        }
        assert!(!REGISTER.text.contains("function admit") && ENQUEUE.text.contains("function admit"));
        assert!(!ENQUEUE.text.contains("refusal") && RELAY.text.contains("function refusal"));
    }
}
