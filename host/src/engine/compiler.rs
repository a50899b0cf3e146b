//! Compilation in a process of its own: its author decides what compiling a plugin costs, so it must not cost this one.
//!
//! parent: bytes → stdin of `PROGRAM compile-plugin`, whose stdout is a file of ours → the artefact, or a sentence.
//! child: limits on itself → stdin → Cranelift, one thread, low priority → stdout.
//!
//! Invariant: the child is bounded in CPU, wall time, address space and what it writes, and ends with the future that waits for it.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

use super::{EngineError, compile, setup, words};

/// The hidden subcommand that `compile_plugin` stands behind.
pub const SUBCOMMAND: &str = "compile-plugin";

/// CPU seconds: the largest plugins that are known (JavaScript with its engine) take seven.
const CPU: u64 = 240;
/// More than that much time is not the plugin's fault: the machine is busy.
const WALL: Duration = Duration::from_secs(900);
/// Bytes of address space beyond what the child begins with.
const MEMORY: u64 = 3 << 30;
/// Bytes of an artefact.
const ARTEFACT: u64 = 1 << 30;
/// Bytes of what it says.
const SAID: u64 = 16 << 10;
/// Low, so that running guests are not disturbed; not the lowest, which on a busy machine never comes to an end.
const NICE: i32 = 15;
/// The exit status of "these bytes will never load"; what was said is the sentence.
const BAD: u8 = 10;

/// What compiles in a process of its own.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program that has the hidden subcommand: this one, but for tests.
    pub program: PathBuf,
    /// What it may take for one component: bytes of memory, seconds of CPU.
    pub memory: u64,
    pub cpu: u64,
}

impl Compiler {
    pub fn new(program: PathBuf) -> Self {
        Self { program, memory: MEMORY, cpu: CPU }
    }
}

/// Has `bytes` compiled by `compiler` into `artefact`.
pub(super) async fn translate(compiler: &Compiler, bytes: &[u8], artefact: &File) -> Result<(), EngineError> {
    let Compiler { program, memory, cpu } = compiler;
    let host = |why: std::io::Error| EngineError::Host(format!("can't compile in a process of its own: {why}: `{}`", program.display()));
    let mut child = Command::new(program)
        .arg(SUBCOMMAND)
        .args([memory.to_string(), cpu.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(artefact.try_clone().map_err(host)?)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(host)?;
    let (Some(mut stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(EngineError::Host("the process that compiles has no pipes".into()));
    };
    let mut said = Vec::new();
    let work = async {
        let write = async {
            // A child that ended early says why by other means.
            let _ = stdin.write_all(bytes).await;
            drop(stdin);
        };
        let mut stderr = stderr.take(SAID);
        let ((), read) = tokio::join!(write, stderr.read_to_end(&mut said));
        read?;
        // Whoever says more than is listened to must not wait for a listener.
        drop(stderr);
        child.wait().await
    };
    match timeout(WALL, work).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(ended(status, &String::from_utf8_lossy(&said), compiler)),
        Ok(Err(why)) => Err(host(why)),
        Err(_) => Err(EngineError::Busy(format!("compiling it took more than {} on this busy machine", words::time(WALL)))),
    }
}

fn ended(status: ExitStatus, said: &str, Compiler { memory, cpu, .. }: &Compiler) -> EngineError {
    let said = words::line(said.trim(), 1024);
    let too_much = |what: &str| EngineError::BadComponent(too_much(what));
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(BAD) => EngineError::BadComponent(said),
        (_, Some(signal)) if signal == Signal::XCPU.as_raw() => too_much(&format!("{cpu} s of CPU")),
        (_, Some(signal)) if signal == Signal::XFSZ.as_raw() => too_much(&format!("{} of code", words::size(ARTEFACT))),
        (_, Some(signal)) if signal == Signal::ABORT.as_raw() && said.contains("memory allocation") => too_much(&of_memory(*memory)),
        // Somebody's hand, or the machine's last resort against a lack of memory.
        (_, Some(signal)) if signal == Signal::KILL.as_raw() || signal == Signal::TERM.as_raw() => {
            EngineError::Busy("the process that compiled it was killed".into())
        }
        _ => EngineError::BadComponent(format!("the compiler gave up on it ({status}): {said}")),
    }
}

fn too_much(what: &str) -> String {
    format!("compiling it takes more than {what}: make it smaller (optimise, strip unused code)")
}

fn of_memory(memory: u64) -> String {
    format!("{} of memory", words::size(memory))
}

/// What the child does: a component on `input` becomes an artefact on `output`, in so many bytes of memory and seconds of CPU. Its exit
/// status, and what to say.
pub fn compile_plugin(memory: u64, cpu: u64, mut input: impl Read, mut output: impl Write) -> Result<(), (u8, String)> {
    let failed = |why: String| (1, why);
    let engine = setup::compiler().map_err(|error| failed(error.to_string()))?;
    confine(memory, cpu).map_err(failed)?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::OutOfMemory => (BAD, too_much(&of_memory(memory))),
        _ => failed(format!("can't read the component: {error}")),
    })?;
    let artefact = compile::translate(&engine, &bytes).map_err(|error| match error {
        EngineError::BadComponent(why) => (BAD, why),
        error => failed(error.to_string()),
    })?;
    output.write_all(&artefact).and_then(|()| output.flush()).map_err(|error| failed(format!("can't write compiled code: {error}")))
}

/// From here on this process may use so much and no more; less, where the machine allows it less.
fn confine(memory: u64, cpu: u64) -> Result<(), String> {
    let limit = |resource: Resource, soft: u64, hard: u64| {
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, Rlimit { current: Some(soft.min(most.saturating_sub(hard - soft))), maximum: Some(hard.min(most)) })
            .map_err(|error| format!("can't limit {resource:?}: {error}"))
    };
    limit(Resource::Core, 0, 0)?;
    // At the soft limit the kernel says why it ends a process; at the hard one it kills it like anybody would.
    limit(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    limit(Resource::Fsize, ARTEFACT, ARTEFACT)?;
    #[cfg(target_os = "linux")]
    {
        // The engine's own reservation, which costs nothing, is not the plugin's doing.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        let most = size.unwrap_or(0).saturating_mul(1024).saturating_add(memory);
        limit(Resource::As, most, most)?;
        // A parent that is killed takes it along.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    }
    // Lower is always allowed; a container that forbids it has bounds of its own.
    let _ = rustix::process::setpriority_process(None, NICE);
    Ok(())
}
