//! The Lua scripts: one a verb, with the library files of `lua/lib` that it needs before it.
//!
//! A script is called by its digest. A server that does not know it (after a restart, `SCRIPT FLUSH`, on another node) gets its text.
//!
//! Invariant: the line `-- needs: …` of a file names every library file that it uses, and no other.

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
    /// `file` with the library files that it needs before it.
    fn new(head: &'static str, file: &str) -> Self {
        let text = format!("{head}\n{}{file}", linked(file));
        let digest = redis::Script::new(&text).get_hash().to_owned();
        Self { head, text, digest }
    }

    /// The same verb, but it sets aside keys of the wrong type. It answers `{the verb's answer, these keys}`.
    fn careful(&self) -> String {
        let body = self.text[self.head.len()..].replace("redis.call", "careful");
        let keeps_tasks = body.contains("\n-- finish: ");
        format!(
            "{}\nlocal keeps_tasks = {keeps_tasks}\n{CAREFUL}\nlocal function verb()\n{body}\nend\nlocal reply = verb()\nif reply == nil then reply = false end\nreturn \
             {{ reply, set_aside }}",
            self.head
        )
    }

    /// A call on the keys that begin with `key`. Its arguments follow.
    ///
    /// It names two keys that never exist. While a cluster moves their slot, it answers TRYAGAIN for keys that are missing. So no script
    /// runs on the half of a queue that has arrived.
    pub(super) fn call(&'static self, key: &str) -> Call {
        let mut by_digest = redis::cmd("EVALSHA");
        by_digest.arg(&self.digest).arg(2).arg(key).arg(format!("{key}-"));
        Call { script: self, key: key.to_owned(), by_digest }
    }
}

/// A script with its arguments. It is sent by digest, and again by text if the server does not know it.
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

    /// Adds one argument: text as it is, a number in decimal.
    pub(super) fn push(&mut self, value: impl ToRedisArgs) {
        self.by_digest.arg(value);
    }

    /// The prefix of its keys.
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

/// The library files that `file` needs, each after those that it needs itself.
///
/// Redis builds every function of a script anew at each call. So a script gets only what its `-- needs:` line names.
fn linked(file: &str) -> String {
    let (mut text, mut known) = (String::new(), HashSet::new());
    link(file, &mut known, &mut text);
    text
}

fn link(file: &str, known: &mut HashSet<&'static str>, text: &mut String) {
    for need in needs(file) {
        let Some((name, file)) = LIB.iter().find(|(name, _)| *name == need) else { panic!("no library file `{need}`") };
        if known.insert(name) {
            link(file, known, text);
            text.push_str(file);
        }
    }
}

/// The names in the line `-- needs: …` of a file's header.
fn needs(file: &str) -> impl Iterator<Item = &str> {
    let line = file.lines().take_while(|line| line.starts_with("--")).find_map(|line| line.strip_prefix("-- needs: "));
    line.unwrap_or("nothing").split(", ").filter(|need| *need != "nothing")
}

macro_rules! library {
    ($($name:literal)*) => {
        /// The files of `lua/lib`.
        const LIB: &[(&str, &str)] = &[$(($name, include_str!(concat!("lua/lib/", $name, ".lua")))),*];
    };
}

library! {
    "admit"
    "admit_plain"
    "adopt"
    "base"
    "cancel_task"
    "claims_of"
    "convert_held"
    "end_task"
    "end_waiting"
    "expire_waiting"
    "free_stamp"
    "held_since"
    "is_known"
    "is_open"
    "is_running"
    "keep_log"
    "kept_of"
    "kept_until"
    "lease"
    "list_ends"
    "place"
    "places"
    "promote"
    "publish"
    "put_flow"
    "rank"
    "read_task"
    "refusal"
    "release"
    "remember"
    "slices"
    "standing"
    "stub"
    "sweep_ended"
    "tell_flow"
    "unlist"
    "view_of"
    "wake"
}

const CAREFUL: &str = include_str!("lua/careful.lua");
const ENQUEUE_LUA: &str = include_str!("lua/enqueue.lua");
/// A server without memory must still let tasks end. It refuses only scripts that add tasks.
const ALLOW_OOM: &str = "#!lua flags=allow-oom";
const DENY_OOM: &str = "#!lua";

/// Without the check of records, because this program checks its own before it sends them.
pub(super) static ENQUEUE: LazyLock<Script> = LazyLock::new(|| {
    let body: Vec<_> = ENQUEUE_LUA.lines().filter(|line| !line.starts_with("local refused = refusal(")).collect();
    Script::new(DENY_OOM, &body.join("\n").replace(" refusal,", ""))
});
/// One command, sent again after it met a key of the wrong type. It answers as [`Script::careful`].
pub(super) static ASIDE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        ALLOW_OOM,
        &format!("local keeps_tasks = false\n{CAREFUL}\nlocal reply = careful(unpack(ARGV))\nreturn {{ reply, set_aside }}"),
    )
});

macro_rules! scripts {
    ($($name:ident: $head:ident, $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($head, include_str!(concat!("lua/", $file))));)*
    };
}

scripts! {
    CLAIM: ALLOW_OOM, "claim.lua";
    EXTEND: ALLOW_OOM, "extend.lua";
    REGISTER: ALLOW_OOM, "register.lua";
    EXPIRE: ALLOW_OOM, "expire.lua";
    LEAVE: ALLOW_OOM, "leave.lua";
    HELD: ALLOW_OOM, "held.lua";
    FINISH: ALLOW_OOM, "finish.lua";
    COUNTS: ALLOW_OOM, "counts.lua";
    VIEW: ALLOW_OOM, "view.lua";
    RUNNING: ALLOW_OOM, "running.lua";
    WAITING: ALLOW_OOM, "waiting.lua";
    ENDED: ALLOW_OOM, "ended.lua";
    AWAIT: ALLOW_OOM, "await.lua";
    PROGRESS: ALLOW_OOM, "progress.lua";
    LOG_SO_FAR: ALLOW_OOM, "log_so_far.lua";
    CANCEL: ALLOW_OOM, "cancel.lua";
    RETRY: ALLOW_OOM, "retry.lua";
    DELETE: ALLOW_OOM, "delete.lua";
    PURGE: ALLOW_OOM, "purge.lua";
    UNREADABLE: ALLOW_OOM, "unreadable.lua";
    SWEEP: ALLOW_OOM, "sweep.lua";
    RELAY: ALLOW_OOM, "relay.lua";
    ENQUEUE_ONE: DENY_OOM, "enqueue_one.lua";
    RESUME: ALLOW_OOM, "resume.lua";
    FIRE: DENY_OOM, "fire.lua";
    PUT_SCHEDULE: DENY_OOM, "put_schedule.lua";
    PAUSE_SCHEDULE: ALLOW_OOM, "pause_schedule.lua";
    KV: DENY_OOM, "kv.lua";
    MARK: ALLOW_OOM, "mark.lua";
    EDIT: DENY_OOM, "edit.lua";
    RECORD: DENY_OOM, "record.lua";
    HISTORY: ALLOW_OOM, "history.lua";
    FLOW_START: DENY_OOM, "flow_start.lua";
    FLOW_ASK: ALLOW_OOM, "flow_ask.lua";
    FLOW_READ: ALLOW_OOM, "flow_read.lua";
    FLOW_MORE: ALLOW_OOM, "flow_more.lua";
    FLOW_STEP: ALLOW_OOM, "flow_step.lua";
    FLOW_TELL: ALLOW_OOM, "flow_tell.lua";
    FLOW_VIEW: ALLOW_OOM, "flow_view.lua";
    FLOWS: ALLOW_OOM, "flows.lua";
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The files in a folder below `src/redis`, by name.
    fn files(folder: &str) -> BTreeMap<String, String> {
        let folder = format!("{}/src/redis/{folder}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let lua = entries.filter(|path| path.extension().is_some_and(|ext| ext == "lua"));
        lua.map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap())).collect()
    }

    /// The code without comments and with empty strings.
    fn code(text: &str) -> String {
        let mut code = String::new();
        for line in text.lines() {
            let mut open = None;
            let mut chars = line.chars().peekable();
            while let Some(c) = chars.next() {
                match open {
                    Some(quote) => match c {
                        '\\' => drop(chars.next()),
                        _ if c == quote => open = None,
                        _ => {}
                    },
                    None if c == '-' && chars.peek() == Some(&'-') => break,
                    None if c == '\'' || c == '"' => open = Some(c),
                    None => code.push(c),
                }
            }
            code.push('\n');
        }
        code
    }

    /// Names that a file defines for others: its locals outside of functions.
    fn defined(code: &str) -> BTreeSet<&str> {
        let lines = code.lines().filter_map(|line| line.strip_prefix("local "));
        let heads =
            lines.map(|line| line.strip_prefix("function ").unwrap_or(line)).map(|line| line.split(['(', '=']).next().unwrap_or(line));
        heads.flat_map(|head| head.split(',').map(str::trim)).collect()
    }

    /// Names in the code, without those of fields.
    fn used(code: &str) -> BTreeSet<&str> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = code.char_indices().filter(|(at, c)| is_word(*c) && !code[..*at].ends_with(|before| is_word(before) || before == '.'));
        let words = starts.map(|(at, _)| &code[at..at + code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at)]);
        // `..` joins two texts.
        let joined = code.split("..").skip(1).map(str::trim_start).map(|rest| &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())]);
        words.chain(joined).collect()
    }

    #[test]
    fn a_file_needs_just_the_library_files_that_it_uses() {
        let library: BTreeMap<_, _> = files("lua/lib").into_iter().map(|(name, text)| (name, code(&text))).collect();
        let all = files("lua/lib").into_iter().map(|(name, text)| (format!("lib/{name}"), text));
        let mut wrong = Vec::new();
        // Nothing is linked before careful.lua: it stands in front of a whole script.
        for (file, text) in all.chain(files("lua")).filter(|(file, _)| file != "careful") {
            let lines = text.lines().take_while(|line| line.starts_with("--")).filter(|line| line.starts_with("-- needs: ")).count();
            assert_eq!(lines, 1, "{file}.lua has {lines} lines `-- needs:` in its header");
            let body = code(&text);
            let (own, words) = (defined(&body), used(&body));
            let is_used = |name: &&String, code: &String| {
                file != format!("lib/{name}") && defined(code).iter().any(|word| words.contains(word) && !own.contains(word))
            };
            let uses: BTreeSet<_> = library.iter().filter(|(name, code)| is_used(name, code)).map(|(name, _)| name.as_str()).collect();
            let declared: BTreeSet<_> = needs(&text).collect();
            let more =
                |one: &BTreeSet<&str>, other: &BTreeSet<&str>| one.difference(other).map(|name| (*name).to_owned()).collect::<Vec<_>>();
            if declared != uses {
                wrong.push(format!("{file}.lua needs {:?} too, and does not use {:?}", more(&uses, &declared), more(&declared, &uses)));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        let listed: BTreeSet<_> = LIB.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, library.keys().map(String::as_str).collect());
    }

    #[test]
    fn an_end_is_written_in_one_place() {
        let writes = |line: &str| line.contains("'HSET'") && line.contains("'state'");
        let all = files("lua/lib").into_iter().chain(files("lua")).filter(|(_, text)| text.lines().any(writes));
        // careful.lua writes a dead task in the place of a key of another type.
        assert_eq!(all.map(|(name, _)| name).collect::<Vec<_>>(), ["end_task", "careful"]);
    }

    #[test]
    fn a_script_gets_what_it_needs_once_and_in_order() {
        let text = &CLAIM.text;
        let at = |part: &str| text.match_indices(part).map(|(at, _)| at).collect::<Vec<_>>();
        let order =
            ["local K, call =", "local function publish(", "local function end_waiting(", "local function expire_waiting(", "-- claim: "];
        let places: Vec<_> = order.into_iter().flat_map(at).collect();
        assert!(places.len() == order.len() && places.is_sorted(), "{places:?}");
        assert!(!REGISTER.text.contains("function admit") && ENQUEUE.text.contains("function admit"));
        assert!(!ENQUEUE.text.contains("refusal(") && RELAY.text.contains("function refusal"));
    }
}
