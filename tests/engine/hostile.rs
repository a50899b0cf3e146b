//! Guests in WebAssembly text. They do what no SDK allows.

use std::fmt::Write;

/// A component that exports `tasks`, made of the given pieces of a core module.
///
/// `run` and `describe` are bodies of functions that return an address. At 1024 is a valid description with one body, by default `go`. `$ok` returns
/// the text at an address, `$failed` returns it as a permanent failure. The texts of the host are beyond 8192.
pub(crate) struct Guest<'a> {
    /// The name of its one body; at most six letters.
    pub(crate) name: &'a str,
    pub(crate) run: &'a str,
    pub(crate) describe: &'a str,
    pub(crate) more: &'a str,
    /// Pages of memory.
    pub(crate) memory: u32,
    pub(crate) contract: &'a str,
    pub(crate) imports: &'a [Import<'a>],
    /// The beginning of `realloc`, which allocates memory for the texts of the host.
    pub(crate) realloc: &'a str,
}

/// One function of the host. `types` are the types of its interface that it uses. Without an interface, `types` defines the core function
/// `$NAME'` itself.
#[derive(Clone, Copy)]
pub(crate) struct Import<'a> {
    pub(crate) interface: &'a str,
    pub(crate) types: &'a str,
    pub(crate) name: &'a str,
    pub(crate) function: &'a str,
    pub(crate) core: &'a str,
}

/// `exit(status)`: 0 for well, 1 for not.
pub(crate) const EXIT: Import = Import {
    interface: "wasi:cli/exit@0.2.0",
    types: "",
    name: "exit",
    function: r#"(func (param "status" (result)))"#,
    core: "(param i32)",
};

/// `exit-with-code(code)`
pub(crate) const EXIT_WITH_CODE: Import = Import {
    interface: "wasi:cli/exit@0.2.0",
    types: "",
    name: "exit-with-code",
    function: r#"(func (param "status-code" u8))"#,
    core: "(param i32)",
};

/// `is-cancelled() -> bool`
pub(crate) const IS_CANCELLED: Import = Import {
    interface: "taskhost:plugin/context@0.1.0",
    types: "",
    name: "is-cancelled",
    function: "(func (result bool))",
    core: "(result i32)",
};

/// `attempt() -> u32`
pub(crate) const ATTEMPT: Import = Import {
    interface: "taskhost:plugin/context@0.1.0",
    types: "",
    name: "attempt",
    function: "(func (result u32))",
    core: "(result i32)",
};

/// `increment(key, by, return-address)`
pub(crate) const INCREMENT: Import = Import {
    interface: "taskhost:plugin/kv@0.1.0",
    types: r#"(type $e' (variant (case "denied" string) (case "quota" string) (case "invalid" string) (case "unavailable" string)))
        (export "kv-error" (type $e (eq $e')))"#,
    name: "increment",
    function: r#"(func (param "key" string) (param "by" s64) (result (result s64 (error $e))))"#,
    core: "(param i32 i32 i64 i32)",
};

/// `enqueue(…, return-address)`: task, args, queue?, delay, priority?, id?, headers
pub(crate) const ENQUEUE: Import = Import {
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

/// `[constructor]fields() -> own<fields>`: a handle in the host's table, to HTTP headers
pub(crate) const FIELDS: Import = Import {
    interface: "wasi:http/types@0.2.0",
    types: r#"(export "fields" (type $fields (sub resource)))"#,
    name: "[constructor]fields",
    function: "(func (result (own $fields)))",
    core: "(result i32)",
};

/// A handle to a resource of the guest.
pub(crate) const OWN_RESOURCE: Import = Import {
    interface: "",
    types: "(type $own (resource (rep i32))) (core func $own' (canon resource.new $own))",
    name: "own",
    function: "",
    core: "(param i32) (result i32)",
};

/// `log(level, message, fields)`
pub(crate) const LOG: Import = Import {
    interface: "taskhost:plugin/log@0.1.0",
    types: r#"(type $l' (enum "trace" "debug" "info" "warn" "error")) (export "level" (type $l (eq $l')))"#,
    name: "log",
    function: r#"(func (param "level" $l) (param "message" string) (param "fields" (list (tuple string string))))"#,
    core: "(param i32 i32 i32 i32 i32)",
};

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            name: "go",
            run: "(call $ok (i32.const 2064) (i32.const 1))",
            describe: "(i32.const 1024)",
            more: "",
            memory: 1,
            contract: "taskhost:plugin/tasks@0.1.0",
            imports: &[],
            realloc: "",
        }
    }
}

/// A little-endian word for data segments.
fn word(number: u32) -> String {
    number.to_le_bytes().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:02x}");
        text
    })
}

/// A guest that offers bodies of these names.
pub(crate) fn offering(names: &[&str]) -> Vec<u8> {
    // The description at 6000, its bodies at 6100, their names from 7000 on.
    let count = u32::try_from(names.len()).unwrap();
    let (mut bodies, mut texts) = (String::new(), String::new());
    for name in names {
        let at = 7000 + u32::try_from(texts.len() / 3).unwrap();
        let _ = name.bytes().try_for_each(|byte| write!(texts, "\\{byte:02x}"));
        bodies += &[at, u32::try_from(name.len()).unwrap(), 0, 0, 0, 0, 2056, 2, 0, 0].map(word).concat();
    }
    let description = [2048, 1, 0, 0, 6100, count].map(word).concat();
    let more = format!(r#"(data (i32.const 6000) "{description}") (data (i32.const 6100) "{bodies}") (data (i32.const 7000) "{texts}")"#);
    Guest { describe: "(i32.const 6000)", more: &more, ..Guest::default() }.build()
}

/// A guest with this `run`.
pub(crate) fn running(run: &str) -> Vec<u8> {
    Guest { run, ..Guest::default() }.build()
}

impl Guest<'_> {
    pub(crate) fn build(&self) -> Vec<u8> {
        let Self { name, run, describe, more, memory, contract, imports, realloc } = self;
        // version "1" at 2048, the name at 2050, "{}" at 2056, a result "7" at 2064
        let description = [2048, 1, 0, 0, 1100, 1].map(word).concat();
        let body = [2050, u32::try_from(name.len()).unwrap(), 0, 0, 0, 0, 2056, 2, 0, 0].map(word).concat();
        let (mut lowered, mut offered, mut linked) = (String::new(), String::new(), String::new());
        for Import { interface, types, name, function, core } in *imports {
            // `[constructor]fields` can't be written as an identifier.
            let id = name.replace(['[', ']'], ".");
            if interface.is_empty() {
                lowered += types;
            } else {
                let _ = write!(
                    lowered,
                    r#"(import "{interface}" (instance ${id} {types} (export "{name}" {function})))
                    (core func ${id}' (canon lower (func ${id} "{name}")
                        (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))"#
                );
            }
            let _ = write!(offered, r#"(export "{name}" (func ${id}'))"#);
            let _ = write!(linked, r#"(import "host" "{name}" (func ${id} {core}))"#);
        }
        let text = format!(
            r#"(component
            (core module $lib
                (memory (export "memory") {memory})
                (global $heap (mut i32) (i32.const 8192))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    {realloc}
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
                (data (i32.const 2048) "1") (data (i32.const 2050) "{name}") (data (i32.const 2056) "{{}}") (data (i32.const 2064) "7[]")
                (func $ok (param $text i32) (param $length i32) (result i32)
                    (i32.store8 (i32.const 3072) (i32.const 0))
                    (i32.store (i32.const 3080) (local.get $text))
                    (i32.store (i32.const 3084) (local.get $length))
                    (i32.const 3072))
                (func $failed (param $text i32) (param $length i32) (result i32)
                    (i32.store8 (i32.const 3072) (i32.const 1))
                    (i32.store8 (i32.const 3080) (i32.const 1))
                    (i32.store (i32.const 3088) (local.get $text))
                    (i32.store (i32.const 3092) (local.get $length))
                    (i32.store8 (i32.const 3096) (i32.const 0))
                    (i32.store8 (i32.const 3108) (i32.const 0))
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

/// A component with about this many bytes of code, different for each `seed`. It is valid, but no plugin.
pub(crate) fn large_component(bytes: usize, seed: u64) -> Vec<u8> {
    const FUNCTION: usize = 16 << 10;
    let mut random = fastrand::Rng::with_seed(seed);
    let section = |id: u8, content: &[u8]| [&[id][..], &unsigned(content.len()), content].concat();
    let count = (bytes / FUNCTION).max(1);
    // All functions take nothing and return an i64. Each folds a row of numbers into its local.
    let types = section(1, &[1, 0x60, 0, 1, 0x7e]);
    let functions = section(3, &[unsigned(count), vec![0; count]].concat());
    let mut code = unsigned(count);
    for _ in 0..count {
        let mut body = vec![1, 1, 0x7e];
        while body.len() < FUNCTION {
            // local.get 0, i64.const (six bytes), an operation, local.set 0
            body.extend_from_slice(&[0x20, 0, 0x42]);
            body.extend((0..5).map(|_| random.u8(..) | 0x80));
            body.extend_from_slice(&[random.u8(..64), *random.choice(&[0x7c, 0x7d, 0x7e, 0x85, 0x89]).unwrap_or(&0x7c), 0x21, 0]);
        }
        body.extend_from_slice(&[0x20, 0, 0x0b]);
        code.extend(unsigned(body.len()));
        code.extend(body);
    }
    let module = [&b"\0asm\x01\0\0\0"[..], &types, &functions, &section(10, &code)].concat();
    [&b"\0asm\x0d\0\x01\0"[..], &section(1, &module)].concat()
}

/// LEB128, the form of lengths in WebAssembly.
pub(super) fn unsigned(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
