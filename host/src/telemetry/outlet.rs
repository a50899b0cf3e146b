//! The outlet of a worker's log: a thread of its own writes the lines, so that no reader of the log can hold up or end the worker.
//!
//! line → a buffer of at most [`LIMIT`] bytes → the thread → stderr. A line is dropped and counted if the buffer is full, or if it can't be
//! written. When the reader is back, the log says how many lines were dropped.
//!
//! Invariant: nothing here panics. Only the thread waits for the reader; [`Outlet::flush`] waits with a limit.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// The most bytes that wait for the reader. The thread may have as many again in its hands.
const LIMIT: usize = 1 << 20;
/// How soon to try again when a non-blocking stderr takes nothing.
const AGAIN: Duration = Duration::from_millis(20);
/// The end of a process waits at most this long for a reader, also for one that reads a little at a time.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Outlet {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// The thread has lines in its hands.
    writing: bool,
    /// Lines that were dropped and not yet reported.
    dropped: u64,
    /// Bytes that a reader took.
    written: u64,
}

impl Outlet {
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.lines.len() + line.len() > LIMIT {
            state.dropped += 1;
            return;
        }
        state.lines.extend_from_slice(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Writes for ever. `tell` is called with how many lines were dropped, once the reader takes lines again.
    pub(super) fn run(&self, out: &mut dyn Write, tell: &dyn Fn(u64)) -> ! {
        let mut batch = Vec::new();
        let mut is_read = false;
        loop {
            self.next(&mut batch);
            if is_read {
                self.tell(tell);
            }
            let lost = self.write(out, &batch);
            self.state.lock().dropped += lost;
            is_read = lost == 0;
            if is_read {
                self.tell(tell);
            }
        }
    }

    /// Reports dropped lines, but only while no line waits: the report itself might find the buffer full.
    fn tell(&self, tell: &dyn Fn(u64)) {
        let mut state = self.state.lock();
        if !state.lines.is_empty() {
            return;
        }
        let dropped = std::mem::take(&mut state.dropped);
        drop(state);
        if dropped > 0 {
            tell(dropped);
        }
    }

    /// Waits for lines and takes all of them.
    fn next(&self, batch: &mut Vec<u8>) {
        batch.clear();
        let mut state = self.state.lock();
        state.writing = false;
        self.emptied.notify_all();
        while state.lines.is_empty() {
            self.filled.wait(&mut state);
        }
        std::mem::swap(batch, &mut state.lines);
        state.writing = true;
    }

    /// Writes, and answers how many lines could not be written.
    fn write(&self, out: &mut dyn Write, mut rest: &[u8]) -> u64 {
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(0) => break,
                Ok(count) => {
                    rest = &rest[count..];
                    self.state.lock().written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
                Err(_nobody_reads) => break,
            }
        }
        lines(rest) as u64
    }

    /// Returns when all is written, or when the reader has taken nothing for `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let begun = Instant::now();
        let mut state = self.state.lock();
        let (mut seen, mut since) = (state.written, begun);
        while state.writing || !state.lines.is_empty() {
            if state.written != seen {
                (seen, since) = (state.written, Instant::now());
            }
            if since.elapsed() >= patience || begun.elapsed() >= LONGEST {
                return;
            }
            self.emptied.wait_for(&mut state, patience / 4);
        }
    }
}

fn lines(text: &[u8]) -> usize {
    text.split(|byte| *byte == b'\n').count() - 1
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// Takes nothing until it is opened. `broken` makes it answer like a pipe without a reader.
    #[derive(Clone, Default)]
    struct Reader {
        open: Arc<AtomicBool>,
        broken: Arc<AtomicBool>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.broken.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !self.open.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.read.lock().extend_from_slice(&bytes[..bytes.len().min(1000)]);
            Ok(bytes.len().min(1000))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(reader: &Reader) -> Arc<Outlet> {
        let outlet = Arc::new(Outlet::default());
        let (of_thread, mut out) = (outlet.clone(), reader.clone());
        std::thread::spawn(move || {
            let tell = |dropped| of_thread.push(format!("dropped {dropped}\n").as_bytes());
            of_thread.run(&mut out, &tell)
        });
        outlet
    }

    /// How many lines were read, and how many the log says were dropped.
    fn account(reader: &Reader) -> (usize, usize) {
        let read = String::from_utf8(reader.read.lock().clone()).unwrap();
        let told: Vec<_> = read.lines().filter_map(|line| line.strip_prefix("dropped ")).collect();
        (read.lines().count() - told.len(), told.into_iter().map(|count| count.parse::<usize>().unwrap()).sum())
    }

    #[test]
    fn lines_for_a_reader_that_stalls_are_dropped_counted_and_told_when_it_reads_again() {
        let reader = Reader::default();
        let outlet = start(&reader);
        let line = [&[b'x'; 99][..], b"\n"].concat();
        // At least twice the limit, and as much as the thread may hold.
        let pushed = 4 * LIMIT / line.len();
        for _ in 0..pushed {
            outlet.push(&line);
        }
        outlet.flush(Duration::from_millis(20));
        assert!(reader.read.lock().is_empty());
        reader.open.store(true, Ordering::SeqCst);
        outlet.flush(Duration::from_secs(20));
        let (read, told) = account(&reader);
        assert!(told > 0, "it says so by itself");
        assert_eq!(read + told, pushed);
        assert!(read * line.len() <= 2 * LIMIT, "{read}");
    }

    #[test]
    fn a_reader_that_has_gone_costs_lines_and_nothing_else() {
        let reader = Reader::default();
        reader.broken.store(true, Ordering::SeqCst);
        let outlet = start(&reader);
        for _ in 0..3 {
            outlet.push(b"nobody reads this\n");
            outlet.flush(Duration::from_secs(20));
        }
        reader.broken.store(false, Ordering::SeqCst);
        reader.open.store(true, Ordering::SeqCst);
        outlet.push(b"back\n");
        outlet.flush(Duration::from_secs(20));
        assert_eq!(&**reader.read.lock(), b"back\ndropped 3\n");
    }
}
