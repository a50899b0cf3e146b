//! Decides whose fault an error is. Only a property of a plugin's bytes may be remembered by their digest.
//!
//! Invariant: a failure of the machine is tried again, and is never held against the plugin.

use std::io::ErrorKind;

use rustix::io::Errno;

/// Errors that mean that the machine, or a limit of this process, has run out of something.
const SHORT: [Errno; 10] = [
    Errno::NOMEM,
    Errno::AGAIN,
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::IO,
    Errno::INTR,
    Errno::ROFS,
    Errno::ACCESS,
];

/// Whether wasmtime failed for lack of something that may be there later, or on another machine.
pub(super) fn is_the_machines(error: &wasmtime::Error) -> bool {
    if error.is::<wasmtime::PoolConcurrencyLimitError>() || error.is::<wasmtime::OutOfMemory>() {
        return true;
    }
    error.chain().any(|cause| {
        let errno = cause.downcast_ref::<Errno>().copied();
        let io = cause.downcast_ref::<std::io::Error>();
        let errno = errno.or_else(|| io.and_then(Errno::from_io_error));
        errno.is_some_and(|errno| SHORT.contains(&errno)) || io.is_some_and(|io| io.kind() == ErrorKind::OutOfMemory)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_descriptors_or_disk_is_no_property_of_the_bytes() {
        for errno in SHORT {
            let io = std::io::Error::from(errno);
            assert!(is_the_machines(&wasmtime::Error::new(errno).context("mmap failed to allocate 0x1000 bytes")), "{errno}");
            assert!(is_the_machines(&wasmtime::Error::new(io).context("can't start")), "{errno}");
        }
        assert!(is_the_machines(&wasmtime::Error::new(std::io::Error::from(ErrorKind::OutOfMemory))));
        assert!(is_the_machines(&wasmtime::OutOfMemory::new(4096).into()));
        assert!(!is_the_machines(&wasmtime::Trap::UnreachableCodeReached.into()));
        assert!(!is_the_machines(&wasmtime::Error::msg("unknown import: `f`")));
        assert!(!is_the_machines(&wasmtime::Error::new(std::io::Error::from(ErrorKind::InvalidData))));
    }
}
