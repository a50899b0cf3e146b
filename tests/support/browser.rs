//! A real browser, headless, driven by the WebDriver protocol (W3C): Chromium by chromedriver.
//!
//! Invariant: a line on the browser's console (errors, breaches of the content policy, requests that failed) fails the test that asks for it. Without chromedriver a test says that it was not run.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Http, Reply};
use taskhost_testing::free_port;

/// The name under which WebDriver gives the id of an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The limit of each wait. It is long, because the machine may be busy.
const SOON: Duration = Duration::from_secs(120);

pub(crate) struct Browser {
    driver: Child,
    http: Http,
    session: String,
    /// Where pages are asked for: `http://127.0.0.1:PORT`.
    site: String,
    _profile: TempDir,
}

impl Browser {
    /// A browser for the server at `site`; `None`, and a word about it, where there is none.
    pub(crate) fn open(site: &Http) -> Option<Self> {
        let profile = tempfile::tempdir().expect("a directory");
        let place = format!("--user-data-dir={}", profile.path().display());
        let port = free_port();
        let started = Command::new("chromedriver").arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(driver) = started else {
            eprintln!("NOT RUN: chromedriver is not installed here (Debian: `apt-get install chromium chromium-driver`)");
            return None;
        };
        let http = Http::at(&format!("127.0.0.1:{port}"));
        let mut browser = Self { driver, http, session: String::new(), site: format!("http://{}", site.at), _profile: profile };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < SOON, "chromedriver does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        let options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en", &place];
        let wants = json!({"goog:chromeOptions": {"args": options}, "goog:loggingPrefs": {"browser": "ALL"}});
        let session = browser.ask("POST", "", &json!({"capabilities": {"alwaysMatch": wants}}));
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser.size(1280, 900);
        Some(browser)
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        let path = if self.session.is_empty() { "/session".to_owned() } else { format!("/session/{}{path}", self.session) };
        self.http.ask(method, &path, (method == "POST").then_some(&*body.to_string()))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let reply = self.send(method, path, body);
        assert_eq!(reply.status, 200, "{method} {path} {body}: {reply:?}");
        reply.json()["value"].clone()
    }

    pub(crate) fn size(&self, width: u32, height: u32) {
        self.ask("POST", "/window/rect", &json!({"width": width, "height": height}));
    }

    /// Loads a page.
    pub(crate) fn go(&self, path: &str) {
        self.ask("POST", "/url", &json!({"url": format!("{}{path}", self.site)}));
    }

    /// The path of the page.
    pub(crate) fn place(&self) -> String {
        let url = self.ask("GET", "/url", &Value::Null);
        url.as_str().and_then(|url| url.strip_prefix(&self.site)).unwrap_or_default().to_owned()
    }

    /// Runs a script and gives what it returns. `arguments` has what is given.
    pub(crate) fn run(&self, script: &str, given: &[Value]) -> Value {
        self.ask("POST", "/execute/sync", &json!({"script": script, "args": given}))
    }

    fn element(&self, selector: &str) -> String {
        let found = self.ask("POST", "/element", &json!({"using": "css selector", "value": selector}));
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("no {selector}")).to_owned()
    }

    /// Clicks what the selector names, also if a live part is replaced between finding it and the click.
    pub(crate) fn click(&self, selector: &str) {
        let begun = Instant::now();
        loop {
            let path = format!("/element/{}/click", self.element(selector));
            let reply = self.send("POST", &path, &json!({}));
            if reply.status == 200 {
                return;
            }
            assert!(reply.body.contains("stale element reference") && begun.elapsed() < SOON, "a click on {selector}: {reply:?}");
        }
    }

    /// Types into a field, in place of what stands there.
    pub(crate) fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.ask("POST", &format!("/element/{element}/clear"), &json!({}));
        self.ask("POST", &format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub(crate) fn press(&self, keys: &str) {
        let actions: Vec<Value> =
            keys.chars().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}))).collect();
        self.ask("POST", "/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}));
    }

    /// The text that a person sees.
    pub(crate) fn text(&self, selector: &str) -> String {
        let seen = self.run(
            "const one = document.querySelector(arguments[0]); return one?.checkVisibility() ? one.innerText : ''",
            &[selector.into()],
        );
        seen.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of an element has these words.
    pub(crate) fn until_text(&self, selector: &str, words: &str) {
        self.until(&format!("{selector} says `{words}`: {}", self.text(selector)), || self.text(selector).contains(words));
    }

    pub(crate) fn until(&self, what: &str, so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < SOON, "not in time: {what}; the page: {}", self.text("body"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A command of Chromium's own protocol.
    pub(crate) fn emulate(&self, command: &str, given: &Value) {
        self.ask("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": given}));
    }

    /// What is on the screen, as a PNG.
    pub(crate) fn picture(&self) -> Vec<u8> {
        let given = json!({"cmd": "Page.captureScreenshot", "params": {"format": "png"}});
        let taken = self.ask("POST", "/goog/cdp/execute", &given);
        let text = taken["data"].as_str().expect("a picture");
        data_encoding::BASE64.decode(text.as_bytes()).expect("base64")
    }

    /// The findings of axe-core on the page: each rule with the elements that break it.
    pub(crate) fn audit(&self, axe: &str) -> Value {
        self.run(axe, &[]);
        let script = "const done = arguments[arguments.length - 1]; axe.run(document, { resultTypes: ['violations'] }).then((found) => \
                      done(found.violations.map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200) + ' ' + node.failureSummary)])))";
        self.ask("POST", "/execute/async", &json!({"script": script, "args": []}))
    }

    /// The lines on the browser's console since the last call.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let entries = self.ask("POST", "/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries
            .into_iter()
            .filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG")
            .map(|entry| entry["message"].to_string())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.http.ask("DELETE", &format!("/session/{}", self.session), None);
        }
        let _ended = self.driver.kill();
        let _reaped = self.driver.wait();
    }
}
