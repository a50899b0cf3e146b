//! The examples of docs/http.md are run as they stand there, in the languages that are installed.

use std::{fs, path::Path, process::Command};

use crate::support::{http::Http, program::Taskhost};

/// A language as the page names it, its file, and how it is run. A runner that can't run the file at all is left out, with a word.
const LANGUAGES: [(&str, &str, &[&str]); 5] = [
    ("sh", "example.sh", &["sh"]),
    ("python", "example.py", &["python3"]),
    // It has no types of its own, so that any Node reads it.
    ("typescript", "example.mjs", &["node"]),
    ("go", "example.go", &["go", "run"]),
    ("php", "example.php", &["php"]),
];

#[test]
fn the_examples_of_the_page_work_as_they_stand_there() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md")).expect("the page");
    let host = Taskhost::new();
    let made = host.run(&["token", "new", "example", "--scope", "enqueue,read,payload"]);
    host.write("taskhost.toml", made.stderr.split("anew:\n\n").nth(1).expect("the lines"));
    let (_worker, http) = Http::worker(&host, &["math"]);
    let mut ran = 0;
    for (language, file, runner) in LANGUAGES {
        let fence = format!("```{language}\n");
        let code = page.split(&*fence).skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default());
        for code in code {
            // The shell's examples are for a server without tokens at its usual place.
            let code = code.replace("curl", &format!("curl -sS -H 'Authorization: Bearer {}'", made.stdout.trim()));
            host.write(file, &code.replace("localhost:8080", &http.at));
            let mut command = Command::new(runner[0]);
            command.args(&runner[1..]).arg(host.dir().join(file)).current_dir(host.dir());
            command.env("TASKHOST_URL", format!("http://{}", http.at)).env("TASKHOST_TOKEN", made.stdout.trim());
            command.env("HOME", host.dir()).env("GOFLAGS", "-mod=mod");
            let Ok(output) = command.output() else {
                eprintln!("NOT RUN: the example in {language}, `{}` is not installed here", runner[0]);
                continue;
            };
            let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if wrong.contains("curl: not found") || wrong.contains("fetch is not defined") {
                eprintln!("NOT RUN: the example in {language}: {}", wrong.trim());
                continue;
            }
            assert!(output.status.success(), "the example in {language}: {wrong}");
            let is_right =
                said.trim() == "succeeded 2" || said.contains("\"result\":2") || said.matches("\"queue\":\"default\"").count() == 3;
            assert!(is_right, "the example in {language} prints: {said}");
            ran += 1;
        }
    }
    eprintln!("{ran} examples were run");
}
