//! Compiles in a process of its own, because a plugin's author decides how much time and memory that takes.
//!
//! parent: bytes → stdin of `PROGRAM compile-plugin`, whose stdout is a file of ours → the artefact, or a sentence.
//! child: limits on itself → stdin → Cranelift, one thread, low priority beside a worker's guests → stdout.
//!
//! Invariant: the child's CPU, wall time, address space and output are bounded. It ends with the future that waits for it.

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

use super::{artefact, error::EngineError, sentence, setup};
use taskhost_core::units;

/// The hidden subcommand that runs `compile_plugin`.
pub const SUBCOMMAND: &str = "compile-plugin";

/// CPU seconds. The largest known plugins (JavaScript with its engine) take seven.
const CPU: u64 = 240;
/// Wall time. Beyond it the machine is busy, and the plugin is not at fault.
const WALL: Duration = Duration::from_secs(900);
/// Bytes of address space that the child may take beyond those at its start.
const MEMORY: u64 = 3 << 30;
/// The most bytes of an artefact.
const ARTEFACT: u64 = 1 << 30;
/// The most bytes of its message.
const SAID: u64 = 16 << 10;
/// Low, so that running guests are not disturbed. At the lowest priority it would never end on a busy machine.
const NICE: i32 = 15;
/// The exit status for "these bytes will never load". The message is the sentence for people.
const BAD: u8 = 10;
/// The exit status for "this machine could not do it". The message is the sentence for people.
const TROUBLE: u8 = 11;
/// The exit status of a Rust program that panicked.
const PANICKED: i32 = 101;
/// Signals by which a program ends itself: these bytes made the compiler crash.
const FAULTS: [Signal; 6] = [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE, Signal::TRAP];

/// The compiler that runs in a process of its own.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program with the hidden subcommand: this one, except in tests.
    pub program: PathBuf,
    /// Its limits for one component: bytes of memory, seconds of CPU.
    pub memory: u64,
    pub cpu: u64,
    /// Its nice value.
    pub nice: i32,
}

impl Compiler {
    /// For a worker, beside running guests.
    pub fn new(program: PathBuf) -> Self {
        Self { program, memory: MEMORY, cpu: CPU, nice: NICE }
    }

    /// For a command that waits for it.
    pub fn foreground(program: PathBuf) -> Self {
        Self { nice: 0, ..Self::new(program) }
    }
}

/// Lets `compiler` compile `bytes` into `artefact`.
pub(super) async fn translate(compiler: &Compiler, bytes: &[u8], artefact: &File) -> Result<(), EngineError> {
    let Compiler { program, memory, cpu, nice } = compiler;
    let host = |why: std::io::Error| EngineError::Host(format!("can't compile in a process of its own: {why}: `{}`", program.display()));
    let mut child = Command::new(program)
        .arg(SUBCOMMAND)
        .args([memory.to_string(), cpu.to_string(), nice.to_string()])
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
            // A child that ended early gives its reason by its exit status.
            let _ = stdin.write_all(bytes).await;
            drop(stdin);
        };
        let mut stderr = stderr.take(SAID);
        let ((), read) = tokio::join!(write, stderr.read_to_end(&mut said));
        read?;
        // A child that writes more than we read must not block.
        drop(stderr);
        child.wait().await
    };
    match timeout(WALL, work).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(ended(status, &String::from_utf8_lossy(&said), compiler)),
        Ok(Err(why)) => Err(host(why)),
        Err(_) => Err(EngineError::Busy(format!("compiling it took more than {} on this busy machine", units::duration_in_words(WALL)))),
    }
}

/// Only a failure that these bytes cause on every machine is held against them: see the table in the tests.
fn ended(status: ExitStatus, said: &str, Compiler { memory, cpu, .. }: &Compiler) -> EngineError {
    let said = sentence::line(said.trim(), 1024);
    let too_much = |what: &str| EngineError::BadComponent(too_much(what));
    let signal = status.signal();
    if status.code() == Some(i32::from(BAD)) {
        return EngineError::BadComponent(said);
    }
    // A limit of this process is no property of the bytes, because an operator may raise it.
    let bounded = |resource: Resource, ours: u64, option: &str| {
        let less = getrlimit(resource).current.is_some_and(|most| most < ours);
        less.then(|| EngineError::Host(format!("this process may use too little to compile it ({status}): raise its `ulimit -{option}`")))
    };
    if signal == Some(Signal::XCPU.as_raw()) {
        return bounded(Resource::Cpu, *cpu, "t").unwrap_or_else(|| too_much(&format!("{cpu} s of CPU")));
    }
    if signal == Some(Signal::XFSZ.as_raw()) {
        return bounded(Resource::Fsize, ARTEFACT, "f").unwrap_or_else(|| too_much(&format!("{} of code", units::show_size(ARTEFACT))));
    }
    if signal == Some(Signal::ABORT.as_raw()) && said.contains("memory allocation") {
        // If the kernel promises no more memory than it has, the machine may have run out before our limit.
        if promises_only_what_it_has() {
            return EngineError::Host(format!("the process that compiled it got no memory from this machine: {said}"));
        }
        return bounded(Resource::As, *memory, "v").unwrap_or_else(|| too_much(&of_memory(*memory)));
    }
    if status.code() == Some(PANICKED) || signal.is_some_and(|signal| FAULTS.iter().any(|fault| fault.as_raw() == signal)) {
        return EngineError::BadComponent(format!("the compiler gave up on it ({status}): {said}"));
    }
    match signal {
        // An operator, Ctrl-C in the same terminal, or the kernel's out-of-memory killer.
        Some(_) => EngineError::Busy(format!("the process that compiled it was killed ({status})")),
        None if status.code() == Some(i32::from(TROUBLE)) => EngineError::Host(said),
        None => EngineError::Host(format!("the process that compiles could not do its work ({status}): {said}")),
    }
}

/// Linux with `vm.overcommit_memory = 2`.
fn promises_only_what_it_has() -> bool {
    std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2")
}

fn too_much(what: &str) -> String {
    format!("compiling it takes more than {what}: make it smaller (optimise, strip unused code)")
}

fn of_memory(memory: u64) -> String {
    format!("{} of memory", units::show_size(memory))
}

/// The child's work: compiles the component on `input` to an artefact on `output`, within bytes of memory and seconds of CPU, at a nice
/// value. Returns the exit status and the message.
pub fn compile_plugin(memory: u64, cpu: u64, nice: i32, mut input: impl Read, mut output: impl Write) -> Result<(), (u8, String)> {
    let failed = |why: String| (TROUBLE, why);
    let engine = setup::compiler().map_err(|error| failed(error.to_string()))?;
    confine(memory, cpu, nice).map_err(failed)?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::OutOfMemory => (BAD, too_much(&of_memory(memory))),
        _ => failed(format!("can't read the component: {error}")),
    })?;
    let artefact = artefact::translate(&engine, &bytes).map_err(|error| match error {
        EngineError::BadComponent(why) => (BAD, why),
        error => failed(error.to_string()),
    })?;
    write_artefact(&mut output, &artefact)
}

fn write_artefact(output: &mut impl Write, artefact: &[u8]) -> Result<(), (u8, String)> {
    let written = output.write_all(artefact).and_then(|()| output.flush());
    written.map_err(|error| (TROUBLE, format!("can't write compiled code: {error}")))
}

/// Limits this process from now on, or keeps a lower limit of the machine.
fn confine(memory: u64, cpu: u64, nice: i32) -> Result<(), String> {
    let limit = |resource: Resource, soft: u64, hard: u64| {
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, Rlimit { current: Some(soft.min(most.saturating_sub(hard - soft))), maximum: Some(hard.min(most)) })
            .map_err(|error| format!("can't limit {resource:?}: {error}"))
    };
    limit(Resource::Core, 0, 0)?;
    // At the soft limit the kernel sends SIGXCPU, which names the reason. At the hard limit it sends SIGKILL, which does not.
    limit(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    limit(Resource::Fsize, ARTEFACT, ARTEFACT)?;
    #[cfg(target_os = "linux")]
    {
        // The engine reserves address space, which costs nothing and does not count against the plugin.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        let most = size.unwrap_or(0).saturating_mul(1024).saturating_add(memory);
        limit(Resource::As, most, most)?;
        // The child ends with its parent, also if the parent is killed.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    }
    // Lowering the priority is always allowed. A container that forbids it has limits of its own.
    if nice > 0 {
        let _ = rustix::process::setpriority_process(None, nice);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_compiler_ends_tells_whose_fault_it_was() {
        let compiler = Compiler::new("taskhost".into());
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        let signal = |signal: Signal| ExitStatus::from_raw(signal.as_raw());
        let of_the_bytes = [
            (code(10), "not a component"),
            (code(101), "panicked at cranelift"),
            (signal(Signal::XCPU), ""),
            (signal(Signal::XFSZ), ""),
            (signal(Signal::ABORT), "overflowed its stack"),
            (signal(Signal::SEGV), ""),
        ];
        for (status, said) in of_the_bytes {
            let error = ended(status, said, &compiler);
            assert!(matches!(error, EngineError::BadComponent(_)), "{status}: {error}");
        }
        let of_the_machine = [
            (code(11), "can't write compiled code: No space left on device (os error 28)"),
            (code(1), ""),
            (code(2), "error: unexpected argument"),
            (code(126), ""),
            (code(127), "error while loading shared libraries"),
            (signal(Signal::KILL), ""),
            (signal(Signal::TERM), ""),
            (signal(Signal::INT), ""),
            (signal(Signal::HUP), ""),
            (signal(Signal::QUIT), ""),
            (signal(Signal::PIPE), ""),
        ];
        for (status, said) in of_the_machine {
            let error = ended(status, said, &compiler);
            assert!(matches!(error, EngineError::Busy(_) | EngineError::Host(_)), "{status}: {error}");
        }
    }

    #[test]
    fn a_disk_that_is_full_is_said_with_its_own_words() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(rustix::io::Errno::NOSPC.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let error = write_artefact(&mut Full, b"code").unwrap_err();
        assert!(error.0 == TROUBLE && error.1.contains("No space left"), "{error:?}");
    }
}
