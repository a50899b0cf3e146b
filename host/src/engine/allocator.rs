//! The C library's allocator: gives memory that the host held for a guest back to the system.
//!
//! By default glibc learns from the first large block that is freed, and then keeps such blocks: up to 32 MiB in each thread's arena.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// After an attempt for which the host kept this many bytes in all, [`trim`] is called.
pub(super) const WORTH_TRIMMING: u64 = 4 << 20;
/// The shortest time between two calls, because trimming walks through all free memory.
const PAUSE: Duration = Duration::from_secs(1);

/// Blocks of this size come from the system each time and go back at once. A thread keeps a few smaller ones. Larger than a payload.
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

/// Gives free memory back, on a thread that runs no guests.
pub(super) fn trim() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock();
    let due = last.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(last.elapsed()));
    // A call that waits already will serve this attempt too.
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
