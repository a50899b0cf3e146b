//! Argument checking: what a person types, and what becomes of it.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn int() -> Value {
    json!({"type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX})
}

fn offer(catalogue: &mut Catalogue, name: &str, parameters: &[(&str, Value)], returns: Value) {
    let parameters = parameters.iter().map(|(name, schema)| Parameter {
        name: name.trim_end_matches('?').into(),
        schema: schema.clone(),
        optional: name.ends_with('?'),
    });
    let name = TaskName::new(name).unwrap();
    let body = Body { name: name.clone(), doc: String::new(), parameters: parameters.collect(), returns, hints: Hints::default() };
    catalogue.offers.insert(name, Offer { body, code: CodeId::default() });
}

fn catalogue() -> Catalogue {
    let mut all = Catalogue::default();
    let list = |items: Value| json!({"type": "array", "items": items});
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "format": "uint8"}}, "required": ["name"]});
    offer(&mut all, "add", &[("a", int()), ("b", int())], int());
    offer(&mut all, "sum_ints", &[("values", list(int()))], int());
    offer(&mut all, "sum_floats", &[("values", list(json!({"type": "number"})))], json!({"type": "number"}));
    offer(
        &mut all,
        "greet",
        &[("name", json!({"type": "string"})), ("times?", json!({"type": ["integer", "null"], "minimum": 1, "maximum": 10}))],
        json!({"type": "string"}),
    );
    offer(
        &mut all,
        "mail",
        &[
            ("to", json!({"type": "string", "format": "email"})),
            ("cc?", list(json!({"type": "string"}))),
            ("urgent?", json!({"type": "boolean"})),
        ],
        json!({"type": "null"}),
    );
    offer(&mut all, "echo", &[("value", json!({}))], json!({}));
    offer(&mut all, "hire", &[("person", person)], json!({"type": "object", "additionalProperties": {"type": "number"}}));
    offer(&mut all, "either", &[("x", json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}))], json!({}));
    offer(&mut all, "pick", &[("colour", json!({"enum": ["red", "blue", 7]}))], json!({}));
    offer(&mut all, "linked", &[("x", json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "format": "int32"}}}))], json!({}));
    let small = json!({"type": "integer", "minimum": 0, "maximum": 255});
    offer(&mut all, "level", &[("n", small.clone()), ("next?", json!({"anyOf": [small, {"type": "null"}]}))], json!({}));
    offer(
        &mut all,
        "pair",
        &[("p", json!({"type": "array", "prefixItems": [int(), {"type": "boolean"}], "minItems": 2, "maxItems": 2}))],
        json!({}),
    );
    offer(&mut all, "bytes", &[("all", list(json!({"type": "integer"})))], json!({}));
    offer(&mut all, "transferBU", &[], int());
    all
}

fn words(line: &[&str]) -> Given {
    let mut given = (Vec::new(), Vec::new());
    for word in line {
        match word.strip_prefix("--") {
            Some(pair) => given.1.push(pair.split_once('=').map(|(name, value)| (name.into(), value.into())).unwrap()),
            None => given.0.push((*word).into()),
        }
    }
    Given::Words { words: given.0, named: given.1 }
}

fn check(name: &str, given: &Given) -> String {
    catalogue().check(&TaskName::new(name).unwrap(), given).unwrap_or_else(|error| error.to_string())
}

#[test]
fn words_of_a_command_line_become_what_the_schema_says() {
    for (name, line, expected) in [
        ("add", &["1", "1"][..], "[1,1]"),
        ("add", &["-9223372036854775808", "9223372036854775807"], "[-9223372036854775808,9223372036854775807]"),
        ("add", &["1", "--b=2"], "[1,2]"),
        ("add", &["--b=2", "--a=1"], "[1,2]"),
        ("sum_ints", &["[1, 2, 3]"], "[[1,2,3]]"),
        ("sum_floats", &["[1, 2.50, 1e3]"], "[[1,2.50,1e3]]"),
        ("greet", &["1"], r#"["1"]"#),
        ("greet", &["null"], r#"["null"]"#),
        ("greet", &["\"x\" \\ é"], r#"["\"x\" \\ é"]"#),
        ("greet", &["Ann", "3"], r#"["Ann",3]"#),
        ("greet", &["Ann", "null"], r#"["Ann",null]"#),
        ("mail", &["a@b", "--urgent=true"], r#"["a@b",null,true]"#),
        ("echo", &["1"], "[1]"),
        ("echo", &["one"], r#"["one"]"#),
        ("echo", &["123456789012345678901234567890.10"], "[123456789012345678901234567890.10]"),
        ("echo", &["{\"a b\": [1, \" \\\" \"]}"], r#"[{"a b":[1," \" "]}]"#),
        ("hire", &[r#"{"name": "Ann", "age": 255}"#], r#"[{"name":"Ann","age":255}]"#),
        ("either", &["1"], "[1]"),
        ("either", &["1.5"], r#"["1.5"]"#),
        ("either", &["one"], r#"["one"]"#),
        ("level", &["255"], "[255]"),
        ("level", &["0", "7"], "[0,7]"),
        ("level", &["0", "null"], "[0,null]"),
        ("sum_floats", &["[1,2.0,-0,18446744073709551616]"], "[[1,2.0,-0,18446744073709551616]]"),
        ("pair", &["[1,true]"], "[[1,true]]"),
        ("pick", &["red"], r#"["red"]"#),
        ("pick", &["7"], "[7]"),
        ("linked", &["-7"], "[-7]"),
        ("transferBU", &[], "[]"),
    ] {
        assert_eq!(check(name, &words(line)), expected, "{name} {line:?}");
    }
}

#[test]
fn an_optional_argument_that_is_left_out_is_not_stored() {
    assert_eq!(check("greet", &words(&["Ann"])), r#"["Ann"]"#);
    assert_eq!(check("mail", &words(&["a@b"])), r#"["a@b"]"#);
    assert_eq!(check("mail", &Given::Json(r#"{"to": "a@b"}"#.into())), r#"["a@b"]"#);
    // A place before one that was given can't be left empty, and `null` that was given stays.
    assert_eq!(check("mail", &words(&["a@b", "--urgent=true"])), r#"["a@b",null,true]"#);
    assert_eq!(check("mail", &Given::Json(r#"["a@b", null]"#.into())), r#"["a@b",null]"#);
}

#[test]
fn what_does_not_fit_is_refused_with_a_sentence() {
    for (name, line, expected) in [
        ("ad", &["1", "1"][..], "unknown task `ad`; did you mean `add`?"),
        ("sum", &["1"], "unknown task `sum`; did you mean `sum_ints` or `sum_floats`?"),
        ("transferbu", &[], "unknown task `transferbu`; did you mean `transferBU`?"),
        (
            "zzz",
            &[],
            "unknown task `zzz`; some of those known: `add`, `bytes`, `echo`, `either`, `greet`, `hire`, `level`, `linked`, `mail`, `pair`",
        ),
        ("add", &["1"], "`add` takes 2 arguments (a: integer, b: integer); got 1: missing `b`"),
        ("add", &["--b=1"], "`add` takes 2 arguments (a: integer, b: integer); got 1: missing `a`"),
        ("add", &[], "`add` takes 2 arguments (a: integer, b: integer); got 0: missing `a`, `b`"),
        ("add", &["1", "2", "3"], "`add` takes 2 arguments (a: integer, b: integer); got 3"),
        ("greet", &[], "`greet` takes 1 to 2 arguments (name: string, times?: integer or null); got 0: missing `name`"),
        ("transferBU", &["1"], "`transferBU` takes no arguments; got 1"),
        ("transferBU", &["--x=1"], "`transferBU` has no parameter `x`; it takes no arguments"),
        ("add", &["1", "--c=2"], "`add` has no parameter `c`; did you mean `a` or `b`?"),
        ("add", &["1", "--second=2"], "`add` has no parameter `second`; it takes (a: integer, b: integer)"),
        ("add", &["1", "--a=2"], "parameter `a` of `add` is given twice: leave one out"),
        ("add", &["1", "x"], "parameter `b` of `add` takes a 64-bit integer; got \"x\""),
        ("add", &["1", ""], "parameter `b` of `add` takes a 64-bit integer; got \"\""),
        ("add", &["1", "true"], "parameter `b` of `add` takes a 64-bit integer; got true"),
        ("add", &["1", "1.0"], "parameter `b` of `add` takes a 64-bit integer; got 1.0"),
        ("add", &["1", "1e2"], "parameter `b` of `add` takes a 64-bit integer; got 1e2"),
        ("add", &["1", "9223372036854775808"], "parameter `b` of `add` takes a 64-bit integer; got 9223372036854775808"),
        ("add", &["1", "-9223372036854775809"], "parameter `b` of `add` takes a 64-bit integer; got -9223372036854775809"),
        ("linked", &["2147483648"], "parameter `x` of `linked` takes a 32-bit integer; got 2147483648"),
        ("greet", &["Ann", "11"], "parameter `times` of `greet` takes an integer from 1 to 10 or null; got 11"),
        ("mail", &["a", "b"], "parameter `cc` of `mail` takes a list of strings; got \"b\""),
        (
            "mail",
            &["a", "[\"b\""],
            "parameter `cc` of `mail` takes a list of strings; got \"[\\\"b\\\"\": not JSON: EOF while parsing a list at line 1 column 4",
        ),
        ("mail", &["a", "[]", "yes"], "parameter `urgent` of `mail` takes true or false; got \"yes\""),
        (
            "sum_ints",
            &["[1,\"x\"]"],
            "parameter `values` of `sum_ints` takes a list of 64-bit integers; got [1,\"x\"]: at `/1`: \"x\" is not of type \"integer\"",
        ),
        (
            "sum_ints",
            &["[1,2.0]"],
            "parameter `values` of `sum_ints` takes a list of 64-bit integers; got [1,2.0]: at `/1`: 2.0 does not fit an integer of 64 bits",
        ),
        ("hire", &["{}"], "parameter `person` of `hire` takes an object with `name`; got {}: \"name\" is a required property"),
        (
            "hire",
            &[r#"{"name":"Ann","age":256}"#],
            "parameter `person` of `hire` takes an object with `name`; got {\"name\":\"Ann\",\"age\":256}: at `/age`: 256 does not fit an unsigned integer of 8 bits",
        ),
        (
            "pick",
            &["green"],
            "parameter `colour` of `pick` takes \"red\", \"blue\" or 7; got \"green\": \"green\" is not one of \"red\", \"blue\" or 7",
        ),
    ] {
        assert_eq!(check(name, &words(line)), expected, "{name} {line:?}");
    }
}

#[test]
fn json_is_taken_by_position_or_by_name_and_keeps_its_text() {
    for (name, text, expected) in [
        ("add", " [ 1 , 2 ] ", "[1,2]"),
        ("add", r#"{"b": 2, "a": 1}"#, "[1,2]"),
        ("greet", r#"["Ann", null]"#, r#"["Ann",null]"#),
        ("mail", r#"["Ann", null, true]"#, r#"["Ann",null,true]"#),
        ("echo", r#"["\u0041  \" "]"#, r#"["\u0041  \" "]"#),
        ("add", "[1]", "`add` takes 2 arguments (a: integer, b: integer); got 1: missing `b`"),
        ("greet", "[1]", "parameter `name` of `greet` takes a string; got 1"),
        ("add", r#"{"a": 1, "a": 2, "b": 3}"#, "parameter `a` of `add` is given twice: leave one out"),
        ("add", "1", "arguments are a JSON array such as [1, \"x\"], or an object of parameters by name; got 1"),
        ("add", "", "arguments are a JSON array such as [1, \"x\"], or an object of parameters by name; got "),
        ("add", "[1,", "not JSON: EOF while parsing a value at line 1 column 3"),
        ("add", "[1,2] x", "not JSON: trailing characters at line 1 column 7"),
    ] {
        assert_eq!(check(name, &Given::Json(text.into())), expected, "{name} {text}");
    }
}

#[test]
fn with_no_body_to_ask_words_are_json_or_strings() {
    assert_eq!(words(&["1", "x", "[1, 2]", "\"q\""]).unchecked().unwrap(), r#"[1,"x",[1,2],"q"]"#);
    assert_eq!(Given::Json(" [1, 2]".into()).unchecked().unwrap(), "[1,2]");
    assert!(words(&["--a=1"]).unchecked().unwrap_err().to_string().contains("by position"));
    assert!(Given::Json("{}".into()).unchecked().is_err());
}

#[test]
fn deep_and_huge_arguments_are_judged_without_harm() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_eq!(check("echo", &Given::Json(format!("[{deep}]"))), "nested deeper than 127 levels: flatten it");
    assert!(check("sum_ints", &words(&[&deep])).ends_with("nested deeper than 127 levels: flatten it"));
    let huge = format!("[{}1]", "1, ".repeat(3_000_000));
    assert_eq!(check("sum_ints", &words(&[&huge])).len(), 6_000_000 + 1 + 4);
    let refusal = check("add", &words(&["1", &"x".repeat(10_000_000)]));
    assert!(refusal.len() < 200, "{}", refusal.len());
}

#[test]
fn a_schema_that_makes_no_sense_takes_anything() {
    for schema in [
        json!(null),
        json!(7),
        json!(true),
        json!({"type": "teapot"}),
        json!({"type": 7}),
        json!({"$ref": "#"}),
        json!({"$ref": "#/nowhere"}),
        json!({"$ref": "https://example.com/schema.json"}),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"anyOf": vec![json!({"$ref": "#"}); 100]}),
        json!({"allOf": [{"$ref": "#/allOf/1"}, {"$ref": "#/allOf/0"}]}),
        json!({"pattern": "("}),
        json!({"$schema": "https://example.com/unknown"}),
    ] {
        let mut all = Catalogue::default();
        offer(&mut all, "odd", &[("x", schema.clone())], schema.clone());
        let given = words(&["1"]);
        let checked = all.check(&TaskName::new("odd").unwrap(), &given);
        assert_eq!(checked.as_deref(), Ok("[1]"), "{schema}");
        assert!(signature(&all.offers.values().next().unwrap().body).starts_with("odd(x: "));
    }
}

#[test]
fn references_that_multiply_are_not_walked() {
    let doubled = |n: usize| json!({"anyOf": vec![json!({"$ref": format!("#/$defs/d{}", n + 1)}); 2]});
    let mut defs: serde_json::Map<_, _> = (0..40).map(|n| (format!("d{n}"), doubled(n))).collect();
    defs.insert("d40".into(), json!({"type": "string"}));
    let mut all = Catalogue::default();
    offer(&mut all, "odd", &[("x", json!({"$ref": "#/$defs/d0", "$defs": defs}))], json!({}));
    assert_eq!(all.check(&TaskName::new("odd").unwrap(), &Given::Json("[1]".into())).as_deref(), Ok("[1]"));
}

#[test]
fn a_signature_reads_like_one() {
    let all = catalogue();
    let shown: Vec<_> = all.offers.values().map(|offer| signature(&offer.body)).collect();
    assert_eq!(
        shown,
        [
            "add(a: integer, b: integer) -> integer",
            "bytes(all: list<integer>) -> any",
            "echo(value: any) -> any",
            "either(x: integer or string) -> any",
            "greet(name: string, times?: integer or null) -> string",
            "hire(person: object) -> map<number>",
            "level(n: integer, next?: integer or null) -> any",
            "linked(x: integer) -> any",
            "mail(to: string, cc?: list<string>, urgent?: boolean) -> null",
            "pair(p: list) -> any",
            "pick(colour: \"red\", \"blue\" or 7) -> any",
            "sum_floats(values: list<number>) -> number",
            "sum_ints(values: list<integer>) -> integer",
            "transferBU() -> integer",
        ]
    );
}

#[test]
fn an_empty_catalogue_says_so() {
    let error = Catalogue::default().check(&TaskName::new("add").unwrap(), &words(&[])).unwrap_err();
    assert_eq!(error.to_string(), "unknown task `add`; no worker has announced a body yet: start one with its plugins");
}

proptest! {
    #[test]
    fn any_two_integers_are_kept_to_the_last_digit(a: i64, b: i64) {
        prop_assert_eq!(check("add", &words(&[&a.to_string(), &b.to_string()])), format!("[{a},{b}]"));
    }

    #[test]
    fn any_string_arrives_as_it_was_typed(text in any::<String>()) {
        let args = check("greet", &Given::Words { words: vec![text.clone()], named: vec![] });
        prop_assert_eq!(serde_json::from_str::<Value>(&args).unwrap(), json!([text]));
    }

    #[test]
    fn any_words_end_in_json_or_a_sentence(line in prop::collection::vec(any::<String>(), 0..4)) {
        for name in catalogue().offers.keys() {
            let given = Given::Words { words: line.clone(), named: vec![] };
            if let Ok(args) = catalogue().check(name, &given) {
                let items: Vec<Value> = serde_json::from_str(&args).unwrap();
                prop_assert_eq!(items.len(), line.len(), "what was left out stays out");
            }
        }
    }
}

#[test]
fn unchecked_arguments_are_json_that_a_guest_can_read() {
    let deep = format!("[{}1{}]", "[".repeat(200), "]".repeat(200));
    for (text, why) in [(r#"["\ud800"]"#, "not JSON"), ("[1e999]", "not JSON"), (&*deep, "nested deeper than 127 levels")] {
        let refused = Given::Json(text.to_owned()).unchecked().unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(Given::Json(" [9007199254740993, 1.50] ".to_owned()).unchecked().unwrap(), "[9007199254740993,1.50]");
}

#[test]
fn a_name_that_stands_twice_in_an_object_is_refused_wherever_it_stands() {
    let twice = r#"{"name":"a","name":"b"}"#;
    let named = |given: &str| vec![("person".to_owned(), given.to_owned())];
    for given in [
        Given::Json(format!("[{twice}]")),
        Given::Json(format!(r#"{{"person":{twice}}}"#)),
        Given::Words { words: vec![twice.to_owned()], named: Vec::new() },
        Given::Words { words: Vec::new(), named: named(twice) },
    ] {
        let refused = catalogue().check(&TaskName::new("hire").unwrap(), &given).unwrap_err().to_string();
        assert!(refused.starts_with("an object names twice, leave one out: `name`"), "{refused}");
    }
    // Where any value is taken it is no string either.
    for word in [twice, r#"[{"a":{"b":1,"b":1}}]"#] {
        let given = Given::Words { words: vec![word.to_owned()], named: Vec::new() };
        assert!(catalogue().check(&TaskName::new("echo").unwrap(), &given).is_err());
        assert!(given.unchecked().is_err());
        assert!(Given::Json(format!("[{word}]")).unchecked().is_err());
    }
}
