//! `[hooks.NAME]`: who is told of the ends of tasks.

use data_encoding::BASE64;
use serde::Deserialize;
use taskhost_core::{
    pattern::Patterns,
    task::{QueueName, TaskName},
};

use super::tokens::is_token_name;
use crate::{
    engine::Poster,
    random,
    worker::{Hook, HookEvent, HookTarget},
};

pub(super) const HOOK_KEYS: &[&str] = &["on", "queues", "tasks", "url", "secret", "secrets", "task", "queue", "payload"];
/// What a secret begins with, as Standard Webhooks writes it.
const SECRET: &str = "whsec_";
/// The shortest key, in bytes.
const SHORTEST: usize = 24;

/// A table as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct RawHook {
    on: Vec<String>,
    queues: Option<Vec<String>>,
    tasks: Option<Vec<String>>,
    url: Option<String>,
    secret: Option<String>,
    secrets: Option<Vec<String>>,
    task: Option<TaskName>,
    queue: Option<QueueName>,
    #[serde(default)]
    payload: bool,
}

impl RawHook {
    pub(super) fn checked(self, name: String, variable: &dyn Fn(&str) -> Option<String>) -> Result<Hook, String> {
        if !is_token_name(&name) || name.len() > 32 {
            return Err(format!("a hook's name has 1 to 32 characters of A-Z a-z 0-9 . _ -: `{}`", name.escape_debug()));
        }
        let on = self.on.iter().map(|event| event.parse()).collect::<Result<Vec<HookEvent>, _>>()?;
        if on.is_empty() {
            return Err(format!("the hook is told nothing: name `on`, of {}", HookEvent::ALL.map(HookEvent::as_str).join(", ")));
        }
        let secrets: Vec<String> = self.secret.into_iter().chain(self.secrets.into_iter().flatten()).collect();
        let target = match (self.url, self.task) {
            (Some(_), Some(_)) => return Err("a hook has `url` or `task`, not both".to_owned()),
            (None, None) => return Err("a hook needs `url`, an address to post to, or `task`, a body that plugins offer".to_owned()),
            (None, Some(_)) if !secrets.is_empty() => return Err("`secret` is for a `url`: a task needs none".to_owned()),
            (None, Some(task)) => HookTarget::Task { task, queue: self.queue.unwrap_or_default() },
            (Some(_), None) if self.queue.is_some() => {
                return Err("`queue` is for a `task`: deliveries to a `url` have their own".to_owned());
            }
            (Some(url), None) => {
                Poster::check(&url).map_err(|why| format!("`url`: {why}"))?;
                if secrets.is_empty() {
                    return Err(format!(
                        "a `url` needs a `secret`, by which its receiver knows our deliveries, such as this fresh one: `secret = \"{}\"`",
                        fresh_secret()
                    ));
                }
                HookTarget::Url { url, keys: secrets.iter().map(|secret| key(secret, variable)).collect::<Result<_, _>>()? }
            }
        };
        Ok(Hook { name, on, queues: Patterns::given(self.queues)?, tasks: Patterns::given(self.tasks)?, target, payload: self.payload })
    }
}

/// The key of a secret: `whsec_` and base64, or `env:NAME` for a variable that holds one.
fn key(secret: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<u8>, String> {
    let text = match secret.strip_prefix("env:") {
        Some(name) => variable(name).ok_or_else(|| format!("`secret`: the variable `{}` is not set", name.escape_debug()))?,
        None => secret.to_owned(),
    };
    let key = text.trim().strip_prefix(SECRET).and_then(|text| BASE64.decode(text.as_bytes()).ok());
    key.filter(|key| key.len() >= SHORTEST).ok_or_else(|| {
        format!(
            "a `secret` is `{SECRET}` and at least {SHORTEST} bytes in base64, or `env:NAME`; such as this fresh one: `{}`",
            fresh_secret()
        )
    })
}

fn fresh_secret() -> String {
    format!("{SECRET}{}", BASE64.encode(&random::key()))
}
