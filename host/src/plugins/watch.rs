//! Decides when to look at the plugin directory again: on file system events, every two seconds, and on SIGHUP.
//!
//! Events are only a hint that makes a change quick. The rescan makes it sure, also without events, after lost events, and after the
//! directory was replaced.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher, event};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The longest time that a change stays unseen without an event.
pub(super) const RESCAN: Duration = Duration::from_secs(2);

pub(super) struct Watch {
    dir: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the watched directory.
    place: Option<(u64, u64)>,
    /// Whether the failure was logged; reset when watching works again.
    warned: bool,
    hangup: Option<Signal>,
}

impl Watch {
    pub(super) fn new(dir: &Path) -> Self {
        let hangup = signal(SignalKind::hangup())
            .inspect_err(|e| tracing::warn!("SIGHUP will not make the plugins be read again ({e}): they are looked at every 2 s anyway"))
            .ok();
        Self { dir: dir.to_owned(), changed: Arc::default(), watcher: None, place: None, warned: false, hangup }
    }

    /// Watches the directory at `place`, if it is not watched already. Asks for another pass, which finds earlier changes.
    pub(super) fn follow(&mut self, place: (u64, u64)) {
        if self.place == Some(place) && self.watcher.is_some() {
            return;
        }
        // Dropping the old watcher ends its watch on a directory that may be gone.
        self.watcher = None;
        match self.start() {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.place = Some(place);
                self.warned = false;
                self.changed.notify_one();
            }
            Err(e) if !self.warned => {
                self.warned = true;
                tracing::warn!("cannot watch the plugin directory ({e}): it is read every 2 s instead: `{}`", self.dir.display());
            }
            Err(_) => {}
        }
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let changed = self.changed.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, may_change) {
                changed.notify_one();
            }
        })?;
        watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }

    /// Returns when there may be a change. Tells whether more changes may follow at once.
    pub(super) async fn next(&mut self, latest: Instant) -> bool {
        let Self { changed, hangup, .. } = self;
        let hangup = async {
            match hangup {
                Some(signal) => {
                    // Without a value no signal can come any more.
                    if signal.recv().await.is_none() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed.notified() => true,
            () = hangup => {
                tracing::info!("SIGHUP: reading plugins and policies again");
                false
            }
            () = sleep_until(latest) => false,
        }
    }
}

/// Reading a file is no change. Without this check a pass would wake the next one.
fn may_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == event::AccessKind::Close(event::AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn place(dir: &Path) -> (u64, u64) {
        let meta = std::fs::metadata(dir).unwrap();
        (meta.dev(), meta.ino())
    }

    /// Whether an event came before the limit.
    async fn stirred(watch: &mut Watch) -> bool {
        watch.next(Instant::now() + LIMIT).await
    }

    #[tokio::test]
    async fn a_change_wakes_at_once_also_in_a_directory_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("plugins");
        std::fs::create_dir(&dir).unwrap();
        let mut watch = Watch::new(&dir);
        watch.follow(place(&dir));
        assert!(stirred(&mut watch).await, "a new watch asks for a pass");
        std::fs::write(dir.join("a.wasm"), b"a").unwrap();
        assert!(stirred(&mut watch).await);
        let before = place(&dir);
        std::fs::rename(&dir, root.path().join("old")).unwrap();
        std::fs::create_dir(&dir).unwrap();
        assert_ne!(place(&dir), before);
        watch.follow(place(&dir));
        assert!(stirred(&mut watch).await);
        std::fs::write(dir.join("b.wasm"), b"b").unwrap();
        assert!(stirred(&mut watch).await);
    }

    #[tokio::test]
    async fn a_hangup_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        let latest = Instant::now() + LIMIT;
        assert!(!watch.next(latest).await, "no more of it follows");
        assert!(Instant::now() < latest);
    }

    #[test]
    fn reading_is_no_change() {
        assert!(!may_change(&Event::new(EventKind::Access(event::AccessKind::Open(event::AccessMode::Any)))));
        assert!(may_change(&Event::new(EventKind::Access(event::AccessKind::Close(event::AccessMode::Write)))));
        assert!(may_change(&Event::new(EventKind::Other).set_flag(event::Flag::Rescan)), "lost events are a reason to look");
    }

    /// The kernel queues so many events for a reader that is busy, and then says that it lost some.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_overflow_of_the_kernels_queue_is_a_reason_to_look() {
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (go_on, gate) = std::sync::mpsc::channel::<()>();
        let (sender, reasons) = std::sync::mpsc::channel();
        let mut gate = Some(gate);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Busy with the first one until there are too many.
            if let Some(gate) = gate.take() {
                gate.recv().unwrap();
            }
            let overflow = event.as_ref().is_ok_and(Event::need_rescan);
            if overflow && event.as_ref().is_ok_and(may_change) {
                let _nobody_listens_any_more = sender.send(());
            }
        })
        .unwrap();
        watcher.watch(dir.path(), RecursiveMode::NonRecursive).unwrap();
        // Each makes at least two events, and the reader has taken some hundred at once.
        for _ in 0..most / 2 + 1_000 {
            std::fs::write(dir.path().join("noise"), "x").unwrap();
        }
        go_on.send(()).unwrap();
        assert!(reasons.recv_timeout(LIMIT).is_ok(), "{most} events and more, and none of them lost");
    }
}
