//! The forms of the pages. Each change is noted as one by the API is, and the browser goes to a page that shows it (`answers`).

use std::collections::BTreeMap;

use axum::{
    body::{Body, to_bytes},
    http::StatusCode,
    response::Response,
};
use taskhost_core::{
    catalogue::Given,
    task::{QueueName, State},
};

use super::{
    Page, enqueue_form,
    layout::Trouble,
    login::{own_path, to},
    tasks as list,
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::{self, Ask, Change, Changed, Enqueued, Operation, OpsError},
    serve::{
        audit::{self, About},
        flows, operations,
        problem::{self, Problem},
        query::Query,
        queues, schedules,
        segment::Segment,
        tasks,
    },
};

/// The bytes that a form may have beside the payload of a task.
const ROOM: usize = 64 << 10;

impl View {
    /// The fields of a form, if this reader may change what the scope opens.
    async fn fields(&self, scope: Scope, body: Body) -> Result<Query, Trouble> {
        self.caller.needs(scope).map_err(|problem| self.trouble(problem))?;
        if self.app.settings.http.read_only {
            return Err(self.trouble(Problem::new(&problem::READ_ONLY, "`http_read_only` of this server is true")));
        }
        let limit = self.app.settings.bounds.payload_limit.saturating_add(ROOM);
        let bytes = to_bytes(body, limit).await;
        let bytes = bytes.map_err(|_| self.trouble(Problem::new(&problem::TOO_LARGE, format!("a form has {limit} bytes at most"))))?;
        Ok(Query::of_pairs(form_urlencoded::parse(&bytes).into_owned().collect()))
    }

    /// Notes a change, and goes to a page that says so.
    async fn noted<const N: usize>(&self, what: &str, about: [(&str, String); N], done: &str, place: &str) -> Page {
        let about: BTreeMap<_, _> = about.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        audit::note(&self.app, &self.caller, self.from, format!("POST {what}"), About(about), StatusCode::SEE_OTHER).await;
        Ok(self.go(place, done))
    }

    fn go(&self, place: &str, done: &str) -> Response {
        let joined = if place.contains('?') { '&' } else { '?' };
        to(&self.href(format!("{place}{joined}done={done}")))
    }

    /// The same of a change that another page shows.
    async fn noted_of<const N: usize>(&self, what: &str, about: [(&str, String); N], done: &str, place: &str, of: &str) -> Page {
        self.noted(what, about, &format!("{done}&of={}", escaped(of)), place).await
    }

    fn unknown_act(&self) -> Trouble {
        self.trouble(Problem::new(&problem::BAD_REQUEST, "this page does nothing of that name: load it anew"))
    }
}

/// `POST /queues/{queue}`
pub(super) async fn queue(view: View, Segment(queue): Segment, body: Body) -> Page {
    let fields = view.fields(Scope::Operate, body).await?;
    let name = queues::named(&view.caller, &queue).map_err(|problem| view.trouble(problem))?;
    let (ops, place) = (view.ops()?, format!("/queues/{}", escaped(name.as_str())));
    let (act, done) = match fields.text("do") {
        Some("pause") => {
            ops.pause_queue(&name, false).await.map_err(|error| view.trouble(error))?;
            ("pause", "paused")
        }
        Some("resume") => {
            ops.resume_queue(&name).await.map_err(|error| view.trouble(error))?;
            ("resume", "resumed")
        }
        Some("purge") => {
            let waiting = queues::purgeable(&view.app, &view.caller, &name).await.map_err(|problem| view.trouble(problem))?;
            if fields.text("confirm").map(str::trim) != Some(&waiting.to_string()) {
                let why = format!("{waiting} tasks wait in `{name}` by now, and another number was typed: nothing is deleted");
                return Err(view.trouble(Problem::new(&problem::WRONG_STATE, why)));
            }
            ops.purge(&name).await.map_err(|error| view.trouble(error))?;
            ("purge", "purged")
        }
        _ => return Err(view.unknown_act()),
    };
    let (what, about) = (format!("/queues/{{queue}} {act}"), [("queue", name.to_string())]);
    let tasks = format!("/tasks?queue={}", escaped(name.as_str()));
    match act {
        "purge" => view.noted_of(&what, about, done, "/queues", &tasks).await,
        _ => view.noted_of(&what, about, done, &place, &format!("{tasks}&state=running")).await,
    }
}

/// `POST /tasks/{id}`
pub(super) async fn task(view: View, Segment(id): Segment, body: Body) -> Page {
    let fields = view.fields(Scope::Operate, body).await?;
    let id = tasks::task_id(&id).map_err(|problem| view.trouble(problem))?;
    let queue = view.query.queue().map_err(|problem| view.trouble(problem))?;
    let found = tasks::seen(&view.app, &view.caller, queue.as_ref(), &id).await.map_err(|problem| view.trouble(problem))?;
    let ops = view.ops()?;
    let place = format!("/tasks/{}?queue={}", escaped(id.as_str()), escaped(found.queue.as_str()));
    let act = fields.text("do").unwrap_or_default().to_owned();
    let change = match &*act {
        "retry" => Change::Retry,
        "run-now" if found.state == State::Scheduled => Change::Retry,
        // The task has started or ended since the page was loaded. Only a retry runs an ended task again.
        "run-now" => return Ok(view.go(&place, "unchanged")),
        "cancel" => Change::Cancel,
        "delete" => Change::Delete,
        "edit" | "undo" => {
            let args = match fields.text("key").filter(|_| act == "undo") {
                Some(key) => view.app.undos.of(key, view.caller.name(), &found).ok_or_else(|| view.trouble(too_late()))?,
                None => fields.text("args").unwrap_or_default().to_owned(),
            };
            ops.edit(&found, &Given::Json(args)).await.map_err(|error| view.trouble(error))?;
            let about = [("id", id.to_string()), ("queue", found.queue.to_string())];
            if fields.text("then") != Some("retry") {
                let key = view.app.undos.keep(view.caller.name(), &found);
                let place = key.map_or_else(|| place.clone(), |key| format!("{place}&undo={key}"));
                return view.noted("/tasks/{id} edit", about, "edited", &place).await;
            }
            Change::Retry
        }
        _ => return Err(view.unknown_act()),
    };
    let done = match ops.change(change, &found.queue, &id).await {
        Ok(changed) => done_of(changed),
        Err(OpsError::Unchanged(_)) => return Ok(view.go(&place, "unchanged")),
        Err(error) => return Err(view.trouble(error)),
    };
    let about = [("id", id.to_string()), ("queue", found.queue.to_string())];
    let what = format!("/tasks/{{id}} {act}");
    if change == Change::Delete {
        return view.noted_of(&what, about, done, "/tasks", &format!("/queues/{}", escaped(found.queue.as_str()))).await;
    }
    view.noted(&what, about, done, &place).await
}

fn too_late() -> Problem {
    Problem::new(&problem::WRONG_STATE, "this server no longer knows the arguments before that edit: edit them by hand")
}

fn done_of(changed: Changed) -> &'static str {
    match changed {
        Changed::Cancelled => "cancelled",
        Changed::AskedToStop => "asked",
        Changed::Ready => "ready",
        Changed::Deleted => "deleted",
    }
}

/// `POST /tasks`: the selected ones, or all that match.
pub(super) async fn tasks(view: View, body: Body) -> Page {
    let fields = view.fields(Scope::Operate, body).await?;
    let verb = match fields.text("do") {
        Some("retry") => Change::Retry,
        Some("cancel") => Change::Cancel,
        Some("delete") => Change::Delete,
        _ => return Err(view.unknown_act()),
    };
    let ops = view.ops()?;
    if let Some(all) = fields.text("all") {
        let pairs = tasks::FILTER.iter().filter_map(|name| Some(((*name).to_owned(), fields.text(name)?.to_owned())));
        let operation = Operation { verb, filter: pairs.collect(), by: view.caller.name().to_owned() };
        if operation.filter.is_empty() {
            return Err(view.unknown_act());
        }
        if all != "order" {
            return list::rehearsed(&view, &operation).await;
        }
        operations::chooser(&operation, &view.caller, view.now().await?).map_err(|problem| view.trouble(problem))?;
        let id = ops.order(&operation).await.map_err(|error| view.trouble(error))?;
        return view
            .noted("/operations", [("id", id.to_string()), ("verb", format!("{verb:?}").to_lowercase())], "ordered", "/operations")
            .await;
    }
    let (mut done, mut changed) = ("unchanged", 0);
    for selected in fields.all("task") {
        let Some((queue, id)) = selected.split_once(' ') else { continue };
        let (Ok(queue), Ok(id)) = (QueueName::new(queue), tasks::task_id(id)) else { continue };
        let found = tasks::seen(&view.app, &view.caller, Some(&queue), &id).await;
        let Ok(found) = found else { continue };
        match ops.change(verb, &found.queue, &id).await {
            Ok(how) => {
                done = done_of(how);
                changed += 1;
            }
            Err(OpsError::Unchanged(_)) => {}
            Err(error) => return Err(view.trouble(error)),
        }
    }
    let place = fields.text("back").map_or("/tasks", own_path).to_owned();
    if changed == 0 {
        return Ok(view.go(&place, done));
    }
    let about = [("verb", format!("{verb:?}").to_lowercase()), ("tasks", changed.to_string())];
    let of = match done {
        "cancelled" => "/tasks?state=cancelled",
        "ready" => "/tasks?state=ready",
        _ => "/tasks",
    };
    view.noted_of("/tasks", about, done, &place, of).await
}

/// `POST /flows/{id}`
pub(super) async fn flow(view: View, Segment(id): Segment, body: Body) -> Page {
    let fields = view.fields(Scope::Operate, body).await?;
    let queue = view.query.queue().map_err(|problem| view.trouble(problem))?;
    let ops = view.ops()?;
    let found = flows::seen(ops, &view.caller, queue.as_ref(), &id).await.map_err(|problem| view.trouble(problem))?;
    let (id, queue) = (found.line.id, found.line.queue);
    let place = format!("/flows/{}?queue={}", escaped(id.as_str()), escaped(queue.as_str()));
    let text = |name: &str| fields.text(name).map(str::to_owned);
    let (ask, done) = match fields.text("do") {
        Some("pause") => (Ask::Pause, "paused"),
        Some("resume") => (Ask::Resume, "resumed"),
        Some("cancel") => (Ask::Cancel, "stopping"),
        Some("retry") => (Ask::Retry(text("step")), "goes-on"),
        Some("signal") => {
            let value = text("value").unwrap_or_default();
            if serde_json::from_str::<serde::de::IgnoredAny>(&value).is_err() {
                let why = "the value of a signal is JSON, such as true, 7, \"text\" or {\"yes\": true}";
                return Err(view.trouble(Problem::new(&problem::INVALID, why)));
            }
            (Ask::Signal { name: text("name").unwrap_or_default(), value }, "signalled")
        }
        _ => return Err(view.unknown_act()),
    };
    match ops.ask_flow(Some(&queue), &id, &ask).await {
        Ok(_) => {}
        Err(OpsError::FlowUnchanged { .. }) => return Ok(view.go(&place, "unchanged")),
        Err(error) => return Err(view.trouble(error)),
    }
    let about = [("id", id.to_string()), ("queue", queue.to_string())];
    view.noted(&format!("/flows/{{id}} {}", fields.text("do").unwrap_or_default()), about, done, &place).await
}

/// `POST /schedules/{name}`
pub(super) async fn schedule(view: View, Segment(name): Segment, body: Body) -> Page {
    let fields = view.fields(Scope::Schedule, body).await?;
    schedules::found(&view.app, &view.caller, &name).await.map_err(|problem| view.trouble(problem))?;
    let (ops, place) = (view.ops()?, format!("/schedules/{}", escaped(&name)));
    let act = fields.text("do").unwrap_or_default().to_owned();
    let (done, place) = match &*act {
        "run" => {
            let id = ops.run_schedule(&name).await.map_err(|error| view.trouble(error))?;
            ("fired", format!("/tasks/{}", escaped(id.as_str())))
        }
        "pause" | "resume" => {
            ops.pause_schedule(&name, act == "pause").await.map_err(|error| view.trouble(error))?;
            (if act == "pause" { "paused" } else { "resumed" }, place)
        }
        "remove" => {
            ops.remove_schedule(&name).await.map_err(|error| view.trouble(error))?;
            ("removed", "/schedules".to_owned())
        }
        _ => return Err(view.unknown_act()),
    };
    view.noted(&format!("/schedules/{{name}} {act}"), [("name", name)], done, &place).await
}

/// `POST /workers/{worker}`
pub(super) async fn worker(view: View, Segment(worker): Segment, body: Body) -> Page {
    view.fields(Scope::Operate, body).await?;
    crate::serve::workers::drained(&view.app, &view.caller, &worker).await.map_err(|problem| view.trouble(problem))?;
    view.noted("/workers/{worker} drain", [("worker", worker)], "draining", "/workers").await
}

/// `POST /plugins/{plugin}`
pub(super) async fn plugin(view: View, Segment(plugin): Segment, body: Body) -> Page {
    view.fields(Scope::Admin, body).await?;
    ops::roll_back(&view.app.settings, &plugin).await.map_err(|error| view.trouble(error))?;
    let tasks = format!("/tasks?plugin={}", escaped(&plugin));
    view.noted_of("/plugins/{plugin} rollback", [("plugin", plugin)], "rolled-back", "/plugins", &tasks).await
}

/// `POST /operations/{id}`
pub(super) async fn operation(view: View, Segment(id): Segment, body: Body) -> Page {
    view.fields(Scope::Operate, body).await?;
    operations::stopped(&view.app, &view.caller, &id).await.map_err(|problem| view.trouble(problem))?;
    view.noted("/operations/{id} stop", [("id", id)], "stopped", "/operations").await
}

/// `POST /bodies/{task}`
pub(super) async fn enqueue(view: View, Segment(name): Segment, body: Body) -> Page {
    let fields = view.fields(Scope::Enqueue, body).await?;
    let offer = super::bodies::offered(&view, &name).await?;
    let request = match enqueue_form::request(&offer.body, &fields) {
        Ok(request) => request,
        Err(why) => return Ok(super::bodies::page(&view, &offer, &fields, Some(&why))),
    };
    let connected = view.app.connected().map_err(|problem| view.trouble(problem))?;
    let task = match connected.producer.read(request.as_bytes()).await {
        Ok(task) => task,
        Err(error @ (OpsError::Arguments(_) | OpsError::Request(_))) => {
            return Ok(super::bodies::page(&view, &offer, &fields, Some(&error.to_string())));
        }
        Err(error) => return Err(view.trouble(error)),
    };
    view.caller.needs_queue(&task.queue).and_then(|()| view.caller.needs_task(&task.name)).map_err(|problem| view.trouble(problem))?;
    let (queue, id) = (task.queue.clone(), task.id.clone());
    let id = match connected.producer.enqueue(task).await.map_err(|error| view.trouble(error))? {
        Enqueued::Added => id,
        Enqueued::Duplicate { holder } => holder,
    };
    Ok(view.go(&format!("/tasks/{}?queue={}", escaped(id.as_str()), escaped(queue.as_str())), "enqueued"))
}
