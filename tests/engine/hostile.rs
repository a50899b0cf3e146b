//! Guests written in WebAssembly text: what no SDK would let a plugin do.

use std::fmt::Write;

/// A component that exports `tasks`, made of the given pieces of a core module.
///
/// `run` and `describe` are bodies of functions that return an address. At 1024 stands a valid description with one body, `go`;
/// `$ok` answers with the text at an address; the host's own texts are put beyond 8192.
pub(super) struct Guest<'a> {
    pub(super) run: &'a str,
    pub(super) describe: &'a str,
    pub(super) more: &'a str,
    /// Pages of memory.
    pub(super) memory: u32,
    pub(super) contract: &'a str,
    pub(super) imports: &'a [Import<'a>],
}

/// One function of the host; `types` are those of its interface that it names.
#[derive(Clone, Copy)]
pub(super) struct Import<'a> {
    pub(super) interface: &'a str,
    pub(super) types: &'a str,
    pub(super) name: &'a str,
    pub(super) function: &'a str,
    pub(super) core: &'a str,
}

/// `exit(status)`: 0 for well, 1 for not.
pub(super) const EXIT: Import = Import {
    interface: "wasi:cli/exit@0.2.0",
    types: "",
    name: "exit",
    function: r#"(func (param "status" (result)))"#,
    core: "(param i32)",
};

/// `exit-with-code(code)`
pub(super) const EXIT_WITH_CODE: Import = Import {
    interface: "wasi:cli/exit@0.2.0",
    types: "",
    name: "exit-with-code",
    function: r#"(func (param "status-code" u8))"#,
    core: "(param i32)",
};

/// `is-cancelled() -> bool`
pub(super) const IS_CANCELLED: Import = Import {
    interface: "taskhost:plugin/context@0.1.0",
    types: "",
    name: "is-cancelled",
    function: "(func (result bool))",
    core: "(result i32)",
};

/// `attempt() -> u32`
pub(super) const ATTEMPT: Import = Import {
    interface: "taskhost:plugin/context@0.1.0",
    types: "",
    name: "attempt",
    function: "(func (result u32))",
    core: "(result i32)",
};

/// `increment(key, by, return-address)`
pub(super) const INCREMENT: Import = Import {
    interface: "taskhost:plugin/kv@0.1.0",
    types: r#"(type $e' (variant (case "denied" string) (case "quota" string) (case "invalid" string) (case "unavailable" string)))
        (export "kv-error" (type $e (eq $e')))"#,
    name: "increment",
    function: r#"(func (param "key" string) (param "by" s64) (result (result s64 (error $e))))"#,
    core: "(param i32 i32 i64 i32)",
};

/// `enqueue(…, return-address)`: task, args, queue?, delay, priority?, id?, headers
pub(super) const ENQUEUE: Import = Import {
    interface: "taskhost:plugin/children@0.1.0",
    types: r#"(type $t' (record (field "task" string) (field "args" string) (field "queue" (option string)) (field "delay-ms" u64)
            (field "priority" (option u8)) (field "id" (option string)) (field "headers" (list (tuple string string)))))
        (export "new-task" (type $t (eq $t')))
        (type $e' (variant (case "denied" string) (case "invalid" string) (case "too-many" string)))
        (export "enqueue-error" (type $e (eq $e')))"#,
    name: "enqueue",
    function: r#"(func (param "task" $t) (result (result string (error $e))))"#,
    core: "(param i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32)",
};

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            run: "(call $ok (i32.const 2064) (i32.const 1))",
            describe: "(i32.const 1024)",
            more: "",
            memory: 1,
            contract: "taskhost:plugin/tasks@0.1.0",
            imports: &[],
        }
    }
}

/// A guest whose `run` is this.
pub(super) fn running(run: &str) -> Vec<u8> {
    Guest { run, ..Guest::default() }.build()
}

impl Guest<'_> {
    pub(super) fn build(&self) -> Vec<u8> {
        let Self { run, describe, more, memory, contract, imports } = self;
        let word = |number: u32| {
            let [a, b, c, d] = number.to_le_bytes();
            format!("\\{a:02x}\\{b:02x}\\{c:02x}\\{d:02x}")
        };
        // version "1" at 2048, name "go" at 2050, "{}" at 2056, a result "7" at 2064
        let description = [2048, 1, 0, 0, 1100, 1].map(word).concat();
        let body = [2050, 2, 0, 0, 0, 0, 2056, 2, 0, 0].map(word).concat();
        let (mut lowered, mut offered, mut linked) = (String::new(), String::new(), String::new());
        for Import { interface, types, name, function, core } in *imports {
            let _ = write!(
                lowered,
                r#"(import "{interface}" (instance ${name} {types} (export "{name}" {function})))
                (core func ${name}' (canon lower (func ${name} "{name}")
                    (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))"#
            );
            let _ = write!(offered, r#"(export "{name}" (func ${name}'))"#);
            let _ = write!(linked, r#"(import "host" "{name}" (func ${name} {core}))"#);
        }
        let text = format!(
            r#"(component
            (core module $lib
                (memory (export "memory") {memory})
                (global $heap (mut i32) (i32.const 8192))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
                    (global.set $heap (i32.add (local.get $at) (local.get 3)))
                    (local.get $at)))
            (core instance $lib (instantiate $lib))
            {lowered}
            (core instance $host {offered})
            (core module $m
                (import "lib" "memory" (memory 0))
                {linked}
                (data (i32.const 1024) "{description}")
                (data (i32.const 1100) "{body}")
                (data (i32.const 2048) "1") (data (i32.const 2050) "go") (data (i32.const 2056) "{{}}") (data (i32.const 2064) "7[]")
                (func $ok (param $text i32) (param $length i32) (result i32)
                    (i32.store8 (i32.const 3072) (i32.const 0))
                    (i32.store (i32.const 3080) (local.get $text))
                    (i32.store (i32.const 3084) (local.get $length))
                    (i32.const 3072))
                (func $cancelled (result i32)
                    (i32.store8 (i32.const 3072) (i32.const 1))
                    (i32.store8 (i32.const 3080) (i32.const 3))
                    (i32.const 3072))
                {more}
                (func (export "describe") (result i32) {describe})
                (func (export "run") (param i32 i32 i32 i32) (result i32) {run}))
            (core instance $i (instantiate $m (with "lib" (instance $lib)) (with "host" (instance $host))))
            (type $failure' (record (field "message" string) (field "code" (option string)) (field "detail" (option string))))
            (export $failure "t-failure" (type $failure'))
            (type $retry' (record (field "failure" $failure) (field "after-ms" (option u64))))
            (export $retry "t-retry" (type $retry'))
            (type $error' (variant (case "retry" $retry) (case "permanent" $failure) (case "invalid-arguments" $failure) (case "cancelled")))
            (export $error "t-error" (type $error'))
            (type $parameter' (record (field "name" string) (field "schema" string) (field "optional" bool)))
            (export $parameter "t-parameter" (type $parameter'))
            (type $body' (record (field "name" string) (field "doc" string) (field "parameters" (list $parameter))
                (field "returns" string) (field "hints" (list (tuple string string)))))
            (export $body "t-body" (type $body'))
            (type $description' (record (field "version" string) (field "doc" string) (field "bodies" (list $body))))
            (export $description "t-description" (type $description'))
            (func $describe (result $description)
                (canon lift (core func $i "describe") (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))
            (func $run (param "name" string) (param "args" string) (result (result string (error $error)))
                (canon lift (core func $i "run") (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))
            (instance $tasks (export "describe" (func $describe)) (export "run" (func $run)))
            (export "{contract}" (instance $tasks)))"#
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}
