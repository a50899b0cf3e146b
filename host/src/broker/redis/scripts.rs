//! The Lua scripts, one a verb, each with what they share put before it.
//!
//! Called by their digest; a server that does not know one yet (a restart, `SCRIPT FLUSH`, another node) gets its text.

use std::sync::LazyLock;

use redis::{Arg, Cmd, ToRedisArgs};

/// One script: its text and the SHA-1 that Redis knows it by.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    digest: String,
}

impl Script {
    fn new(head: &str, lib: &str, body: &str) -> Self {
        let text = format!("{head}\n{lib}\n{body}");
        let digest = redis::Script::new(&text).get_hash().to_owned();
        Self { text, digest }
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
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script.text);
        for arg in self.by_digest.args_iter().skip(2) {
            if let Arg::Simple(arg) = arg {
                command.arg(arg);
            }
        }
        command
    }
}

const LIB: &str = include_str!("lua/lib.lua");
/// A broker without memory must still let tasks end: only what adds to it is refused.
const ALLOW_OOM: &str = "#!lua flags=allow-oom";
const DENY_OOM: &str = "#!lua";

macro_rules! scripts {
    ($($name:ident: $head:ident $lib:expr, $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($head, $lib, include_str!(concat!("lua/", $file))));)*
    };
}

scripts! {
    ENQUEUE: DENY_OOM LIB, "enqueue.lua";
    CLAIM: ALLOW_OOM LIB, "claim.lua";
    EXTEND: ALLOW_OOM LIB, "extend.lua";
    REGISTER: ALLOW_OOM LIB, "register.lua";
    EXPIRE: ALLOW_OOM LIB, "expire.lua";
    LEAVE: ALLOW_OOM LIB, "leave.lua";
    HELD: ALLOW_OOM LIB, "held.lua";
    FINISH: ALLOW_OOM LIB, "finish.lua";
    RELAY: ALLOW_OOM LIB, "enqueue.lua";
    COUNTS: ALLOW_OOM LIB, "counts.lua";
    VIEW: ALLOW_OOM LIB, "view.lua";
    AWAIT: ALLOW_OOM LIB, "await.lua";
    PROGRESS: ALLOW_OOM LIB, "progress.lua";
    CANCEL: ALLOW_OOM LIB, "cancel.lua";
    RETRY: ALLOW_OOM LIB, "retry.lua";
    DELETE: ALLOW_OOM LIB, "delete.lua";
    PURGE: ALLOW_OOM LIB, "purge.lua";
    SWEEP: ALLOW_OOM LIB, "sweep.lua";
    RESUME: ALLOW_OOM LIB, "resume.lua";
    FIRE: DENY_OOM LIB, "fire.lua";
    PUT_SCHEDULE: DENY_OOM LIB, "put_schedule.lua";
    PAUSE_SCHEDULE: ALLOW_OOM LIB, "pause_schedule.lua";
    KV: DENY_OOM "", "kv.lua";
    MARK: ALLOW_OOM "", "mark.lua";
}
