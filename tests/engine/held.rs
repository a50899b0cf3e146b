//! Guests that make the host hold bytes behind handles, and open files. There is a test for each interface.
//!
//! The limit of 10,000 handles alone would end each loop only after hundreds of megabytes. The bytes behind the handles must end it earlier.

use std::{path::Path, sync::Arc};

use super::{
    hostile::{ENQUEUE, Guest, Import},
    support::{call, compile, load, result, run, settings, told},
};
use taskhost::engine::{Call, Engine, EngineSettings, FileGrant, FileMode, Grants, Limits};
use taskhost_core::task::{ErrorKind, Outcome};

const FULL: &str = "memory limit of 64 MiB reached";

/// A function of an instance that the component has already.
const fn known(name: &'static str, types: &'static str, core: &'static str) -> Import<'static> {
    Import { interface: "", types, name, function: "", core }
}

macro_rules! lowered {
    ($name:literal, $instance:literal, $function:literal, $core:literal) => {
        known(
            $name,
            concat!(
                "(core func $",
                $name,
                "' (canon lower (func $",
                $instance,
                " \"",
                $function,
                "\") (memory (core memory $lib \"memory\")) (realloc (core func $lib \"realloc\"))))"
            ),
            $core,
        )
    };
}

/// The part of `wasi:http/types` with memory behind its handles, and one function of it.
const HTTP: Import = known(
    "fields",
    r#"(import "wasi:http/types@0.2.0" (instance $http
        (export "fields" (type $fields (sub resource)))
        (export "outgoing-request" (type $request (sub resource)))
        (export "outgoing-body" (type $body (sub resource)))
        (type $m' (variant (case "get") (case "head") (case "post") (case "put") (case "delete") (case "connect") (case "options")
            (case "trace") (case "patch") (case "other" string)))
        (export "method" (type $m (eq $m')))
        (type $s' (variant (case "HTTP") (case "HTTPS") (case "other" string)))
        (export "scheme" (type $s (eq $s')))
        (type $h' (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
        (export "header-error" (type $h (eq $h')))
        (export "[constructor]fields" (func (result (own $fields))))
        (export "[method]fields.append"
            (func (param "self" (borrow $fields)) (param "name" string) (param "value" (list u8)) (result (result (error $h)))))
        (export "[method]fields.delete" (func (param "self" (borrow $fields)) (param "name" string) (result (result (error $h)))))
        (export "[method]fields.clone" (func (param "self" (borrow $fields)) (result (own $fields))))
        (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
        (export "[method]outgoing-request.set-method" (func (param "self" (borrow $request)) (param "method" $m) (result (result))))
        (export "[method]outgoing-request.set-scheme"
            (func (param "self" (borrow $request)) (param "scheme" (option $s)) (result (result))))
        (export "[method]outgoing-request.set-authority"
            (func (param "self" (borrow $request)) (param "authority" (option string)) (result (result))))
        (export "[method]outgoing-request.set-path-with-query"
            (func (param "self" (borrow $request)) (param "path-with-query" (option string)) (result (result))))
        (export "[method]outgoing-request.body" (func (param "self" (borrow $request)) (result (result (own $body)))))))
    (core func $fields' (canon lower (func $http "[constructor]fields")))"#,
    "(result i32)",
);
const HTTP_ALL: [Import; 10] = [
    HTTP,
    lowered!("append", "http", "[method]fields.append", "(param i32 i32 i32 i32 i32 i32)"),
    lowered!("delete", "http", "[method]fields.delete", "(param i32 i32 i32 i32)"),
    lowered!("clone", "http", "[method]fields.clone", "(param i32) (result i32)"),
    lowered!("request", "http", "[constructor]outgoing-request", "(param i32) (result i32)"),
    lowered!("set-method", "http", "[method]outgoing-request.set-method", "(param i32 i32 i32 i32) (result i32)"),
    lowered!("set-scheme", "http", "[method]outgoing-request.set-scheme", "(param i32 i32 i32 i32 i32) (result i32)"),
    lowered!("set-authority", "http", "[method]outgoing-request.set-authority", "(param i32 i32 i32 i32) (result i32)"),
    lowered!("set-path", "http", "[method]outgoing-request.set-path-with-query", "(param i32 i32 i32 i32) (result i32)"),
    lowered!("body", "http", "[method]outgoing-request.body", "(param i32 i32)"),
];

/// A guest with 100,000 times `a` at 10,000 and a `/` at 9,999. It then runs this.
fn http(run: &str) -> Vec<u8> {
    let run = format!(
        "(local $x i32) (i32.store8 (i32.const 9999) (i32.const 47))
        (memory.fill (i32.const 10000) (i32.const 97) (i32.const 100000)) {run} (unreachable)"
    );
    Guest { imports: &HTTP_ALL, run: &run, memory: 4, ..Guest::default() }.build()
}

/// Endless requests, each with the longest allowed path. Other tests use it too.
pub(crate) fn paths(name: &str) -> Vec<u8> {
    let run = "(memory.fill (i32.const 10000) (i32.const 97) (i32.const 40000)) (i32.store8 (i32.const 9999) (i32.const 47))
        (loop $l
            (drop (call $set-path (call $request (call $fields)) (i32.const 1) (i32.const 9999) (i32.const 32000)))
            (br $l))
        (unreachable)";
    Guest { name, imports: &HTTP_ALL, run, memory: 1, ..Guest::default() }.build()
}

async fn ends(bytes: &[u8]) -> (ErrorKind, String) {
    told(run(call(&load(bytes).await, "go", "[]")).await)
}

#[tokio::test]
async fn a_requests_head_is_as_long_as_servers_take_it_and_no_longer() {
    let long = "(local.set $x (call $request (call $fields)))
        (i32.store8 (i32.const 6000) (i32.const 49))
        (i32.store8 (i32.const 6001)
            (i32.add (i32.const 48) (call $set-method (local.get $x) (i32.const 9) (i32.const 10000) (i32.const LENGTH))))
        (i32.store8 (i32.const 6002)
            (i32.add (i32.const 48) (call $set-scheme (local.get $x) (i32.const 1) (i32.const 2) (i32.const 10000) (i32.const LENGTH))))
        (i32.store8 (i32.const 6003)
            (i32.add (i32.const 48) (call $set-authority (local.get $x) (i32.const 1) (i32.const 10000) (i32.const LENGTH))))
        (i32.store8 (i32.const 6004)
            (i32.add (i32.const 48) (call $set-path (local.get $x) (i32.const 1) (i32.const 9999) (i32.const LENGTH))))
        (return (call $ok (i32.const 6000) (i32.const 5)))";
    for (length, refused) in [("60", "10000"), ("300", "11100"), ("9000", "11110"), ("40000", "11111")] {
        // A scheme has at most 64 letters.
        let bytes = http(&long.replace("LENGTH", length));
        assert_eq!(result(run(call(&load(&bytes).await, "go", "[]")).await), refused, "of {length} bytes");
    }
}

#[tokio::test]
async fn what_stands_in_requests_is_memory() {
    for (what, set) in [
        ("path", "(drop (call $set-path (local.get $x) (i32.const 1) (i32.const 9999) (i32.const 32000)))"),
        ("authority", "(drop (call $set-authority (local.get $x) (i32.const 1) (i32.const 10000) (i32.const 8100)))"),
        ("body", "(call $body (local.get $x) (i32.const 4000))"),
    ] {
        let flood = http(&format!("(loop $l (local.set $x (call $request (call $fields))) {set} (br $l))"));
        assert_eq!(ends(&flood).await, (ErrorKind::MemoryLimit, FULL.into()), "{what}");
    }
}

#[tokio::test]
async fn headers_are_memory_in_every_copy() {
    let append = "(call $append (local.get $x) (i32.const 10000) (i32.const 4) (i32.const 20000) (i32.const 30000) (i32.const 4000))";
    let flood = http(&format!("(loop $l (local.set $x (call $fields)) {append} (br $l))"));
    assert_eq!(ends(&flood).await, (ErrorKind::MemoryLimit, FULL.into()), "made one by one");
    let copies = http(&format!("(local.set $x (call $fields)) {append} (loop $l (local.set $x (call $clone (local.get $x))) (br $l))"));
    assert_eq!(ends(&copies).await, (ErrorKind::MemoryLimit, FULL.into()), "copied");
    // The memory of deleted headers is freed.
    let again = format!(
        "(loop $l
            (local.set $x (call $fields))
            {}
            (call $delete (local.get $x) (i32.const 10000) (i32.const 4) (i32.const 4000))
            (br_if $l (i32.lt_u (local.get $x) (i32.const 3000))))
        (return (call $ok (i32.const 2064) (i32.const 1)))",
        append.repeat(2)
    );
    assert_eq!(result(run(call(&load(&http(&again)).await, "go", "[]")).await), "7", "what is deleted is given back");
}

#[tokio::test]
async fn what_is_given_back_is_not_counted_for_ever() {
    // A gigabyte of paths in all, one at a time.
    let calm = http(
        "(local.set $x (call $request (call $fields)))
        (loop $l
            (drop (call $set-path (local.get $x) (i32.const 1) (i32.const 9999) (i32.const 32000)))
            (i32.store (i32.const 4000) (i32.add (i32.load (i32.const 4000)) (i32.const 1)))
            (br_if $l (i32.lt_u (i32.load (i32.const 4000)) (i32.const 30000))))
        (return (call $ok (i32.const 2064) (i32.const 1)))",
    );
    assert_eq!(result(run(call(&load(&calm).await, "go", "[]")).await), "7");
}

#[tokio::test]
async fn what_the_host_holds_counts_for_all_guests_together() {
    let engine = Engine::start(EngineSettings { guest_memory: 16 << 20, ..settings() }).unwrap();
    let code = compile(&engine, &paths("go")).await.unwrap();
    let modest = compile(&engine, &Guest { memory: 200, ..Guest::default() }.build()).await.unwrap();
    for _ in 0..3 {
        let Outcome::HostFault { reason, .. } = engine.invoke(call(&code, "go", "[]")).await.outcome else {
            panic!("not the guest's fault")
        };
        assert!(reason.contains("`guest_memory` of 16 MiB"), "{reason}");
        // All memory is free when the attempt has ended.
        assert_eq!(result(engine.invoke(call(&modest, "go", "[]")).await), "7");
    }
}

#[tokio::test]
async fn children_are_memory() {
    let more = r#"(data (i32.const 5000) "echo[]")"#;
    let run_ = "(loop $l
            (call $enqueue (i32.const 5000) (i32.const 4) (i32.const 5004) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0)
                (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 4000))
            (br $l))
        (unreachable)";
    let code = load(&Guest { imports: &[ENQUEUE], more, run: run_, memory: 1, ..Guest::default() }.build()).await;
    let mut many = call(&code, "go", "[]");
    Arc::make_mut(&mut many.terms).limits = Arc::new(Limits { memory: 200 << 10, ..Limits::default() });
    assert_eq!(told(run(many).await), (ErrorKind::MemoryLimit, "memory limit of 200 KiB reached".into()));
}

/// The parts of `wasi:filesystem` and `wasi:io/streams` with memory behind their handles, and the way to a granted directory.
const FILES: Import = known(
    "granted",
    r#"(import "wasi:io/error@0.2.0" (instance $problem (export "error" (type (sub resource)))))
    (alias export $problem "error" (type $problem'))
    (import "wasi:io/streams@0.2.0" (instance $streams
        (export "input-stream" (type $in (sub resource)))
        (export "output-stream" (type $out (sub resource)))
        (alias outer 1 $problem' (type $e')) (export "error" (type $e (eq $e')))
        (type $s' (variant (case "last-operation-failed" (own $e)) (case "closed")))
        (export "stream-error" (type $s (eq $s')))
        (export "[method]input-stream.read" (func (param "self" (borrow $in)) (param "len" u64) (result (result (list u8) (error $s)))))
        (export "[method]output-stream.write"
            (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $s)))))))
    (alias export $streams "input-stream" (type $in'))
    (alias export $streams "output-stream" (type $out'))
    (import "wasi:filesystem/types@0.2.0" (instance $files
        (export "descriptor" (type $d (sub resource)))
        (export "directory-entry-stream" (type $listing (sub resource)))
        (alias outer 1 $in' (type $i')) (export "input-stream" (type $i (eq $i')))
        (alias outer 1 $out' (type $o')) (export "output-stream" (type $o (eq $o')))
        (type $e' (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist" "file-too-large"
            "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io" "is-directory" "loop" "too-many-links" "message-size"
            "name-too-long" "no-device" "no-entry" "no-lock" "insufficient-memory" "insufficient-space" "not-directory" "not-empty"
            "not-recoverable" "unsupported" "no-tty" "no-such-device" "overflow" "not-permitted" "pipe" "read-only" "invalid-seek"
            "text-file-busy" "cross-device"))
        (export "error-code" (type $e (eq $e')))
        (type $p' (flags "symlink-follow")) (export "path-flags" (type $p (eq $p')))
        (type $of' (flags "create" "directory" "exclusive" "truncate")) (export "open-flags" (type $of (eq $of')))
        (type $df' (flags "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync" "mutate-directory"))
        (export "descriptor-flags" (type $df (eq $df')))
        (export "[method]descriptor.open-at"
            (func (param "self" (borrow $d)) (param "path-flags" $p) (param "path" string) (param "open-flags" $of) (param "flags" $df)
                (result (result (own $d) (error $e)))))
        (export "[method]descriptor.read-via-stream"
            (func (param "self" (borrow $d)) (param "offset" u64) (result (result (own $i) (error $e)))))
        (export "[method]descriptor.write-via-stream"
            (func (param "self" (borrow $d)) (param "offset" u64) (result (result (own $o) (error $e)))))
        (type $dt' (enum "unknown" "block-device" "character-device" "directory" "fifo" "symbolic-link" "regular-file" "socket"))
        (export "descriptor-type" (type $dt (eq $dt')))
        (type $de' (record (field "type" $dt) (field "name" string)))
        (export "directory-entry" (type $de (eq $de')))
        (export "[method]directory-entry-stream.read-directory-entry"
            (func (param "self" (borrow $listing)) (result (result (option $de) (error $e)))))
        (export "[method]descriptor.read-directory" (func (param "self" (borrow $d)) (result (result (own $listing) (error $e)))))))
    (alias export $files "descriptor" (type $d'))
    (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
        (alias outer 1 $d' (type $p')) (export "descriptor" (type $p (eq $p')))
        (export "get-directories" (func (result (list (tuple (own $p) string)))))))
    (core func $granted' (canon lower (func $preopens "get-directories")
        (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))
    (core func $close' (canon resource.drop $d'))"#,
    "(param i32)",
);
const FILES_ALL: [Import; 9] = [
    FILES,
    known("close", "", "(param i32)"),
    lowered!("open", "files", "[method]descriptor.open-at", "(param i32 i32 i32 i32 i32 i32 i32)"),
    lowered!("reader", "files", "[method]descriptor.read-via-stream", "(param i32 i64 i32)"),
    lowered!("writer", "files", "[method]descriptor.write-via-stream", "(param i32 i64 i32)"),
    lowered!("list", "files", "[method]descriptor.read-directory", "(param i32 i32)"),
    lowered!("entry", "files", "[method]directory-entry-stream.read-directory-entry", "(param i32 i32)"),
    lowered!("read", "streams", "[method]input-stream.read", "(param i32 i64 i32)"),
    lowered!("write", "streams", "[method]output-stream.write", "(param i32 i32 i32 i32)"),
];

/// A guest with this directory granted. `$dir` is its handle. `$open-it` opens `name`: its handle is then at 4,104, or an error code is there and a 1
/// at 4,100.
fn opening(name: &str, write: bool, run: &str) -> Vec<u8> {
    let flags = if write { 3 } else { 1 };
    let more = format!(
        r#"(data (i32.const 5000) "{name}")
        (func $open-it (param i32) (call $open (local.get 0) (i32.const 1) (i32.const 5000) (i32.const {}) (i32.const 0)
            (i32.const {flags}) (i32.const 4100)))"#,
        name.len()
    );
    let run = format!(
        "(local $dir i32) (call $granted (i32.const 4000)) (local.set $dir (i32.load (i32.load (i32.const 4000)))) {run} (unreachable)"
    );
    Guest { imports: &FILES_ALL, more: &more, run: &run, memory: 4, ..Guest::default() }.build()
}

async fn files(dir: &Path, name: &str, write: bool, run: &str) -> Call {
    granting(call(&load(&opening(name, write, run)).await, "go", "[]"), dir)
}

fn granting(mut call: Call, dir: &Path) -> Call {
    let files = vec![FileGrant { host: dir.into(), guest: "/in".into(), mode: FileMode::ReadWrite }];
    Arc::make_mut(&mut call.terms).grants = Arc::new(Grants { files, ..Grants::default() });
    call
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("note"), "x".repeat(200_000)).unwrap();
    dir
}

#[tokio::test]
async fn streams_of_files_and_listings_are_memory() {
    let dir = directory();
    for n in 0..300 {
        std::fs::write(dir.path().join(format!("{n}-{}", "n".repeat(200))), "").unwrap();
    }
    let file = "(call $open-it (local.get $dir)) (local.set $dir (i32.load (i32.const 4104)))";
    for (what, flood) in [
        (
            "reads that nobody fetches",
            format!(
                "{file} (loop $l
                (call $reader (local.get $dir) (i64.const 0) (i32.const 4200))
                (call $read (i32.load (i32.const 4204)) (i64.const 60000) (i32.const 4300)) (br $l))"
            ),
        ),
        (
            "writes whose end nobody awaits",
            format!(
                "{file} (loop $l
                (call $writer (local.get $dir) (i64.const 0) (i32.const 4200))
                (call $write (i32.load (i32.const 4204)) (i32.const 8192) (i32.const 60000) (i32.const 4300)) (br $l))"
            ),
        ),
        ("listings", "(loop $l (call $list (local.get $dir) (i32.const 4200)) (br $l))".to_owned()),
    ] {
        let flooding = files(dir.path(), "note", true, &flood).await;
        assert_eq!(told(run(flooding).await), (ErrorKind::MemoryLimit, FULL.into()), "{what}");
    }
}

#[tokio::test]
async fn a_listing_has_every_entry_with_its_kind() {
    let dir = directory();
    for name in ["one", "two"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    // Counts directories and files. The kind of an entry is at 4,308.
    let count = "(i32.store16 (i32.const 6000) (i32.const 0x3030))
        (call $list (local.get $dir) (i32.const 4200))
        (if (i32.load8_u (i32.const 4200)) (then (unreachable)))
        (loop $l
            (call $entry (i32.load (i32.const 4204)) (i32.const 4300))
            (if (i32.load8_u (i32.const 4300)) (then (unreachable)))
            (if (i32.load8_u (i32.const 4304)) (then
                (if (i32.eq (i32.load8_u (i32.const 4308)) (i32.const 3)) (then
                    (i32.store8 (i32.const 6000) (i32.add (i32.load8_u (i32.const 6000)) (i32.const 1)))))
                (if (i32.eq (i32.load8_u (i32.const 4308)) (i32.const 6)) (then
                    (i32.store8 (i32.const 6001) (i32.add (i32.load8_u (i32.const 6001)) (i32.const 1)))))
                (br $l))))
        (return (call $ok (i32.const 6000) (i32.const 2)))";
    assert_eq!(result(run(files(dir.path(), "note", false, count).await).await), "21");
}

#[tokio::test]
async fn a_guest_opens_so_many_files_and_leaves_the_rest_to_others() {
    let dir = directory();
    let hoarding = files(dir.path(), "note", false, "(loop $l (call $open-it (local.get $dir)) (br $l))").await;
    assert_eq!(told(run(hoarding).await), (ErrorKind::Trap, "holds more than 128 files and connections at once".into()));
    // A guest that closes its files may go on for ever.
    let tidy = "(loop $l
            (call $open-it (local.get $dir))
            (if (i32.load8_u (i32.const 4100)) (then (unreachable)))
            (call $close (i32.load (i32.const 4104)))
            (i32.store (i32.const 4400) (i32.add (i32.load (i32.const 4400)) (i32.const 1)))
            (br_if $l (i32.lt_u (i32.load (i32.const 4400)) (i32.const 500))))
        (return (call $ok (i32.const 2064) (i32.const 1)))";
    assert_eq!(result(run(files(dir.path(), "note", false, tidy).await).await), "7");
    // A stream keeps its file open, also without the handle.
    let streaming = "(loop $l
            (call $open-it (local.get $dir))
            (call $reader (i32.load (i32.const 4104)) (i64.const 0) (i32.const 4200))
            (call $close (i32.load (i32.const 4104)))
            (br $l))";
    let (kind, message) = told(run(files(dir.path(), "note", false, streaming).await).await);
    assert_eq!((kind, message.as_str()), (ErrorKind::Trap, "holds more than 128 files and connections at once"));
}

#[tokio::test]
async fn all_guests_together_leave_the_hosts_own_descriptors_alone() {
    let engine = Engine::start(EngineSettings { descriptors: Some(20), ..settings() }).unwrap();
    let dir = directory();
    let bytes = opening("note", false, "(loop $l (call $open-it (local.get $dir)) (br $l))");
    let code = compile(&engine, &bytes).await.unwrap();
    for _ in 0..3 {
        let attempted = engine.invoke(granting(call(&code, "go", "[]"), dir.path())).await;
        let Outcome::HostFault { reason, .. } = attempted.outcome else { panic!("not the guest's fault: {attempted:?}") };
        assert!(reason.contains("have 20 files and connections open") && reason.contains("ulimit -n"), "{reason}");
    }
}

#[tokio::test]
async fn a_pipe_in_a_granted_directory_is_refused_and_waits_for_nobody() {
    let dir = directory();
    let pipe = |name: &str| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join(name), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    pipe("pipe");
    std::os::unix::fs::symlink("pipe", dir.path().join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    // The error code in two digits, or 7 if it was opened.
    let say = "(call $open-it (local.get $dir)) (if (i32.eqz (i32.load8_u (i32.const 4100)))
        (then (return (call $ok (i32.const 2064) (i32.const 1)))))
        (i32.store8 (i32.const 6000) (i32.add (i32.const 48) (i32.div_u (i32.load8_u (i32.const 4104)) (i32.const 10))))
        (i32.store8 (i32.const 6001) (i32.add (i32.const 48) (i32.rem_u (i32.load8_u (i32.const 4104)) (i32.const 10))))
        (return (call $ok (i32.const 6000) (i32.const 2)))";
    for write in [false, true] {
        for (name, answer) in [("pipe", "27"), ("link", "27"), ("socket", "27"), ("note", "7"), ("gone", "20"), ("../note", "31")] {
            let attempted = run(files(dir.path(), name, write, say).await).await;
            let told = attempted.log.contains("only files and directories can be opened");
            assert_eq!(told, answer == "27", "{name}: {}", attempted.log);
            assert_eq!(result(attempted), answer, "{name}, for writing {write}");
        }
    }
}
