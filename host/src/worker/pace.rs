//! How many tasks to claim, start and record at once, and how long to wait: pure decisions.
//!
//! Short attempts are claimed, started and recorded many at a time, because a round trip costs more than they do. Long ones are not:
//! other workers could run them now.
//!
//! Invariant: no I/O, no clock and no lock here. The callers hand in counts and durations.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// While the cores are busy, finishes and free slots wait at most this long, so that one round trip serves several.
pub(super) const BATCHING: Duration = Duration::from_millis(2);

/// The CPU work that may be claimed ahead for each core: enough that no core is idle while the next claim is under way.
const AHEAD: Duration = Duration::from_millis(5);
/// Attempts that usually use this much CPU together are started as one: below it, handing each to a thread costs more than it gains.
const TOGETHER: Duration = Duration::from_micros(100);
/// The most attempts that want CPU, however short they are.
const MOST_WANTING: usize = 4096;

/// One batch of finishes has at most this many, and about this many bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 << 20;
/// A worker that keeps more bytes of results and logs than this claims nothing.
pub(super) const KEPT_BYTES: usize = 64 << 20;

/// An idle queue is looked at after this time, whatever the broker said of it.
const LOOK: Duration = Duration::from_secs(5);
/// A full worker asks for due tasks no more often than this.
const LOOK_FULL: Duration = Duration::from_millis(100);
/// How soon to look whether the cores have caught up. An attempt that starts to wait in a host call tells nobody.
const CATCH_UP: Duration = Duration::from_millis(5);
/// The broker's clock and this one differ a little: a due time is not polled more often than this.
const DUE: Duration = Duration::from_millis(2);

/// The size of a worker and of its usual attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) slots: usize,
    pub(super) cores: usize,
    /// The CPU time of a usual attempt in nanoseconds; `None` before the first one ended.
    pub(super) usual: Option<u64>,
}

impl Pace {
    /// How many tasks to claim, with `free` slots and `wanting` attempts that want CPU now.
    pub(super) fn budget(&self, free: usize, wanting: usize) -> usize {
        free.min(self.ceiling().saturating_sub(wanting))
    }

    /// Whether `count` tasks are worth a round trip now. While the cores have enough work, a round trip carries a batch and not the one
    /// slot that has just become free. When the cores are about to run dry, and so on an idle worker, any count is worth it.
    pub(super) fn is_worth(&self, count: usize, wanting: usize) -> bool {
        count > 0 && (count >= self.batch() || wanting < 2 * self.cores)
    }

    /// Whether the next claim waits for more free slots: the last one was sent `ago`.
    pub(super) fn is_too_early(&self, ago: Duration, budget: usize, wanting: usize) -> bool {
        ago < BATCHING && !self.is_worth(budget, wanting)
    }

    /// How many attempts to start as one task of the runtime, and to claim at a time from one of many queues.
    pub(super) fn together(&self) -> usize {
        let many = self.usual.map_or(1, |usual| TOGETHER.as_nanos() / u128::from(usual.max(1000)));
        usize::try_from(many).unwrap_or(usize::MAX).max(1)
    }

    /// How many tasks make a round trip worth it while the cores have work.
    fn batch(&self) -> usize {
        self.slots.min(self.ceiling()) / 3
    }

    /// How many attempts may want CPU at once. It is 16 for each core: bodies that compute are not hoarded from other workers, and a short
    /// one has its turn within some 16 ms. It is more when attempts are so short that 16 would be over before the next claim is answered.
    fn ceiling(&self) -> usize {
        let floor = 16 * self.cores;
        let Some(usual) = self.usual else { return floor };
        let ahead = AHEAD.as_nanos() * self.cores as u128 / u128::from(usual.max(1000));
        // Not `clamp`, which panics where the floor is above the most.
        usize::try_from(ahead).unwrap_or(usize::MAX).min(MOST_WANTING).max(floor)
    }
}

/// The moving average of CPU times in nanoseconds, after one more attempt. It is at least 1.
pub(super) fn average(usual: Option<u64>, cpu: Duration) -> u64 {
    let cpu = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX).max(1);
    match usual {
        Some(usual) => (usual / 16 * 15).saturating_add(cpu / 16).max(1),
        None => cpu,
    }
}

/// The finishes that are not recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unrecorded {
    pub(super) count: usize,
    pub(super) bytes: usize,
    /// Those of `count` that the broker can't record, because of what stands in it.
    pub(super) aside: usize,
    /// Whether the last batch was recorded whole and soon.
    pub(super) is_prompt: bool,
}

impl Unrecorded {
    /// How many of `slots` they take. While batches are recorded soon, up to `slots` finishes take none: claims need not wait for them.
    /// After a batch that failed or was slow, each finish takes a slot. One that the broker can't record always does.
    pub(super) fn burden(self, slots: usize) -> usize {
        if self.bytes > KEPT_BYTES {
            return slots;
        }
        if !self.is_prompt {
            return self.count;
        }
        self.aside + self.count.saturating_sub(self.aside + slots)
    }
}

/// Makes tasks that were lost with a worker before, and are on their last attempt, run alone. Such a task may kill its worker, and then it
/// takes no neighbour to the dead set.
///
/// None is held while others run, because all that a killed worker held counts as lost. It is handed back uncounted, and nothing more is
/// claimed. When nothing runs, one task is claimed again.
#[derive(Debug, Default)]
pub(super) struct Alone {
    is_wanted: bool,
    runs: bool,
}

impl Alone {
    /// How many tasks may be claimed for `free` slots.
    pub(super) fn most(&mut self, running: usize, free: usize) -> usize {
        self.runs &= running > 0;
        match self.runs {
            true => 0,
            false if self.is_wanted => free.min(usize::from(running == 0)),
            false => free,
        }
    }

    /// Whether one of the `lone` tasks of a claim starts, and not the `others`. Tasks that do not start are handed back.
    pub(super) fn is_turn(&mut self, lone: usize, others: usize, running: usize) -> bool {
        if lone == 0 && others == 0 && running > 0 {
            return false;
        }
        self.is_wanted = lone > 0;
        lone > 0 && others == 0 && running == 0
    }

    /// A lone task had its turn. If it started, it runs until nothing runs.
    pub(super) fn turned(&mut self, started: bool) {
        self.runs = started;
    }
}

/// How many finishes of a batch are sent one by one, to find the one that the broker refuses.
#[derive(Debug, Default)]
pub(super) struct Singly(usize);

impl Singly {
    pub(super) fn is_over(&self) -> bool {
        self.0 == 0
    }

    /// How many to send now of those that fit into a batch.
    pub(super) fn size(&self, fitting: usize) -> usize {
        if self.is_over() { fitting } else { 1 }
    }

    pub(super) fn recorded(&mut self, count: usize) {
        self.0 = self.0.saturating_sub(count);
    }

    /// The broker refused a batch of `count`. Each of several is sent again by itself; a single one is found.
    pub(super) fn refused(&mut self, count: usize) {
        self.0 = if count > 1 { count } else { self.0.saturating_sub(1) };
    }

    /// One more finish is sent by itself: one that was refused before.
    pub(super) fn add(&mut self) {
        self.0 += 1;
    }
}

/// How many of the next finishes make one batch, by their bytes; at least 1.
pub(super) fn fitting(weights: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let within = weights.into_iter().take(BATCH).take_while(|weight| {
        bytes += weight;
        bytes <= BATCH_BYTES
    });
    within.count().max(1)
}

/// When to claim from a queue again, if nobody says earlier that it has something. `next_due` is the broker's word; `is_full`: the last
/// claim had no slot to fill.
pub(super) fn look_again(next_due: Option<Duration>, is_full: bool) -> Duration {
    let floor = if is_full { LOOK_FULL } else { DUE };
    next_due.map_or(LOOK, |due| due.clamp(floor, LOOK))
}

/// How long one wait at the broker may last, when the queue is looked at after `left`.
pub(super) fn wait_limit(left: Duration) -> Duration {
    left.clamp(DUE, LOOK)
}

/// How long the dispatcher sleeps at most. Each queue that can be claimed from is given as whether it may have something, and the time
/// until its next look. `is_gated`: slots are free, but the cores have their fill.
pub(super) fn next_look(queues: impl IntoIterator<Item = (bool, Duration)>, is_gated: bool) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    let mut is_hot = false;
    for (hot, left) in queues {
        is_hot |= hot;
        next = Some(next.map_or(left, |next| next.min(left)));
    }
    if is_gated && is_hot {
        next = Some(next.map_or(CATCH_UP, |next| next.min(CATCH_UP)));
    }
    next
}
