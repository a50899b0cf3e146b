//! Delivers hooks to their addresses: a body that the worker itself offers, beside those of plugins.
//!
//! task `taskhost.hook` → sign (Standard Webhooks) → post → the outcome by the answer's status
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use serde_json::value::RawValue;
use sha2::Sha256;
use taskhost_core::{
    catalogue::Hints,
    observe::{Event, Observers},
    task::{Clock, CodeId, ErrorKind, Outcome, SystemClock, TaskError, TaskName},
};
use tokio::runtime::Handle;

use super::{
    hooks::{HOOK_TASK, HookTarget, Hooks},
    invoke::{Invoke, Work},
    offers::{Offer, Offers},
};
use crate::engine::{Attempted, Poster};

/// The plugin under whose name deliveries are listed, and whose store says which hooks are disabled.
pub const HOOK_PLUGIN: &str = "taskhost.hooks";
/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Deliveries at once on this worker.
const AT_ONCE: usize = 64;

/// Runs deliveries, and everything else by the engine.
pub(super) struct WithDeliveries {
    pub(super) engine: Arc<dyn Invoke>,
    pub(super) hooks: Hooks,
    pub(super) poster: Poster,
    pub(super) observers: Observers,
}

/// Adds the body that delivers.
pub(super) fn offer(hooks: &Hooks, offers: &mut Offers) {
    if !hooks.has_urls() {
        return;
    }
    let Ok(name) = TaskName::new(HOOK_TASK) else { return };
    let code = CodeId { plugin: HOOK_PLUGIN.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), digest: String::new() };
    let offer = Offer {
        code: code.into(),
        hints: Hints::default(),
        timeout: PATIENCE + Duration::from_secs(5),
        ceiling: None,
        concurrency: Some(AT_ONCE),
        terms: None,
        tally: None,
    };
    offers.bodies.insert(name, Arc::new(offer));
}

#[async_trait]
impl Invoke for WithDeliveries {
    async fn invoke(&self, work: Work) -> Attempted {
        if work.body.as_str() != HOOK_TASK || work.offer.code.plugin != HOOK_PLUGIN {
            return self.engine.invoke(work).await;
        }
        let begun = std::time::Instant::now();
        let outcome = tokio::select! {
            outcome = self.deliver(&work) => outcome,
            () = work.cancelled.cancelled() => failed(ErrorKind::Cancelled, "cancelled".to_owned(), None),
        };
        Attempted { ran: begun.elapsed(), ..Attempted::unrun(outcome) }
    }

    fn runnable(&self) -> usize {
        self.engine.runnable()
    }

    fn runtime(&self) -> Option<Handle> {
        self.engine.runtime()
    }
}

impl WithDeliveries {
    async fn deliver(&self, work: &Work) -> Outcome {
        let Ok((name, event)) = serde_json::from_str::<(String, Box<RawValue>)>(&work.args) else {
            return failed(ErrorKind::InvalidArguments, "a delivery has the name of a hook and an event".to_owned(), None);
        };
        let Some(HookTarget::Url { url, keys }) = self.hooks.named(&name).map(|hook| &hook.target) else {
            // Another worker may still have it. If none has, it ends in the dead set.
            let why = format!("no `[hooks.{}]` with a `url` stands in the taskhost.toml of this worker", name.escape_debug());
            return failed(ErrorKind::Retry, why, None);
        };
        match work.services.kv_get(&name).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                let why = format!("the hook `{name}` is disabled, because its receiver answered 410: `taskhost hook enable {name}`");
                return failed(ErrorKind::Permanent, why, None);
            }
            Err(error) => return failed(ErrorKind::Retry, format!("failed to read whether the hook is disabled: {error}"), None),
        }
        let (id, at) = (work.about.task_id.as_str(), SystemClock.now().0 / 1_000);
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("user-agent", concat!("taskhost/", env!("CARGO_PKG_VERSION")).to_owned()),
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", at.to_string()),
        ];
        if !keys.is_empty() {
            let signed = format!("{id}.{at}.{}", event.get());
            headers.push(("webhook-signature", signatures(keys, signed.as_bytes())));
        }
        headers
            .extend(work.about.headers.iter().filter(|(name, _)| name == "traceparent").map(|(_, value)| ("traceparent", value.clone())));
        let posted = self.poster.post(url, &headers, event.get().as_bytes(), PATIENCE).await;
        self.observers.tell(|| Event::WebhookPosted { hook: &name, status: posted.as_ref().ok().map(|answer| answer.status) });
        match posted {
            Err(why) => failed(ErrorKind::Retry, why, None),
            Ok(answer) if (200..300).contains(&answer.status) => Outcome::Done { result: answer.status.to_string(), children: Vec::new() },
            Ok(answer) if answer.status == 410 => {
                tracing::warn!(hook = name, "the receiver answered 410: the hook is disabled; `taskhost hook enable {name}` enables it");
                if let Err(error) = work.services.kv_set(&name, b"410".to_vec()).await {
                    tracing::warn!(hook = name, %error, "failed to remember that the hook is disabled");
                }
                failed(ErrorKind::Permanent, "the receiver answered 410: it wants no more deliveries".to_owned(), None)
            }
            Ok(answer) => failed(ErrorKind::Retry, format!("the receiver answered {}", answer.status), answer.retry_after),
        }
    }
}

fn failed(kind: ErrorKind, message: String, after: Option<Duration>) -> Outcome {
    Outcome::Failed { error: TaskError::new(kind, message), after }
}

/// A signature with each key, so that a receiver that knows one of them is content while keys are changed.
fn signatures(keys: &[Vec<u8>], signed: &[u8]) -> String {
    let sign = |key: &Vec<u8>| {
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("a key of any length will do").chain_update(signed);
        format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()))
    };
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let signed = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(signatures(&[key], signed), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
