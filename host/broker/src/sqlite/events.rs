//! Events between processes on one database: who has committed opens the log for a moment, and the kernel tells those who watch it.
//!
//! commit → [`call_out`] → inotify of another process → its writer looks
//!
//! Only Linux has inotify. Elsewhere there are no events, and the writer looks often instead.
//!
//! Invariant: no other file of the database is opened. Closing it would release SQLite's locks on it (POSIX); on the log SQLite has none. Nothing is
//! left behind: the watch is a descriptor of this process, and its thread ends with the handle.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Events that come within this time count as one. While the writer is awake and event follows on event, the time grows: then they are most
/// likely its own commits.
const TOGETHER: Duration = Duration::from_micros(100);
const BUSY: Duration = Duration::from_millis(2);

/// A watch on one file. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Events {
    stop: Arc<kernel::Alarm>,
    thread: Option<JoinHandle<()>>,
}

/// Whether the writer sleeps. Only then it needs to be told, and once.
#[derive(Debug, Default)]
pub(super) struct Asleep(AtomicBool);

impl Asleep {
    /// The writer will sleep. It looks once more after this, because events before this were not told.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// The writer is awake, and looks before it sleeps again.
    pub(super) fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// True if it must be woken. Then it counts as awake.
    fn wake(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Events {
    /// Calls `tell` on a thread of its own if somebody called out at `log` while the writer was asleep.
    pub(super) fn of(log: &Path, asleep: Arc<Asleep>, tell: impl Fn() + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(kernel::Alarm::new()?);
        let watch = kernel::Watch::new(log)?;
        let alarm = stop.clone();
        let watched = move || {
            let mut together = TOGETHER;
            loop {
                let since = Instant::now();
                if !watch.wait(&alarm) {
                    return;
                }
                let is_told = asleep.wake();
                if is_told {
                    tell();
                }
                together = if is_told || since.elapsed() > together { TOGETHER } else { (together * 2).min(BUSY) };
                if alarm.is_rung_within(together) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("taskhost-sqlite-events".into()).spawn(watched)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// Tells the processes that watch `log` that something was committed.
pub(super) fn call_out(log: &Path) {
    kernel::call_out(log);
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.ring();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

    use rustix::{
        event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
        fs::{
            Mode, OFlags,
            inotify::{self, CreateFlags, WatchFlags},
        },
    };

    pub(super) fn call_out(log: &Path) {
        // If the file is gone, nobody watches it.
        let _closed = rustix::fs::open(log, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    }

    /// Wakes a thread that waits.
    #[derive(Debug)]
    pub(super) struct Alarm(OwnedFd);

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        pub(super) fn ring(&self) {
            // It can only fail if it rings already.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        /// Waits for this time; true if it rings.
        pub(super) fn is_rung_within(&self, time: Duration) -> bool {
            let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
            poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time)).is_ok_and(|ready| ready > 0)
        }
    }

    /// The events of one file.
    #[derive(Debug)]
    pub(super) struct Watch(OwnedFd);

    impl Watch {
        pub(super) fn new(file: &Path) -> io::Result<Self> {
            let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&watch, file, WatchFlags::OPEN)?;
            Ok(Self(watch))
        }

        /// Waits for events and takes them; false if the alarm rings.
        pub(super) fn wait(&self, alarm: &Alarm) -> bool {
            let mut ready = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(&alarm.0, PollFlags::IN)];
            while let Err(error) = poll(&mut ready, None) {
                if error != rustix::io::Errno::INTR {
                    return false;
                }
            }
            if !ready[1].revents().is_empty() {
                return false;
            }
            // They say only that it was opened.
            let mut events = [0; 4096];
            while rustix::io::read(&self.0, &mut events).is_ok_and(|read| read == events.len()) {}
            true
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::{io, path::Path, time::Duration};

    pub(super) fn call_out(_log: &Path) {}

    #[derive(Debug)]
    pub(super) struct Alarm;

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn ring(&self) {}

        pub(super) fn is_rung_within(&self, _time: Duration) -> bool {
            true
        }
    }

    #[derive(Debug)]
    pub(super) struct Watch;

    impl Watch {
        pub(super) fn new(_file: &Path) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn wait(&self, _alarm: &Alarm) -> bool {
            false
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_call_is_told_once_to_a_writer_that_sleeps() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let asleep = Arc::new(Asleep::default());
        let (told, hears) = mpsc::channel();
        let events = Events::of(file.path(), asleep.clone(), move || told.send(()).unwrap()).unwrap();
        call_out(file.path());
        assert!(hears.recv_timeout(Duration::from_millis(50)).is_err(), "it is awake");
        asleep.begin();
        call_out(file.path());
        hears.recv_timeout(Duration::from_secs(60)).expect("the first call");
        call_out(file.path());
        assert!(hears.recv_timeout(Duration::from_millis(50)).is_err(), "it was woken already");
        asleep.begin();
        call_out(file.path());
        hears.recv_timeout(Duration::from_secs(60)).expect("a call after it fell asleep again");
        drop(events);
        assert!(hears.recv().is_err(), "its thread has ended");
    }

    #[test]
    fn a_file_that_is_missing_has_no_events() {
        assert!(Events::of(Path::new("/nowhere/log"), Arc::default(), || ()).is_err());
    }
}
