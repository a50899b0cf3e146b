//! An operator and plugins that are not trusted, with the real program: inspect, grant, sign.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::{
    center::{Center, PAGES, RECORDS_A_PAGE},
    support::program::{Taskhost, until},
};

/// A directory of an operator, with its own caches.
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

    /// Its output, after a success.
    fn said(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its errors, after a failure.
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
        "\nsigned   not signed\n",
        "transferDepartment()",
        "imports  ",
        "taskhost:plugin/kv@",
        "granted  nothing",
        "lacks    http https://hr.example.com; http https://ecf.example.com; env CENTER_URL; env ECF_URL; kv",
        "[plugins.org-transfer]\nhttp = [\"https://hr.example.com\", \"https://ecf.example.com\"]\n",
    ] {
        assert!(shown.contains(line), "no `{line}` in:\n{shown}");
    }
    // The examples of this plugin name the test's servers, so the printed lines are pasted without a change.
    let (hr, ecf) = ("https://hr.example.com", "https://ecf.example.com");
    let mut bytes = fs::read(desk.at(file)).unwrap();
    replace(&mut bytes, &format!("{hr}/api"), &center.url());
    replace(&mut bytes, hr, &center.url());
    replace(&mut bytes, ecf, &center.url());
    fs::write(desk.at(file), bytes).unwrap();
    let shown = desk.said(&["plugin", "inspect", file]);
    let (_, toml) = shown.split_once("examples:\n").expect("there is something to paste");
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
fn a_hint_goes_no_further_than_the_workers_own_settings_unless_a_policy_says_more() {
    for (policy, ended) in [("", "timed out after 1 s"), ("[plugins.probe]\ntimeout = \"1500ms\"\n", "timed out after 1.5 s")] {
        let host = Taskhost::new();
        host.write("taskhost.toml", &format!("timeout = \"1s\"\nretries = 0\n{policy}"));
        host.drop_in("probe");
        let worker = host.worker(&[]);
        // It asks for an hour.
        let output = host.run(&["enqueue", "spin_forever", "--unchecked", "--wait=60s"]);
        assert!(output.code == 1 && output.stderr.contains(ended), "{output:?}");
        assert!(worker.stop().success());
    }
}

#[test]
fn a_policy_takes_hold_without_a_restart_and_a_bad_edit_changes_nothing() {
    let host = Taskhost::new();
    // The commands do not read this file. They would refuse a bad one at once.
    host.write("policy.toml", "retries = 0\n");
    host.drop_in("probe");
    let worker = host.worker(&["--config", "policy.toml"]);
    let asked = || host.run(&["enqueue", "kv_increment", "n", "--wait=60s"]);
    let denied = asked();
    assert!(denied.stderr.contains("denied: kv is not granted; to allow it: `[plugins.probe] kv = true`"), "{denied:?}");

    host.write("policy.toml", "retries = 0\n[plugins.probe]\nkv = true\n");
    until("the grant takes hold", || asked().code == 0);
    host.write("policy.toml", "retries = 0\n[plugins.probe]\nkv = false\nmemroy = 3\n");
    until("line and key are named", || host.lists("policy.toml: line 4, `plugins.probe.memroy`: no such key; did you mean `memory`?"));
    assert!(worker.log().contains("stay in force"), "the log says so too: {}", worker.log());
    assert_eq!(asked().code, 0, "the last good policy is still in force");
    host.write("policy.toml", "retries = 0\n");
    until("the grant is taken back", || asked().stderr.contains("denied: kv"));
    assert!(worker.stop().success());
}

/// Commands and workers in a container without a home, with a volume of root that everybody may write to.
#[test]
fn without_a_writable_home_a_body_runs_and_it_is_said_what_is_lost() {
    let desk = Desk::new();
    desk.put("math");
    fs::write(desk.at("nothing"), "").unwrap();
    let homeless = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_taskhost"));
        program.args(args).current_dir(desk.0.path()).env_remove("XDG_STATE_HOME").env_remove("XDG_CACHE_HOME");
        program.env("HOME", desk.at("nothing")).stdout(Stdio::piped()).stderr(Stdio::piped());
        program
    };
    let ran = homeless(&["run", "plugins/math.wasm", "add", "1", "1"]).output().expect("the program starts");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "2\n", "{said}");
    assert!(
        said.contains("cannot use the cache directory") && said.contains("every start compiles anew: set `cache` and `state`"),
        "{said}"
    );

    let mut worker = homeless(&["worker"]).spawn().expect("the program starts");
    let listed = || {
        let listed = homeless(&["plugin", "list"]).output().expect("the program starts");
        String::from_utf8_lossy(&listed.stdout).contains("serving")
    };
    until("it serves", listed);
    rustix::process::kill_process(rustix::process::Pid::from_child(&worker), rustix::process::Signal::TERM).expect("our own child");
    assert!(worker.wait().expect("our own child").success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut worker.stderr.take().expect("a pipe"), &mut said).expect("a log");
    for lost in ["cannot use the state directory", "will not be replaced by its last good version", "what was rolled back serves again"] {
        assert!(said.contains(lost), "no `{lost}` in:\n{said}");
    }
}

/// Like an emptyDir of Kubernetes: it belongs to root and is open to all. Only root can make one.
#[test]
fn a_volume_that_root_made_for_everybody_holds_the_state_and_the_cache() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root can run a program as another user");
        return;
    }
    let desk = Desk::new();
    desk.put("math");
    fs::create_dir(desk.at("volume")).unwrap();
    for (path, mode) in
        [(desk.at(""), 0o755), (desk.at("volume"), 0o777), (desk.at("plugins"), 0o755), (desk.at("plugins/math.wasm"), 0o644)]
    {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    // The program may be in a directory that only root can enter.
    let program = desk.at("taskhost");
    fs::copy(env!("CARGO_BIN_EXE_taskhost"), &program).unwrap();
    for state in ["volume", "volume/taskhost"] {
        let mut command = Command::new(&program);
        command.args(["run", "plugins/math.wasm", "add", "1", "1"]).current_dir(desk.0.path());
        command.env("TASKHOST_STATE", desk.at(state)).env("HOME", "/nonexistent");
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
        let ran = command.output().expect("the program starts");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "2\n", "{said}");
        assert!(!said.contains("compiles anew"), "it is kept: {said}");
    }
    let own = desk.at("volume/taskhost-65534/compiled.key");
    assert!(
        own.exists(),
        "a directory of its own, since the volume is everybody's: {:?}",
        fs::read_dir(desk.at("volume")).unwrap().collect::<Vec<_>>()
    );
}

/// Replaces each `old` in a component's data by another text of the same length, with slashes at its end.
fn replace(bytes: &mut [u8], old: &str, new: &str) {
    let new = format!("{new:/<width$}", width = old.len());
    assert_eq!(new.len(), old.len(), "{new}: a port of five digits");
    let places: Vec<usize> = bytes.windows(old.len()).enumerate().filter(|(_, text)| *text == old.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "`{old}` stands in the component");
    for at in places {
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    }
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
    assert!(desk.said(&["plugin", "inspect", math]).contains("not checked: set `trust` to check it"));
    fs::write(desk.at("taskhost.toml"), "require_signed = true\ntrust = \"deploy.pub\"\n").unwrap();
    let shown = desk.said(&["plugin", "inspect", math]);
    assert!(shown.contains("\nsigned   good, by key ") && shown.contains("which is trusted\n"), "{shown}");
    let mut bytes = fs::read(desk.at(math)).unwrap();
    // An empty custom section makes other bytes of the same component.
    bytes.extend([0, 2, 1, b'x']);
    fs::write(desk.at(math), bytes).unwrap();
    assert!(desk.refused(&["plugin", "verify", math, "--trust", "deploy.pub"]).contains("changed after it was signed"));
    let shown = desk.said(&["plugin", "inspect", math]);
    assert!(shown.contains("\nsigned   refused: ") && shown.contains("changed after it was signed"), "{shown}");
    assert!(desk.refused(&["plugin", "check", math]).contains("math.wasm: would not serve: its signature"));
    fs::remove_file(desk.at("taskhost.toml")).unwrap();
    assert!(desk.refused(&["worker", "--require-signed"]).contains("it needs `trust`"));
    assert!(desk.refused(&["worker", "--trust", "deploy.pub"]).contains("require_signed"));
}
