//! What an operator does about plugins that are not trusted, with the real program: look, grant, sign.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::center::{Center, PAGES, RECORDS_A_PAGE};

/// A directory of the operator's, with caches of its own.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        fs::create_dir(desk.at("plugins")).unwrap();
        desk
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Puts a plugin there that `cargo xtask plugins` has built.
    fn put(&self, name: &str) {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(format!("{name}.wasm"));
        fs::copy(&built, self.at(&format!("plugins/{name}.wasm")))
            .unwrap_or_else(|error| panic!("{error}: run `cargo xtask plugins` to build {}", built.display()));
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_taskhost"));
        program.args(args).current_dir(self.0.path()).env("XDG_STATE_HOME", self.at("state")).env("XDG_CACHE_HOME", self.at("cache"));
        program.output().expect("the program starts")
    }

    /// What it printed, when it did well.
    fn said(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complained of.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn what_inspect_prints_can_be_pasted_and_then_the_transfer_works() {
    let (desk, center) = (Desk::new(), Center::start());
    desk.put("org-transfer");
    let file = "plugins/org-transfer.wasm";
    let denied = desk.refused(&["run", file, "transferDepartment"]);
    assert!(denied.contains("CENTER_URL is not set"), "{denied}");

    let shown = desk.said(&["plugin", "inspect", file]);
    for line in [
        "transferDepartment()",
        "imports  ",
        "taskhost:plugin/kv@",
        "granted  nothing",
        "lacks    http https://hr.example.com; http https://ecf.example.com; env CENTER_URL; env ECF_URL; kv",
        "[plugins.org-transfer]\nhttp = [\"https://hr.example.com\", \"https://ecf.example.com\"]\n",
    ] {
        assert!(shown.contains(line), "no `{line}` in:\n{shown}");
    }
    let (_, toml) = shown.split_once("examples:\n").expect("there is something to paste");
    // The author's examples, with the servers that are here.
    let toml = toml.replace("https://hr.example.com/api", &center.url()).replace("https://hr.example.com", &center.url());
    fs::write(desk.at("taskhost.toml"), toml).unwrap();
    assert_eq!(desk.said(&["run", file, "transferDepartment"]).trim(), (PAGES * RECORDS_A_PAGE).to_string());

    let shown = desk.said(&["plugin", "inspect", file]);
    assert!(shown.contains(&format!("granted  http {}", center.url())), "{shown}");
    assert!(shown.contains("kv of 67108864 bytes and 100000 keys"), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&desk.said(&["plugin", "inspect", file, "--json"])).unwrap();
    assert!(json["granted"].as_array().is_some_and(|granted| granted.len() >= 4) && json["imports"].is_array(), "{json}");
    assert_eq!(json["serving"]["digest"].as_str().map(str::len), Some(64));
}

#[test]
fn plugins_are_signed_and_verified() {
    let desk = Desk::new();
    desk.put("math");
    fs::write(desk.at("password"), "open sesame\n").unwrap();
    let math = "plugins/math.wasm";
    desk.said(&["plugin", "keygen", "deploy", "--password-file", "password"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(desk.at("deploy.key")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(desk.refused(&["plugin", "keygen", "deploy"]).contains("already"), "a key is never overwritten");
    assert!(desk.refused(&["plugin", "verify", math, "--trust", "deploy.pub"]).contains("not signed"));
    assert!(desk.refused(&["plugin", "sign", math, "--key", "deploy.key"]).contains("--password-file"));
    desk.said(&["plugin", "sign", math, "--key", "deploy.key", "--password-file", "password"]);
    assert!(desk.said(&["plugin", "verify", math, "--trust", "deploy.pub"]).contains("signed by "));
    let mut bytes = fs::read(desk.at(math)).unwrap();
    bytes.push(0);
    fs::write(desk.at(math), bytes).unwrap();
    assert!(desk.refused(&["plugin", "verify", math, "--trust", "deploy.pub"]).contains("changed after it was signed"));
    assert!(desk.refused(&["worker", "--require-signed"]).contains("it needs `trust`"));
    assert!(desk.refused(&["worker", "--trust", "deploy.pub"]).contains("require_signed"));
}
