//! The Lua scripts, one a verb, each with what they share put before it.
//!
//! Called by their digest; a server that does not know one yet (a restart, `SCRIPT FLUSH`, another node) gets its text.

use std::sync::LazyLock;

use redis::Cmd;

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

    /// A call with `key` as the only key; arguments follow.
    pub(super) fn call(&'static self, key: &str) -> Call {
        Call { script: self, key: key.to_owned(), args: Vec::new() }
    }
}

/// A script with its arguments, which can be sent by digest and again by text.
#[derive(Debug)]
pub(super) struct Call {
    script: &'static Script,
    key: String,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(super) fn arg(mut self, value: impl ToArg) -> Self {
        self.push(value);
        self
    }

    pub(super) fn push(&mut self, value: impl ToArg) {
        self.args.push(value.to_arg());
    }

    pub(super) fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", &self.script.digest)
    }

    pub(super) fn by_text(&self) -> Cmd {
        self.command("EVAL", &self.script.text)
    }

    fn command(&self, verb: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(script).arg(1).arg(&self.key);
        for arg in &self.args {
            command.arg(arg.as_slice());
        }
        command
    }
}

/// What may stand as an argument: text as it is, numbers in decimal.
pub(super) trait ToArg {
    fn to_arg(self) -> Vec<u8>;
}

impl ToArg for &str {
    fn to_arg(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl ToArg for &[u8] {
    fn to_arg(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl ToArg for String {
    fn to_arg(self) -> Vec<u8> {
        self.into_bytes()
    }
}

impl ToArg for u64 {
    fn to_arg(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl ToArg for usize {
    fn to_arg(self) -> Vec<u8> {
        self.to_string().into_bytes()
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
}
