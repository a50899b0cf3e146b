//! The C library's allocator: what the host held for a guest goes back to the system.
//!
//! Left alone it learns from the first large block that is freed to keep such ones, up to 32 MiB in each thread's arena.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// An attempt for which the host kept so many bytes in all is worth [`trim`].
pub(super) const WORTH_TRIMMING: u64 = 4 << 20;
/// Trimming walks through everything that is free: at most so often.
const PAUSE: Duration = Duration::from_secs(1);

/// Larger blocks than a payload come from the system each time and go back at once; of smaller ones a thread keeps a few.
pub(super) fn configure() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        set(libc::M_MMAP_THRESHOLD, 1 << 20);
        set(libc::M_TRIM_THRESHOLD, 2 << 20);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a setting of the C library that nobody wraps; it takes two numbers and touches no memory of ours")]
fn set(parameter: libc::c_int, value: libc::c_int) {
    // SAFETY: any thread may call it at any time with any numbers.
    if unsafe { libc::mallopt(parameter, value) } == 0 {
        tracing::debug!("the allocator does not know the setting {parameter}");
    }
}

/// Hands free memory back, away from the threads that run guests.
pub(super) fn trim() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let due = last.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(last.elapsed()));
    // One that waits will do it for this attempt as well.
    if last.is_some_and(|last| last > Instant::now()) {
        return;
    }
    *last = Some(Instant::now() + due);
    tokio::spawn(async move {
        tokio::time::sleep(due).await;
        let _ = tokio::task::spawn_blocking(trim_now).await;
    });
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's own way to give back what is free; it touches nothing that is in use")]
fn trim_now() {
    // SAFETY: any thread may call it at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim_now() {}
