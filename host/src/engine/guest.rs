//! The data of one store: the guest's code and terms, its grants, and its usage.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio_util::sync::CancellationToken;
use wasmtime::{Store, component::ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    account::Refused,
    bindings::PluginPre,
    cpu::Meter,
    held::{Held, Opened},
    http::Hooks,
    http_bounds::FIELDS,
    limits::{FileMode, Grants, Limits},
    memory::Usage,
    network::Outside,
    output::{Pipe, Shared, Stream},
    secrets::Secrets,
    services::Services,
};
use taskhost_core::{
    task::{Clock, Millis, NewTask, QueueName, SystemClock, TaskId},
    trace::TraceContext,
};

pub(super) struct Guest {
    outside: Arc<Outside>,
    pub(super) terms: Arc<Terms>,
    pub(super) shared: Arc<Shared>,
    pub(super) usage: Usage,
    /// `None` while the guest describes itself: then only its log works.
    pub(super) attempt: Option<Attempt>,
    wasi: Wasi,
    http: WasiHttpCtx,
    secrets: Secrets,
    /// Made at the guest's first use of HTTP.
    hooks: Option<Hooks>,
    /// Its open descriptors, by handle. A stream shares that of its file.
    pub(super) open: BTreeMap<u32, Arc<Opened>>,
    /// The granted directories, which stay open during the attempt.
    _granted: Vec<Opened>,
    pub(super) table: ResourceTable,
}

/// The part that only an attempt has.
pub(super) struct Attempt {
    pub(super) about: About,
    /// How often it reported progress.
    pub(super) progress: u32,
    pub(super) services: Arc<dyn Services>,
    pub(super) cancelled: CancellationToken,
    /// Whether the guest was told that it is cancelled.
    pub(super) saw_cancelled: bool,
    /// When it began, and for how long it may run.
    pub(super) began: Millis,
    pub(super) timeout: std::time::Duration,
    pub(super) children: Vec<NewTask>,
    pub(super) children_bytes: usize,
    /// The bytes of the children in the host.
    pub(super) children_held: Option<Held>,
    /// The bytes of the spans in the host.
    pub(super) spans_held: Option<Held>,
}

/// What all attempts of a plugin share. It has one reference count, because attempts on every core take and drop a reference.
#[derive(Debug, Clone)]
pub struct Terms {
    pub code: Arc<Code>,
    /// The plugin's name, which is also the name of its policy table. A denied call tells the operator to write it.
    pub plugin: Arc<str>,
    pub limits: Arc<Limits>,
    pub grants: Arc<Grants>,
}

/// The values that `context` gives the guest.
#[derive(Debug, Clone)]
pub struct About {
    pub task_id: TaskId,
    pub queue: QueueName,
    /// 1 for the first.
    pub attempt: u32,
    pub max_attempts: u32,
    pub enqueued_at: Millis,
    pub headers: Vec<(String, String)>,
    /// The attempt's own span; `None`: it is not traced.
    pub trace: Option<Box<TraceContext>>,
}

impl About {
    /// The only attempt of a fresh task that no broker knows.
    pub fn without_broker(headers: Vec<(String, String)>) -> Self {
        Self {
            task_id: TaskId::fresh(),
            queue: QueueName::default(),
            attempt: 1,
            max_attempts: 1,
            enqueued_at: SystemClock.now(),
            headers,
            trace: None,
        }
    }
}

/// A compiled and linked component.
pub struct Code {
    pub(super) pre: PluginPre<Guest>,
    pub(super) initial_memory: u64,
    pub(super) unkept: Option<String>,
}

impl Code {
    /// Bytes of its largest memory at the start of an attempt. The limits must allow at least that.
    pub fn initial_memory(&self) -> u64 {
        self.initial_memory
    }

    /// A sentence that says why the code could not be kept for the next start, and what to do.
    pub fn unkept(&self) -> Option<&str> {
        self.unkept.as_deref()
    }

    /// Its imports, such as `wasi:http/outgoing-handler@0.2.6`, granted or not.
    pub fn imports(&self) -> Vec<String> {
        let component = self.pre.instance_pre().component();
        component.component_type().imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("initial_memory", &self.initial_memory).finish_non_exhaustive()
    }
}

impl Guest {
    /// A store with the grants and nothing else. The error is for the operator: a granted directory does not exist.
    pub(super) fn store(
        wasm: &wasmtime::Engine,
        outside: &Arc<Outside>,
        terms: Arc<Terms>,
        shared: Arc<Shared>,
        attempt: Option<Attempt>,
    ) -> Result<Store<Self>, String> {
        let Terms { limits, grants, plugin, .. } = &*terms;
        let (resources, payload) = (limits.resources, limits.payload);
        let secrets = Secrets::of(grants);
        let env = grants.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(secrets.placeholders());
        let mut wasi = Wasi { env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), made: None };
        let mut granted = Vec::new();
        if !grants.files.is_empty() {
            let mut builder = builder(&shared, &wasi.env);
            for grant in &grants.files {
                granted.push(Opened::take(&shared).map_err(|refused| shared.account.sentence(refused, limits))?);
                let mode = match grant.mode {
                    FileMode::ReadOnly => FsPerms::ReadOnly,
                    FileMode::ReadWrite => FsPerms::ReadWrite,
                };
                builder.preopened_dir(&grant.host, &grant.guest, mode).map_err(|error| {
                    let host = grant.host.display();
                    format!(
                        "can't open the directory that `files` of [plugins.{plugin}] grants: {error}: `{host}`; create it or change the policy"
                    )
                })?;
            }
            wasi.made = Some(builder.build());
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(resources);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS);
        let guest = Self {
            usage: Usage::new(limits, Arc::clone(&shared)),
            attempt,
            wasi,
            http,
            secrets,
            hooks: None,
            open: BTreeMap::new(),
            _granted: granted,
            table,
            shared,
            outside: Arc::clone(outside),
            terms,
        };
        let mut store = Store::new(wasm, guest);
        store.limiter(|guest| &mut guest.usage);
        // The guest's own resources are not in our table, but their handles take the engine's memory.
        store.set_max_component_handles(resources);
        // The bytes that a guest may pass in one call. Lengths within are checked where they arrive.
        store.set_hostcall_fuel(payload.saturating_mul(4).saturating_add(1 << 20));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|cx| Meter::on_tick(&cx.data().shared));
        Ok(store)
    }
}

impl Guest {
    /// Counts bytes that a host call is about to put behind a handle.
    pub(super) fn keep(&mut self, bytes: usize) -> Result<(), Refused> {
        self.usage.keep(&mut self.table, bytes)
    }
}

/// The guest's WASI context, made at its first use. Many bodies never use it, and seeding its random generators is expensive.
struct Wasi {
    env: Vec<(String, String)>,
    made: Option<WasiCtx>,
}

impl Wasi {
    fn get(&mut self, shared: &Arc<Shared>) -> &mut WasiCtx {
        let Self { env, made } = self;
        made.get_or_insert_with(|| builder(shared, env).build())
    }
}

fn builder(shared: &Arc<Shared>, env: &[(String, String)]) -> WasiCtxBuilder {
    let mut wasi = WasiCtx::builder();
    wasi.stdout(Pipe { stream: Stream::Out, shared: Arc::clone(shared) });
    wasi.stderr(Pipe { stream: Stream::Err, shared: Arc::clone(shared) });
    // The most random bytes of one call, because the host makes them in its own memory first. A guest may ask again.
    wasi.max_random_size(1 << 20);
    wasi.envs(env);
    wasi
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: self.wasi.get(&self.shared), table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Self { outside, terms, shared, secrets, attempt, .. } = self;
        let hooks = self.hooks.get_or_insert_with(|| {
            let (plugin, grants, outside) = (Arc::clone(&terms.plugin), Arc::clone(&terms.grants), Arc::clone(outside));
            let headers = attempt.as_ref().map_or(&[][..], |attempt| &attempt.about.headers);
            let hooks = Hooks::new(plugin, grants, secrets.clone(), Arc::clone(shared), outside);
            hooks.bounded(terms.limits.http_response).with_baggage_of(headers)
        });
        WasiHttpCtxView { hooks, table: &mut self.table, ctx: &mut self.http }
    }
}
