//! `wasi:filesystem/types` with limits: counts open descriptors, and opens only files and directories.
//!
//! a function of the contract → counted → wasmtime's own function; or one of ours, if wasmtime's would wait for ever (a pipe) or take as
//! much memory as a directory is long
//!
//! Invariant: a descriptor counts until its last handle and stream is gone.

use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use wasmtime::{
    StoreContextMut,
    component::{Linker, LinkerInstance, Resource, ResourceType},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, Dir, WasiFilesystemView},
    p2::{
        DynInputStream, DynOutputStream, FsResult,
        bindings::filesystem::types::{DescriptorFlags, DescriptorType, DirectoryEntry, ErrorCode, HostDescriptor, OpenFlags, PathFlags},
    },
};

use super::{
    account::Refused,
    guest::Guest,
    held::{Held, Opened},
    output::Shared,
    sentence,
};

mod open;
mod streams;

const TYPES: &str = "wasi:filesystem/types@0.2.12";
/// The most bytes that one call writes to a file. A guest may call again.
const WRITE: usize = 64 << 10;
/// The memory of an entry of a listing, beside its name.
const ENTRY: usize = 64;

type Store<'a> = StoreContextMut<'a, Guest>;
type Answer<T> = (Result<T, ErrorCode>,);

/// The entries of a directory at the time of the call.
struct Listing {
    entries: std::vec::IntoIter<Result<DirectoryEntry, ErrorCode>>,
    _held: Held,
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store: Store<'_>, handle| {
        let guest = store.data_mut();
        guest.table.delete(Resource::<Descriptor>::new_own(handle))?;
        guest.open.remove(&handle);
        Ok(())
    })?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: Store<'_>, (dir, follow, path, open, flags): (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags)| {
            Box::new(async move { Ok::<Answer<_>, _>((told(open_at(store.data_mut(), dir, follow, path, open, flags).await)?,)) })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store: Store<'_>, (file, mut bytes, offset): (Resource<Descriptor>, Vec<u8>, u64)| {
            Box::new(async move {
                bytes.truncate(WRITE);
                bytes.shrink_to_fit();
                let guest = store.data_mut();
                Ok::<Answer<_>, _>((told(HostDescriptor::write(&mut guest.filesystem(), file, bytes, offset).await)?,))
            })
        },
    )?;
    add_streams(&mut types)?;
    add_listings(&mut types)
}

/// The error for the guest. An error that the contract does not have is a trap.
fn told<T>(answer: FsResult<T>) -> wasmtime::Result<Result<T, ErrorCode>> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(error) => error.downcast().map(Err),
    }
}

async fn open_at(
    guest: &mut Guest,
    dir: Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    open: OpenFlags,
    flags: DescriptorFlags,
) -> FsResult<Resource<Descriptor>> {
    use wasmtime_wasi::p2::FsError;

    let opened = Opened::take(&guest.shared).map_err(FsError::trap)?;
    let Descriptor::Dir(within) = guest.table.get(&dir)?.clone() else { return Err(ErrorCode::NotDirectory.into()) };
    let shown = sentence::line(&path, 256);
    let descriptor = match open::without_waiting(within, follow, path.clone(), open, flags).await {
        Ok(found) => Ok(guest.table.push(found)?),
        Err(open::Failed::OutOfDescriptors) => return Err(FsError::trap(Refused::DescriptorsOfProcess)),
        Err(open::Failed::NoFile) => Err(FsError::from(ErrorCode::Unsupported)),
        Err(open::Failed::With(code)) => Err(code.into()),
        // Checked first, because wasmtime's own function would wait for the other end of a pipe.
        Err(open::Failed::NotHere) => {
            let mut wasi = guest.filesystem();
            match HostDescriptor::stat_at(&mut wasi, Resource::new_borrow(dir.rep()), follow, path.clone()).await {
                Ok(stat)
                    if !matches!(stat.type_, DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink) =>
                {
                    Err(ErrorCode::Unsupported.into())
                }
                _ => HostDescriptor::open_at(&mut wasi, dir, follow, path, open, flags).await,
            }
        }
    };
    if let Err(error) = &descriptor
        && matches!(error.downcast_ref(), Some(ErrorCode::Unsupported))
    {
        guest.shared.log("warn", &format!("only files and directories can be opened: `{shown}`"), Vec::new());
    }
    let descriptor = descriptor?;
    guest.open.insert(descriptor.rep(), Arc::new(opened));
    Ok(descriptor)
}

fn add_streams(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.func_wrap("[method]descriptor.read-via-stream", |mut store: Store<'_>, (file, offset): (Resource<Descriptor>, u64)| {
        let guest = store.data_mut();
        let opened = guest.open.get(&file.rep()).cloned();
        let held = Held::take(&guest.shared, streams::PEEK)?;
        let answer = told(HostDescriptor::read_via_stream(&mut guest.filesystem(), file, offset))?;
        if let Ok(stream) = &answer {
            streams::Input::wrap(guest.table.get_mut(stream)?, held, opened);
        }
        Ok::<Answer<Resource<DynInputStream>>, _>((answer,))
    })?;
    types.func_wrap("[method]descriptor.write-via-stream", |mut store: Store<'_>, (file, offset): (Resource<Descriptor>, u64)| {
        let guest = store.data_mut();
        let opened = guest.open.get(&file.rep()).cloned();
        let answer = HostDescriptor::write_via_stream(&mut guest.filesystem(), file, offset);
        output(guest, answer, opened)
    })?;
    types.func_wrap("[method]descriptor.append-via-stream", |mut store: Store<'_>, (file,): (Resource<Descriptor>,)| {
        let guest = store.data_mut();
        let opened = guest.open.get(&file.rep()).cloned();
        let answer = HostDescriptor::append_via_stream(&mut guest.filesystem(), file);
        output(guest, answer, opened)
    })
}

fn output(
    guest: &mut Guest,
    answer: FsResult<Resource<DynOutputStream>>,
    opened: Option<Arc<Opened>>,
) -> wasmtime::Result<Answer<Resource<DynOutputStream>>> {
    let answer = told(answer)?;
    if let Ok(stream) = &answer {
        streams::Output::wrap(guest.table.get_mut(stream)?, &guest.shared, opened);
    }
    Ok((answer,))
}

fn add_listings(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.resource("directory-entry-stream", ResourceType::host::<Listing>(), |mut store: Store<'_>, handle| {
        store.data_mut().table.delete(Resource::<Listing>::new_own(handle))?;
        Ok(())
    })?;
    types.func_wrap_async("[method]descriptor.read-directory", |mut store: Store<'_>, (dir,): (Resource<Descriptor>,)| {
        Box::new(async move {
            let guest = store.data_mut();
            let Descriptor::Dir(dir) = guest.table.get(&dir)?.clone() else { return Ok((Err(ErrorCode::NotDirectory),)) };
            let shared = Arc::clone(&guest.shared);
            // The directory is open twice while it is read.
            let opened = Opened::take(&shared)?;
            let listed = tokio::task::spawn_blocking(move || {
                let listing = list(&dir, &shared);
                drop(opened);
                listing
            })
            .await?;
            Ok::<Answer<_>, _>((match listed {
                Ok(listing) => Ok(guest.table.push(listing?)?),
                Err(error) => Err(ErrorCode::from(error)),
            },))
        })
    })?;
    types.func_wrap("[method]directory-entry-stream.read-directory-entry", |mut store: Store<'_>, (listing,): (Resource<Listing>,)| {
        Ok::<Answer<Option<DirectoryEntry>>, _>((store.data_mut().table.get_mut(&listing)?.entries.next().transpose(),))
    })
}

/// All entries, counted one by one. The outer error comes from the disk, the inner one from a limit.
fn list(dir: &Dir, shared: &Arc<Shared>) -> std::io::Result<Result<Listing, Refused>> {
    let mut held = match Held::take(shared, 0) {
        Ok(held) => held,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut entries = Vec::new();
    // The descriptor may be open as a path only.
    let readable = rustix::fs::openat(&*dir.dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in rustix::fs::Dir::new(readable)? {
        let entry = entry?;
        let name = entry.file_name();
        if [&b"."[..], b".."].contains(&name.to_bytes()) {
            continue;
        }
        if let Err(refused) = held.grow(ENTRY + name.to_bytes().len()) {
            return Ok(Err(refused));
        }
        let kind = match entry.file_type() {
            // Some file systems do not report the type here, and the entry may be gone by now.
            FileType::Unknown => rustix::fs::statat(&*dir.dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            kind => kind,
        };
        entries.push(match name.to_str() {
            Ok(name) => Ok(DirectoryEntry { type_: as_wasi(kind), name: name.to_owned() }),
            Err(_) => Err(ErrorCode::IllegalByteSequence),
        });
    }
    Ok(Ok(Listing { entries: entries.into_iter(), _held: held }))
}

fn as_wasi(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        _ => DescriptorType::Unknown,
    }
}
