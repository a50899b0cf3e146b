//! Asks a plugin for its description, with nothing granted and little time, and checks every name and schema.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use super::{
    account::{Account, Refused},
    bindings::tasks,
    blame,
    cpu::{CpuSpent, Meter, Metered, Turn},
    error::EngineError,
    guest::{Code, Guest, Terms},
    imports::NotWhileDescribing,
    machine::Machine,
    output::{Shared, Stream},
    sentence,
};
use taskhost_core::units;
use taskhost_core::{
    catalogue::{Body, Description, Hints, Parameter},
    task::TaskName,
};

const CPU: Duration = Duration::from_millis(100);
const WALL: Duration = Duration::from_secs(5);
/// Limits of a description, because a catalogue carries it to every worker.
const BODIES: usize = 1000;
const PARAMETERS: usize = 64;
const HINTS: usize = 128;
const DOC: usize = 64 << 10;
const SCHEMA: usize = 64 << 10;
const VERSION: usize = 64;

pub(super) async fn describe(engine: Arc<Machine>, code: Arc<Code>) -> Result<(Description, Vec<String>), EngineError> {
    let terms = Arc::new(Terms { code, plugin: "".into(), limits: Arc::default(), grants: Arc::default() });
    let account = Account::new(Arc::clone(&engine.pool), &terms.limits);
    let shared = Arc::new(Shared::new(Meter::new(&engine.cpu, Some(CPU)), account, &terms.limits, 0, None, None));
    let mut store =
        Guest::store(&engine.wasm, &engine.outside, Arc::clone(&terms), Arc::clone(&shared), None).map_err(EngineError::Host)?;
    let said = {
        let call = pin!(async {
            let plugin = terms.code.pre.instantiate_async(&mut store).await?;
            plugin.taskhost_plugin_tasks().call_describe(&mut store).await
        });
        let metered = Metered { call, meter: &shared.meter, turn: Turn::new(&engine.cpu) };
        tokio::select! {
            biased;
            said = metered => said,
            () = tokio::time::sleep(WALL) => {
                return Err(EngineError::Busy(format!("`describe` did not answer within {}: the machine is busy, or it waits for something", units::duration_in_words(WALL))));
            }
        }
    };
    let error = match said {
        Ok(said) => return check(said),
        Err(error) => error,
    };
    // A lack of resources, of the machine or of all guests together, is no fault of these bytes.
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Err(EngineError::Busy("all sandbox slots are taken".into()));
    }
    if store.data().usage.refused == Some(Refused::MemoryOfProcess) {
        return Err(EngineError::Busy(
            "the guests of this worker have reached `guest_memory` together, so `describe` had no memory".into(),
        ));
    }
    if blame::is_the_machines(&error) {
        let text = sentence::line(&error.root_cause().to_string(), 1024);
        return Err(EngineError::Host(format!("this machine has no room to run `describe`: {text}")));
    }
    if error.is::<CpuSpent>() {
        let most = units::duration_in_words(CPU);
        return Err(EngineError::BadDescription(format!("`describe` used more than {most} of CPU: it should only return constants")));
    }
    Err(EngineError::BadDescription(failure(&error, &shared)))
}

fn failure(error: &wasmtime::Error, shared: &Shared) -> String {
    if let Some(called) = error.downcast_ref::<NotWhileDescribing>() {
        return called.to_string();
    }
    let stderr = shared.printed(Stream::Err);
    let text = if stderr.trim().is_empty() { error.root_cause().to_string() } else { stderr };
    sentence::line(&format!("`describe` failed: {}", text.trim()), 1024)
}

/// The description as the catalogue holds it, and warnings about hints.
fn check(said: tasks::Description) -> Result<(Description, Vec<String>), EngineError> {
    let mut warnings = Vec::new();
    if said.bodies.is_empty() {
        return bad("it offers no body: name at least one in `export_plugin!`");
    }
    if said.bodies.len() > BODIES {
        return bad(format!("it offers {} bodies; {BODIES} are the most", said.bodies.len()));
    }
    if said.doc.len() > DOC {
        return bad(format!("its doc has {}; {} is the most", units::show_size(said.doc.len() as u64), units::show_size(DOC as u64)));
    }
    let mut names = HashSet::new();
    let mut bodies = Vec::with_capacity(said.bodies.len());
    for told in said.bodies {
        let body = body(told, &mut warnings)?;
        if !names.insert(body.name.clone()) {
            return bad(format!("it offers `{}` twice", body.name));
        }
        bodies.push(body);
    }
    Ok((Description { version: sentence::line(&said.version, VERSION), doc: said.doc, bodies }, warnings))
}

fn body(told: tasks::Body, warnings: &mut Vec<String>) -> Result<Body, EngineError> {
    let name = TaskName::new(&told.name).map_err(|error| EngineError::BadDescription(format!("bad description: {error}")))?;
    if told.doc.len() > DOC {
        return bad(format!(
            "the doc of `{name}` has {}; {} is the most",
            units::show_size(told.doc.len() as u64),
            units::show_size(DOC as u64)
        ));
    }
    if told.parameters.len() > PARAMETERS {
        return bad(format!("`{name}` has {} parameters; {PARAMETERS} are the most", told.parameters.len()));
    }
    let mut names = HashSet::new();
    let mut parameters = Vec::with_capacity(told.parameters.len());
    for parameter in told.parameters {
        let valid = (1..=128).contains(&parameter.name.len()) && !parameter.name.contains(char::is_control);
        if !valid {
            return bad(format!("a parameter of `{name}` has no proper name: `{}`", sentence::line(&parameter.name, 64)));
        }
        if !names.insert(parameter.name.clone()) {
            return bad(format!("`{name}` has two parameters `{}`", parameter.name));
        }
        let schema = schema(&parameter.schema).map_err(|problem| {
            EngineError::BadDescription(format!("bad description: the schema of parameter `{}` of `{name}` {problem}", parameter.name))
        })?;
        parameters.push(Parameter { name: parameter.name, schema, optional: parameter.optional });
    }
    let returns = schema(&told.returns)
        .map_err(|problem| EngineError::BadDescription(format!("bad description: the schema of the result of `{name}` {problem}")))?;
    let hints = hints(&name, &told.hints, warnings);
    Ok(Body { name, doc: told.doc, parameters, returns, hints })
}

fn schema(text: &str) -> Result<serde_json::Value, String> {
    if text.len() > SCHEMA {
        return Err(format!("has {}; {} is the most", units::show_size(text.len() as u64), units::show_size(SCHEMA as u64)));
    }
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(value),
        Ok(_) => Err(format!("is not a JSON object; `{{}}` takes anything: `{}`", sentence::line(text, 64))),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

fn hints(body: &TaskName, told: &[(String, String)], warnings: &mut Vec<String>) -> Hints {
    let told = &told[..told.len().min(HINTS)];
    let (hints, unread) = Hints::parse(told);
    warnings.extend(unread.iter().map(|why| format!("`{body}`: {}", sentence::line(why, 512))));
    for (key, value) in told.iter().filter(|(key, _)| !Hints::KEYS.contains(&key.as_str())) {
        let (key, value) = (sentence::line(key, 64), sentence::line(value, 64));
        warnings.push(format!("`{body}` has a hint that nobody understands, so it is ignored: `{key}={value}`"));
    }
    hints
}

fn bad<T>(problem: impl std::fmt::Display) -> Result<T, EngineError> {
    Err(EngineError::BadDescription(format!("bad description: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, schema: &str, hints: &[(&str, &str)]) -> tasks::Description {
        tasks::Description {
            version: "1".into(),
            doc: String::new(),
            bodies: vec![tasks::Body {
                name: name.into(),
                doc: String::new(),
                parameters: vec![tasks::Parameter { name: "a".into(), schema: schema.into(), optional: false }],
                returns: "{}".into(),
                hints: hints.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            }],
        }
    }

    #[test]
    fn hints_are_read_or_warned_about() {
        let told = [("timeout", "2m"), ("retries", "5"), ("queue", "mail"), ("cron", "0 9 * * *"), ("retries", "many"), ("colour", "red")];
        let (description, warnings) = check(one("add", "{}", &told)).unwrap();
        let hints = &description.bodies[0].hints;
        assert_eq!((hints.timeout_ms, hints.retries), (Some(120_000), Some(5)));
        assert_eq!(hints.queue.as_ref().unwrap().as_str(), "mail");
        assert_eq!(hints.cron.as_deref(), Some("0 9 * * *"));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("retries=many") && warnings[1].contains("colour=red"));
    }

    #[test]
    fn what_breaks_the_contract_is_named() {
        let text = |said| check(said).unwrap_err().to_string();
        assert!(text(one("two words", "{}", &[])).contains("two words"));
        assert!(text(one("add", "[1]", &[])).contains("parameter `a` of `add` is not a JSON object"));
        assert!(text(one("add", "{", &[])).contains("is not JSON"));
        let mut twice = one("add", "{}", &[]);
        twice.bodies.push(twice.bodies[0].clone());
        assert!(text(twice).contains("`add` twice"));
        assert!(text(tasks::Description { version: String::new(), doc: String::new(), bodies: vec![] }).contains("no body"));
    }
}
