//! Guests written in WebAssembly text: what no SDK would let a plugin do.

/// A component that exports `tasks`, made of the given pieces of a core module.
///
/// `run` and `describe` are bodies of functions that return an address. At 1024 stands a valid description with one body, `go`;
/// `$ok` answers with the text at an address; `$heap` is where the host puts arguments.
pub struct Guest<'a> {
    pub run: &'a str,
    pub describe: &'a str,
    pub more: &'a str,
    pub memory: &'a str,
    pub contract: &'a str,
    pub imports: &'a str,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            run: "(call $ok (i32.const 2064) (i32.const 1))",
            describe: "(i32.const 1024)",
            more: "",
            memory: "1",
            contract: "taskhost:plugin/tasks@0.1.0",
            imports: "",
        }
    }
}

/// A guest whose `run` is this.
pub fn running(run: &str) -> Vec<u8> {
    Guest { run, ..Guest::default() }.build()
}

impl Guest<'_> {
    pub fn build(&self) -> Vec<u8> {
        let Self { run, describe, more, memory, contract, imports } = self;
        let word = |number: u32| number.to_le_bytes().iter().map(|byte| format!("\\{byte:02x}")).collect::<String>();
        // version "1" at 2048, name "go" at 2050, "{}" at 2056, a result "7" at 2064
        let description = [2048, 1, 0, 0, 1100, 1].map(word).concat();
        let body = [2050, 2, 0, 0, 0, 0, 2056, 2, 0, 0].map(word).concat();
        let text = format!(
            r#"(component
            {imports}
            (core module $m
                (memory (export "memory") {memory})
                (global $heap (mut i32) (i32.const 8192))
                (data (i32.const 1024) "{description}")
                (data (i32.const 1100) "{body}")
                (data (i32.const 2048) "1") (data (i32.const 2050) "go") (data (i32.const 2056) "{{}}") (data (i32.const 2064) "7")
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
                    (global.set $heap (i32.add (local.get $at) (local.get 3)))
                    (local.get $at))
                (func $ok (param $text i32) (param $length i32) (result i32)
                    (i32.store8 (i32.const 3072) (i32.const 0))
                    (i32.store (i32.const 3080) (local.get $text))
                    (i32.store (i32.const 3084) (local.get $length))
                    (i32.const 3072))
                {more}
                (func (export "describe") (result i32) {describe})
                (func (export "run") (param i32 i32 i32 i32) (result i32) {run}))
            (core instance $i (instantiate $m))
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
                (canon lift (core func $i "describe") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
            (func $run (param "name" string) (param "args" string) (result (result string (error $error)))
                (canon lift (core func $i "run") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
            (instance $tasks (export "describe" (func $describe)) (export "run" (func $run)))
            (export "{contract}" (instance $tasks)))"#
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}
