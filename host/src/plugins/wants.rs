//! Compares a plugin's wishes with its policy, and writes the TOML for the rest. Pure.
//!
//! Imports tell which capabilities the code can use. Hints name hosts, variables and tasks. Neither grants anything.

use std::{fmt::Write, time::Duration};

use super::{policy::http_grant, registry::Plugin};
use crate::engine::{EnqueueGrant, FileMode, Grants, HttpGrant};
use taskhost_core::{catalogue::Hints, retry::RetrySettings};

/// The comparison with the policy in force.
#[derive(Debug, Default, PartialEq, serde::Serialize)]
pub struct Wants {
    /// The granted wishes, a phrase each.
    pub granted: Vec<String>,
    /// The missing grants, a phrase each.
    pub lacking: Vec<String>,
    /// The lines for the plugin's table that grant the rest; empty if nothing is missing.
    pub lines: Vec<String>,
}

impl<C> Plugin<C> {
    /// `imports`: the interfaces that the code imports.
    pub fn wants(&self, imports: &[String]) -> Wants {
        let hints = || self.description.bodies.iter().map(|body| &body.hints);
        let wished = Wished {
            http: distinct(hints().flat_map(|hints| &hints.http)),
            env: distinct(hints().flat_map(|hints| &hints.env)),
            enqueue: distinct(hints().flat_map(|hints| &hints.enqueue)),
        };
        let mut wants = wants(&self.grants, &wished, imports);
        let bounds = (self.limits.timeout, self.limits.retries.unwrap_or(RetrySettings::default().max_attempts.saturating_sub(1)));
        longer(&mut wants, bounds, hints());
        wants
    }
}

/// The longest timeout and the most retries that bodies ask for, if they get less because of the bounds.
fn longer<'a>(wants: &mut Wants, (timeout, retries): (Duration, u32), hints: impl Iterator<Item = &'a Hints> + Clone) {
    let longest = hints.clone().filter_map(|hints| hints.timeout_ms).map(Duration::from_millis).max();
    if let Some(longest) = longest.filter(|longest| *longest > timeout) {
        let shown = if longest.subsec_millis() == 0 { format!("{}s", longest.as_secs()) } else { format!("{}ms", longest.as_millis()) };
        wants.lacking.push(format!("timeout {shown}"));
        wants.lines.push(format!("timeout = \"{shown}\""));
    }
    if let Some(most) = hints.filter_map(|hints| hints.retries).max().filter(|most| *most > retries) {
        wants.lacking.push(format!("retries {most}"));
        wants.lines.push(format!("retries = {most}"));
    }
}

#[derive(Debug, Default)]
struct Wished {
    http: Vec<String>,
    env: Vec<String>,
    enqueue: Vec<String>,
}

fn distinct<'a>(values: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for value in values {
        if !kept.contains(value) {
            kept.push(value.clone());
        }
    }
    kept
}

fn wants(grants: &Grants, wished: &Wished, imports: &[String]) -> Wants {
    let mut wants = Wants { granted: granted(grants), ..Wants::default() };
    let can = |interface: &str| imports.iter().any(|import| import.split('@').next() == Some(interface));
    let quoted = |text: &str| serde_json::Value::from(text).to_string();

    // An origin that can't be granted is a mistake of the author. It is neither a wish nor a grant.
    let origin = |text: &&String| http_grant(text).is_ok_and(|wished| !grants.http.iter().any(|grant| covers(grant, &wished)));
    let lacking: Vec<&String> = wished.http.iter().filter(origin).collect();
    if !lacking.is_empty() {
        wants.lacking.extend(lacking.iter().map(|origin| format!("http {origin}")));
        let all = grants.http.iter().map(shown_toml).chain(lacking.iter().map(|origin| quoted(origin)));
        wants.lines.push(format!("http = [{}]", all.collect::<Vec<_>>().join(", ")));
    } else if can("wasi:http/outgoing-handler") && grants.http.is_empty() {
        wants.lacking.push("http to hosts that it does not name".into());
        wants.lines.push("# http = [\"https://HOST\"]".into());
    }

    let parts = |text: &str| {
        text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap_or((text.to_owned(), String::new()))
    };
    let set = |name: &str| grants.env.contains_key(name) || grants.secrets.contains_key(name);
    let lacking: Vec<(String, String)> = wished.env.iter().map(|text| parts(text)).filter(|(name, _)| !set(name)).collect();
    if !lacking.is_empty() {
        wants.lacking.extend(lacking.iter().map(|(name, _)| format!("env {name}")));
        let all = grants.env.iter().map(|(name, value)| (name.clone(), value.clone())).chain(lacking);
        let all: Vec<String> = all.map(|(name, value)| format!("{} = {}", key(&name), quoted(&value))).collect();
        wants.lines.push(format!("env = {{ {} }}", all.join(", ")));
    }

    if can("taskhost:plugin/kv") && grants.kv.is_none() {
        wants.lacking.push("kv".into());
        wants.lines.push("kv = true".into());
    }

    let present = grants.enqueue.clone().unwrap_or_default();
    let lacking: Vec<&String> = wished.enqueue.iter().filter(|task| !present.allows_task(task)).collect();
    if !lacking.is_empty() {
        wants.lacking.extend(lacking.iter().map(|task| format!("enqueue {task}")));
        let all: Vec<String> = present.tasks.iter().chain(lacking).map(|task| quoted(task)).collect();
        wants.lines.push(enqueue_line(&present, &all.join(", ")));
    } else if can("taskhost:plugin/children") && grants.enqueue.is_none() {
        wants.lacking.push("enqueue of tasks that it does not name".into());
        wants.lines.push("# enqueue = [\"TASK\"]".into());
    }
    wants
}

fn enqueue_line(present: &EnqueueGrant, tasks: &str) -> String {
    if present.queues.is_empty() && present.rate.is_none() {
        return format!("enqueue = [{tasks}]");
    }
    let mut line = format!("enqueue = {{ tasks = [{tasks}]");
    if !present.queues.is_empty() {
        let queues: Vec<String> = present.queues.iter().map(|queue| format!("\"{queue}\"")).collect();
        let _ = write!(line, ", queues = [{}]", queues.join(", "));
    }
    if let Some(rate) = &present.rate {
        let unit = match rate.span.as_secs() {
            3600 => "h",
            60 => "m",
            _ => "s",
        };
        let _ = write!(line, ", rate = \"{}/{unit}\"", rate.count);
    }
    line + " }"
}

/// Whether a grant covers the whole wish: the same origin, or a pattern that matches it.
fn covers(grant: &HttpGrant, wished: &HttpGrant) -> bool {
    let host = match grant.host.strip_prefix("*.") {
        Some(domain) => wished.host == grant.host || wished.host.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => wished.host == grant.host,
    };
    host && (&grant.scheme, grant.port) == (&wished.scheme, wished.port)
}

fn url(grant: &HttpGrant) -> String {
    let own = if grant.scheme == "https" { 443 } else { 80 };
    let port = if grant.port == own { String::new() } else { format!(":{}", grant.port) };
    format!("{}://{}{port}", grant.scheme, grant.host)
}

fn shown_toml(grant: &HttpGrant) -> String {
    if grant.methods.is_empty() && !grant.baggage {
        return format!("\"{}\"", url(grant));
    }
    let methods = if grant.methods.is_empty() { String::new() } else { format!(", methods = [\"{}\"]", grant.methods.join("\", \"")) };
    format!("{{ origin = \"{}\"{methods}{} }}", url(grant), if grant.baggage { ", baggage = true" } else { "" })
}

/// A bare key if TOML allows it, else a quoted one.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}

fn granted(grants: &Grants) -> Vec<String> {
    let mut granted = Vec::new();
    for grant in &grants.http {
        let methods = if grant.methods.is_empty() { String::new() } else { format!(" ({} only)", grant.methods.join(", ")) };
        let baggage = if grant.baggage { " with baggage" } else { "" };
        granted.push(format!("http {}{methods}{baggage}", url(grant)));
    }
    granted.extend(grants.env.keys().map(|name| format!("env {name}")));
    for (name, secret) in &grants.secrets {
        let hosts: Vec<String> = secret.origins.iter().map(url).collect();
        granted.push(format!("secret {name} for {}", hosts.join(", ")));
    }
    for grant in &grants.files {
        let mode = if grant.mode == FileMode::ReadOnly { "read" } else { "read and write" };
        granted.push(format!("files {} ({mode}, from {})", grant.guest, grant.host.display()));
    }
    granted.extend(grants.kv.map(|kv| format!("kv of {} bytes and {} keys", kv.bytes, kv.keys)));
    if let Some(enqueue) = &grants.enqueue {
        let queues = if enqueue.queues.is_empty() { "its own queue".to_owned() } else { enqueue.queues.join(", ") };
        granted.push(format!("enqueue {} into {queues}", enqueue.tasks.join(", ")));
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::Policies;

    fn policy(text: &str) -> Grants {
        let mut policies = Policies::parse(&format!("[plugins.p]\n{text}"), std::path::Path::new("/")).unwrap();
        policies.plugins.remove("p").unwrap().grants
    }

    fn wished() -> Wished {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Wished {
            http: list(&["https://hr.example.com", "http://ecf.example.com:8080"]),
            env: list(&["CENTER_URL=https://hr.example.com/api", "MODE"]),
            enqueue: list(&["mail.send"]),
        }
    }

    const IMPORTS: [&str; 3] = ["taskhost:plugin/kv@0.1.0", "taskhost:plugin/children@0.1.0", "wasi:http/outgoing-handler@0.2.4"];

    #[test]
    fn what_is_lacking_can_be_pasted_and_is_then_granted() {
        let imports = IMPORTS.map(str::to_owned);
        for before in [
            "",
            "http = [\"https://other.example.com\"]\nenqueue = { tasks = [\"a\"], queues = [\"mail\"], rate = \"5/m\" }\nenv = { \"ODD KEY\" = \"\\\"\" }",
            "http = [{ origin = \"https://*.example.com\", methods = [\"GET\"] }]",
        ] {
            let grants = policy(before);
            let wanted = wants(&grants, &wished(), &imports);
            assert_eq!(wanted.lacking.is_empty(), wanted.lines.is_empty());
            let keys: Vec<&str> = wanted.lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
            let kept: Vec<&str> = before.lines().filter(|line| !keys.contains(&line.split(' ').next().unwrap())).collect();
            let after = policy(&[kept.join("\n"), wanted.lines.join("\n")].join("\n"));
            let then = wants(&after, &wished(), &imports);
            assert_eq!((then.lacking, then.lines), (vec![], vec![]), "after {before}");
            assert!(grants.env.keys().all(|name| after.env.contains_key(name)), "what was granted stays");
            assert!(
                then.granted.contains(&"env CENTER_URL".to_owned())
                    && then.granted.contains(&"enqueue mail.send into its own queue".to_owned())
                    || !before.is_empty()
            );
        }
        let nothing = wants(&policy(""), &wished(), &imports);
        assert_eq!(
            nothing.lines,
            [
                "http = [\"https://hr.example.com\", \"http://ecf.example.com:8080\"]",
                "env = { CENTER_URL = \"https://hr.example.com/api\", MODE = \"\" }",
                "kv = true",
                "enqueue = [\"mail.send\"]",
            ]
        );
    }

    #[test]
    fn a_hint_beyond_the_bounds_is_told_as_the_line_that_allows_it() {
        let hints = [
            Hints { timeout_ms: Some(300_000), retries: Some(5), ..Hints::default() },
            Hints { timeout_ms: Some(1500), ..Hints::default() },
        ];
        let told = |bounds| {
            let mut wants = Wants::default();
            longer(&mut wants, bounds, hints.iter());
            wants.lines
        };
        assert_eq!(told((Duration::from_secs(60), 3)), ["timeout = \"300s\"", "retries = 5"]);
        assert_eq!(told((Duration::from_secs(300), 5)), Vec::<String>::new());
    }

    #[test]
    fn what_has_no_name_is_left_for_the_operator_to_fill_in() {
        let wanted = wants(&policy(""), &Wished::default(), &IMPORTS.map(str::to_owned));
        assert_eq!(wanted.lines, ["# http = [\"https://HOST\"]", "kv = true", "# enqueue = [\"TASK\"]"]);
        assert_eq!(wants(&policy(""), &Wished::default(), &[]), Wants::default());
    }
}
