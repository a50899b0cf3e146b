//! Reads a flow as people write it, and checks it: JSON → [`Plan`], or what is wrong and where.
//!
//! fields → steps by name → what each needs → an order without a circle

mod order;
mod templates;

use std::time::Duration;

use serde_json::{Map, Value};

use self::{
    order::in_order,
    templates::{reference, template},
};
use super::{
    arguments::{Reference, Source, Template},
    plan::{Call, Kind, MOST_LEVELS, MOST_NODES, MOST_STEPS, OnFailure, Plan, PlanError, Rule, Step, Wait, When},
};
use crate::{
    task::{MOST_RETRIES, Tags},
    units,
};

/// The most items that run at once, if a step says nothing.
const PARALLEL: u32 = 1_000;

type Result<T> = std::result::Result<T, PlanError>;

impl Plan {
    /// Reads and checks a flow.
    pub fn compile(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|error| wrong("/", format!("not JSON: {error}")))?;
        Self::read(&value)
    }

    /// The same from JSON that was read, such as that of a TOML file.
    pub fn read(value: &Value) -> Result<Self> {
        let plan = flow(value, &Place(String::new()), 0)?;
        let (steps, nodes) = size(&plan);
        if steps > MOST_STEPS {
            let why = format!(
                "a flow has at most {MOST_STEPS} steps, those of flows within it included, not {steps}; use `map` or `group` for more tasks"
            );
            return Err(wrong("/steps", why));
        }
        if nodes > MOST_NODES as usize {
            return Err(wrong("/steps", format!("a flow has at most {MOST_NODES} nodes, not {nodes}: let it start several flows")));
        }
        Ok(plan)
    }
}

/// Steps, and nodes with the members of groups.
fn size(plan: &Plan) -> (usize, usize) {
    plan.steps.iter().fold((0, 0), |(steps, nodes), step| match &step.kind {
        Kind::Group { calls, .. } => (steps + 1, nodes + 1 + calls.len()),
        Kind::Flow { plan, .. } => {
            let (inner_steps, inner_nodes) = size(plan);
            (steps + 1 + inner_steps, nodes + 1 + inner_nodes)
        }
        Kind::Task(_) | Kind::Map { .. } | Kind::Wait(_) => (steps + 1, nodes + 1),
    })
}

fn wrong(at: &str, why: impl Into<String>) -> PlanError {
    PlanError { at: at.to_owned(), why: why.into() }
}

/// Where something stands: a JSON pointer.
#[derive(Debug, Clone)]
struct Place(String);

impl Place {
    fn at(&self, name: &str) -> Self {
        Self(format!("{}/{}", self.0, name.replace('~', "~0").replace('/', "~1")))
    }

    fn fail<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(wrong(if self.0.is_empty() { "/" } else { &self.0 }, why))
    }
}

/// The fields of an object. What is not taken is unknown.
struct Fields<'a> {
    left: Map<String, Value>,
    known: &'a [&'a str],
    place: Place,
}

impl<'a> Fields<'a> {
    fn of(value: &Value, place: &Place, known: &'a [&'a str], shape: &str) -> Result<Self> {
        let Value::Object(map) = value else { return place.fail(format!("{shape}, not {}", kind(value))) };
        let fields = Self { left: map.clone(), known, place: place.clone() };
        if let Some(name) = map.keys().find(|name| !known.contains(&name.as_str())) {
            let near = known.iter().find(|known| strsim::damerau_levenshtein(known, name) <= 2);
            let hint = near.map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("is `{near}` meant?"));
            return place.at(name).fail(format!("unknown field; {hint}"));
        }
        Ok(fields)
    }

    fn take(&mut self, name: &str) -> Option<(Value, Place)> {
        debug_assert!(self.known.contains(&name));
        Some((self.left.remove(name)?, self.place.at(name)))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some((Value::String(text), _)) => Ok(Some(text)),
            Some((other, place)) => place.fail(format!("a text is wanted, not {}", kind(&other))),
        }
    }

    /// A text that is parsed.
    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> std::result::Result<T, String>) -> Result<Option<T>> {
        let place = self.place.at(name);
        self.text(name)?.map(|text| parse(&text).or_else(|why| place.fail(why))).transpose()
    }

    fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        self.parsed(name, units::positive_duration)
    }

    fn number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>> {
        let Some((value, place)) = self.take(name) else { return Ok(None) };
        match value.as_u64().filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => place.fail(format!("a number from {least} to {most} is wanted")),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

const FLOW: [&str; 5] = ["flow", "name", "deadline", "on_failure", "steps"];
const STEP: [&str; 18] = [
    "task",
    "args",
    "queue",
    "priority",
    "timeout",
    "retries",
    "tags",
    "map",
    "group",
    "parallel",
    "undo",
    "wait",
    "flow",
    "input",
    "after",
    "on",
    "when",
    "on_failure",
];
const CALL: [&str; 7] = ["task", "args", "queue", "priority", "timeout", "retries", "tags"];

fn flow(value: &Value, place: &Place, level: usize) -> Result<Plan> {
    if level >= MOST_LEVELS {
        return place.fail(format!("flows stand within flows at most {MOST_LEVELS} deep"));
    }
    let mut fields = Fields::of(value, place, &FLOW, "a flow is an object such as {\"flow\": 1, \"name\": \"order\", \"steps\": {…}}")?;
    match fields.take("flow") {
        Some((version, _)) if version == 1 => {}
        Some((version, place)) => return place.fail(format!("this program knows version 1 of flows, not {version}")),
        None => return place.fail("`\"flow\": 1` is missing: the version of what follows"),
    }
    let Some(name) = fields.parsed("name", |text| checked_name(text, 64))? else {
        return place.fail("`name` is missing: what people call the flow");
    };
    let deadline = fields.duration("deadline")?;
    let on_failure = fields.parsed("on_failure", on_failure)?.unwrap_or_default();
    let Some((steps, at)) = fields.take("steps") else { return place.fail("`steps` is missing: an object of steps by name") };
    let Value::Object(steps) = steps else { return at.fail(format!("an object of steps by name is wanted, not {}", kind(&steps))) };
    if steps.is_empty() {
        return at.fail("a flow has at least one step");
    }
    if steps.len() > MOST_STEPS {
        return at.fail(format!("a flow has at most {MOST_STEPS} steps, not {}; use `map` or `group` for more tasks", steps.len()));
    }
    let names: Vec<String> = steps.keys().cloned().collect();
    let mut read = Vec::new();
    for (name, step) in &steps {
        let at = at.at(name);
        checked_name(name, 40).or_else(|why| at.fail(why))?;
        read.push(one_step(name, step, &at, &names, on_failure, level)?);
    }
    let steps = in_order(read, &at)?;
    Ok(Plan { name, deadline, steps })
}

/// A name of a flow or of a step: it becomes a part of the ids of tasks.
fn checked_name(text: &str, most: usize) -> std::result::Result<String, String> {
    let fits = (1..=most).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("a name here starts with a letter and has at most {most} characters of A-Z a-z 0-9 _ -"))
    }
}

fn on_failure(text: &str) -> std::result::Result<OnFailure, String> {
    match text {
        "fail" => Ok(OnFailure::Fail),
        "continue" => Ok(OnFailure::Continue),
        _ => Err("`fail` or `continue` is wanted".to_owned()),
    }
}

fn one_step(name: &str, value: &Value, place: &Place, names: &[String], of_flow: OnFailure, level: usize) -> Result<Step> {
    let shape = "a step is an object such as {\"task\": \"add\", \"args\": [1, 1]}";
    let mut fields = Fields::of(value, place, &STEP, shape)?;
    let scope = Scope { names, has_item: value.get("map").is_some(), has_own: false };
    let kind = step_kind(&mut fields, &scope, level)?;
    let undo = match fields.take("undo") {
        None => None,
        Some((value, at)) => {
            let scope = Scope { has_own: true, ..scope };
            let mut fields = Fields::of(&value, &at, &CALL, "what undoes a step is a task such as {\"task\": \"unlink\"}")?;
            let own = Template::Array(vec![Template::Reference(Reference { of: Source::Own, at: String::new() })]);
            Some(call(&mut fields, &scope, own)?)
        }
    };
    if undo.is_some() && matches!(kind, Kind::Wait(_) | Kind::Flow { .. }) {
        return place.at("undo").fail("a task can be undone, not a wait and not a flow: give the steps of that flow their own `undo`");
    }
    let rule = fields.parsed("on", |text| match text {
        "success" => Ok(Rule::Success),
        "failure" => Ok(Rule::Failure),
        "end" => Ok(Rule::End),
        _ => Err("`success`, `failure` or `end` is wanted".to_owned()),
    })?;
    let when = fields.take("when").map(|(value, at)| when(&value, &at, &scope)).transpose()?;
    let own = fields.parsed("on_failure", on_failure)?;
    let mut needs = after(&mut fields, names)?;
    kind_needs(&kind, &mut needs);
    needs.extend(undo.iter().flat_map(|undo| undo.args.steps()));
    needs.extend(when.iter().filter_map(|when| match when.value.of {
        Source::Result(step) | Source::Failure(step) => Some(step),
        _ => None,
    }));
    needs.sort_unstable();
    needs.dedup();
    if rule.is_some_and(|rule| rule != Rule::Success) && needs.is_empty() {
        return place.at("on").fail("`on` says how the steps before must have ended: name them in `after`");
    }
    let rule = rule.unwrap_or_default();
    Ok(Step {
        name: name.to_owned(),
        kind,
        needs,
        rule,
        when,
        on_failure: own.unwrap_or(of_flow),
        undo,
        is_for_failure: rule == Rule::Failure,
    })
}

/// What a template may refer to. Steps are known by their places among `names`.
#[derive(Clone, Copy)]
struct Scope<'a> {
    names: &'a [String],
    has_item: bool,
    has_own: bool,
}

fn step_kind(fields: &mut Fields<'_>, scope: &Scope<'_>, level: usize) -> Result<Kind> {
    let place = fields.place.clone();
    let given: Vec<&str> = ["task", "group", "wait", "flow"].into_iter().filter(|kind| fields.left.contains_key(*kind)).collect();
    let [one] = given[..] else {
        let why = if given.is_empty() {
            "a step has a `task`, a `group`, a `wait` or a `flow`".to_owned()
        } else {
            format!("a step is one thing, not {}", given.join(" and "))
        };
        return place.fail(why);
    };
    let parallel = fields.number("parallel", 1, MOST_NODES.into())?.map_or(PARALLEL, |number| u32::try_from(number).unwrap_or(PARALLEL));
    let kind = match one {
        "task" => {
            let over = fields.take("map").map(|(value, at)| reference(&value, &at, scope)).transpose()?;
            let call = call(fields, scope, Template::Array(Vec::new()))?;
            match over {
                None => Kind::Task(call),
                Some(over) if matches!(over.of, Source::Item | Source::Index) => {
                    return place.at("map").fail("`map` names the list: the items come from it");
                }
                Some(over) => Kind::Map { over, call, parallel },
            }
        }
        "group" => {
            let (value, at) = fields.take("group").unwrap_or((Value::Null, place.clone()));
            let Value::Array(members) = value else { return at.fail(format!("a list of tasks is wanted, not {}", kind(&value))) };
            if members.is_empty() {
                return at.fail("a group has at least one task");
            }
            if members.len() > MOST_NODES as usize {
                return at.fail(format!("a flow has at most {MOST_NODES} nodes, not {}: let it start several flows", members.len()));
            }
            let one = |(n, member): (usize, &Value)| {
                let at = at.at(&n.to_string());
                call(
                    &mut Fields::of(member, &at, &CALL, "a task such as {\"task\": \"add\", \"args\": [1, 1]} is wanted")?,
                    scope,
                    Template::Array(Vec::new()),
                )
            };
            Kind::Group { calls: members.iter().enumerate().map(one).collect::<Result<_>>()?, parallel }
        }
        "wait" => {
            let (value, at) = fields.take("wait").unwrap_or((Value::Null, place.clone()));
            let mut fields = Fields::of(
                &value,
                &at,
                &["signal", "timeout", "for"],
                "{\"signal\": \"approved\", \"timeout\": \"2d\"} or {\"for\": \"10m\"} is wanted",
            )?;
            match (fields.parsed("signal", |text| checked_name(text, 64))?, fields.duration("for")?, fields.duration("timeout")?) {
                (Some(name), None, timeout) => Kind::Wait(Wait::Signal { name, timeout }),
                (None, Some(time), None) => Kind::Wait(Wait::For(time)),
                _ => return at.fail("a wait is for a `signal`, with a `timeout` if one likes, or `for` a time"),
            }
        }
        _ => {
            let (value, at) = fields.take("flow").unwrap_or((Value::Null, place.clone()));
            let input = fields.take("input").map(|(value, at)| template(&value, &at, scope)).transpose()?;
            Kind::Flow {
                plan: Box::new(flow(&value, &at, level + 1)?),
                text: value.to_string().into(),
                input: input.unwrap_or(Template::Plain(Value::Null)),
            }
        }
    };
    let misplaced = CALL.iter().chain(&["map", "parallel", "input"]).find(|name| fields.left.contains_key(**name));
    match misplaced {
        Some(name) => place.at(name).fail(format!("does not belong to a step with `{one}`")),
        None => Ok(kind),
    }
}

fn call(fields: &mut Fields<'_>, scope: &Scope<'_>, no_args: Template) -> Result<Call> {
    let place = fields.place.clone();
    let Some(task) = fields.parsed("task", |text| text.parse().map_err(|error: crate::task::InvalidName| error.to_string()))? else {
        return place.fail("`task` is missing: the name of a body");
    };
    let args = match fields.take("args") {
        None => no_args,
        Some((value @ Value::Array(_), at)) => template(&value, &at, scope)?,
        Some((other, at)) => return at.fail(format!("a list of arguments is wanted, not {}", kind(&other))),
    };
    let tags = match fields.take("tags") {
        None => Tags::default(),
        Some((value, at)) => serde_json::from_value(value).or_else(|error| at.fail(error.to_string()))?,
    };
    let priority = fields.number("priority", 0, 9)?.and_then(|number| crate::task::Priority::new(u8::try_from(number).ok()?));
    Ok(Call {
        task,
        args,
        queue: fields.parsed("queue", |text| text.parse().map_err(|error: crate::task::InvalidName| error.to_string()))?,
        priority,
        timeout: fields.duration("timeout")?,
        retries: fields.number("retries", 0, MOST_RETRIES.into())?.and_then(|number| u32::try_from(number).ok()),
        tags,
    })
}

fn after(fields: &mut Fields<'_>, names: &[String]) -> Result<Vec<usize>> {
    let Some((value, at)) = fields.take("after") else { return Ok(Vec::new()) };
    let list = match value {
        Value::String(_) => vec![value],
        Value::Array(list) => list,
        other => return at.fail(format!("a list of names of steps is wanted, not {}", kind(&other))),
    };
    let one = |(n, name): (usize, &Value)| match name {
        Value::String(name) => step_named(name, &at.at(&n.to_string()), names),
        other => at.at(&n.to_string()).fail(format!("the name of a step is wanted, not {}", kind(other))),
    };
    list.iter().enumerate().map(one).collect()
}

fn step_named(name: &str, at: &Place, names: &[String]) -> Result<usize> {
    if let Some(place) = names.iter().position(|known| known == name) {
        return Ok(place);
    }
    let near = names.iter().find(|known| strsim::damerau_levenshtein(known, name) <= 2);
    let name = crate::text::clean(&name.chars().take(64).collect::<String>());
    at.fail(near.map_or_else(|| format!("there is no step `{name}`"), |near| format!("there is no step `{name}`; is `{near}` meant?")))
}

fn when(value: &Value, at: &Place, scope: &Scope<'_>) -> Result<When> {
    let mut fields = Fields::of(
        value,
        at,
        &["from", "failure", "item", "index", "at", "is"],
        "a condition such as {\"from\": \"ok\", \"at\": \"/yes\", \"is\": true} is wanted",
    )?;
    let is = fields.take("is").map_or(Value::Bool(true), |(is, _)| is);
    let rest = Value::Object(fields.left.clone());
    Ok(When { value: reference(&rest, at, scope)?, is })
}

fn kind_needs(kind: &Kind, needs: &mut Vec<usize>) {
    let of_source = |source: Source| match source {
        Source::Result(step) | Source::Failure(step) => Some(step),
        _ => None,
    };
    match kind {
        Kind::Task(call) => needs.extend(call.args.steps()),
        Kind::Map { over, call, .. } => {
            needs.extend(of_source(over.of));
            needs.extend(call.args.steps());
        }
        Kind::Group { calls, .. } => calls.iter().for_each(|call| needs.extend(call.args.steps())),
        Kind::Wait(_) => {}
        Kind::Flow { input, .. } => needs.extend(input.steps()),
    }
}
