//! Opens a file below a directory without blocking. Opening a pipe waits for its other end, and would block a thread of the host.
//!
//! the same checks, flags and bounds as wasmtime's own (`openat2`, `RESOLVE_BENEATH`) → `O_NONBLOCK` → is it a file or a directory?
//!
//! Invariant: if the kernel can't do that, nothing is opened and the caller is told.

use wasmtime_wasi::{
    filesystem::{Descriptor, Dir},
    p2::bindings::filesystem::types::{DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
};

/// Why nothing was opened.
pub(super) enum Failed {
    With(ErrorCode),
    /// It is a pipe, a socket or a device.
    NoFile,
    /// The process has no descriptor left, whatever was counted.
    OutOfDescriptors,
    /// The kernel has no such call.
    NotHere,
}

#[cfg(not(target_os = "linux"))]
pub(super) async fn without_waiting(_: Dir, _: PathFlags, _: String, _: OpenFlags, _: DescriptorFlags) -> Result<Descriptor, Failed> {
    Err(Failed::NotHere)
}

#[cfg(target_os = "linux")]
pub(super) async fn without_waiting(
    dir: Dir,
    follow: PathFlags,
    path: String,
    open: OpenFlags,
    flags: DescriptorFlags,
) -> Result<Descriptor, Failed> {
    use wasmtime_wasi::FsPerms;

    let sync = DescriptorFlags::FILE_INTEGRITY_SYNC | DescriptorFlags::DATA_INTEGRITY_SYNC | DescriptorFlags::REQUESTED_WRITE_SYNC;
    if flags.intersects(sync) {
        return Err(Failed::With(ErrorCode::Unsupported));
    }
    if open.contains(OpenFlags::DIRECTORY) && open.intersects(OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE) {
        return Err(Failed::With(ErrorCode::Invalid));
    }
    let write = flags.contains(DescriptorFlags::WRITE) || open.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE);
    let read = flags.contains(DescriptorFlags::READ) || !flags.contains(DescriptorFlags::WRITE);
    if write && dir.perms == FsPerms::ReadOnly {
        return Err(Failed::With(ErrorCode::NotPermitted));
    }
    let opening = tokio::task::spawn_blocking(move || linux::open(&dir, follow, &path, open, (read, write)));
    opening.await.unwrap_or(Err(Failed::With(ErrorCode::Io)))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{fs::File, io};

    use rustix::{
        fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
        io::Errno,
    };
    use wasmtime_wasi::{OpenMode, filesystem};

    use super::{Descriptor, Dir, ErrorCode, Failed, OpenFlags, PathFlags};

    /// How often to try: `openat2` answers "again" if anything on the machine is renamed meanwhile.
    const TRIES: usize = 4;

    pub(super) fn open(
        dir: &Dir,
        follow: PathFlags,
        path: &str,
        open: OpenFlags,
        (read, write): (bool, bool),
    ) -> Result<Descriptor, Failed> {
        let mut how = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        how |= match (read, write) {
            (true, true) => OFlags::RDWR,
            (_, false) => OFlags::RDONLY,
            (false, true) => OFlags::WRONLY,
        };
        if !follow.contains(PathFlags::SYMLINK_FOLLOW) {
            how |= OFlags::NOFOLLOW;
        }
        let (create, exclusive) = (open.contains(OpenFlags::CREATE), open.contains(OpenFlags::EXCLUSIVE));
        if create {
            how |= if exclusive { OFlags::CREATE | OFlags::EXCL } else { OFlags::CREATE };
        }
        if open.contains(OpenFlags::TRUNCATE) && !(create && exclusive) {
            how |= OFlags::TRUNC;
        }
        let mode = if create { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = (0..TRIES).map(|_| openat2(&*dir.dir, path, how, mode, beneath));
        let found = tries.find(|tried| !matches!(tried, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN));
        let file = File::from(found.map_err(failed)?);
        let kind = fstat(&file).map_err(failed)?.st_mode;
        let mut opened = OpenMode::empty();
        opened.set(OpenMode::READ, read);
        opened.set(OpenMode::WRITE, write);
        match FileType::from_raw_mode(kind) {
            FileType::Directory => Ok(Descriptor::Dir(Dir::new(file, dir.perms, opened, false))),
            FileType::RegularFile if open.contains(OpenFlags::DIRECTORY) => Err(Failed::With(ErrorCode::NotDirectory)),
            FileType::RegularFile => Ok(Descriptor::File(filesystem::File::new(file, dir.perms, opened, false))),
            _ => Err(Failed::NoFile),
        }
    }

    fn failed(errno: Errno) -> Failed {
        match errno {
            // Some sandboxes answer "not permitted" to a call that they don't know.
            Errno::AGAIN | Errno::NOSYS | Errno::PERM => Failed::NotHere,
            Errno::MFILE | Errno::NFILE => Failed::OutOfDescriptors,
            // A pipe that nobody reads, a device without a driver, a socket.
            Errno::NXIO | Errno::NODEV => Failed::NoFile,
            // It leads out of the directory.
            Errno::XDEV => Failed::With(ErrorCode::NotPermitted),
            errno => Failed::With(ErrorCode::from(io::Error::from(errno))),
        }
    }
}
