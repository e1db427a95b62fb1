//! State in a directory, one file per key.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{STATE_KEY, StateError, StateStore, StoreFuture, tailscaled};

const LOCK: &str = ".lock";
const TEMPORARY: &str = ".new-";
/// While this file exists, all temporary ones are complete and take the place of the old ones.
const COMMITTED: &str = ".committed";
/// While this file exists, all values are on their way out.
const CLEARING: &str = ".clearing";
/// Where Go's `tailscaled` and `tsnet` keep certificates, in their state directory.
const GO_CERTS: &str = "certs";

/// State in a directory (0700) of files (0600), one per key; one process at a time.
///
/// A file is replaced by renaming a complete, synced one over it, so after a crash the old or the new value
/// is there. Values that are written at once are all old or all new then.
///
/// In a directory that Go's `tsnet` or `tailscaled` has used, its certificates are found too.
#[derive(Debug)]
pub struct DirStore(Arc<Dir>);

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    /// Held for the life of the store; serialises writers of this process too.
    lock: Mutex<File>,
}

/// Where a write stands: each is a place where the process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    Sync,
    Commit,
    Rename,
    SyncDir,
    Conclude,
    Remove,
}

impl DirStore {
    /// Opens the directory, made if needed, and locks it against other processes.
    ///
    /// # Errors
    /// [`StateError::InUse`] when it is locked, naming the process if it is known; [`StateError::Io`] when it
    /// can't be made or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let fail = |action| io_error(action, &path);
        // An existing directory keeps its mode: a volume's may not be ours to change, and the files are 0600.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&path).map_err(fail("create"))?;
        let lock = lock(&path)?;
        recover(&path).map_err(fail("recover"))?;
        let lock = Mutex::new(lock);
        Ok(Self(Arc::new(Dir { path, lock })))
    }

    /// File operations block, above all `fsync`.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dir) -> Result<T, StateError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let dir = Arc::clone(&self.0);
        Box::pin(async move {
            let path = dir.path.clone();
            let task = tokio::task::spawn_blocking(move || work(&dir));
            task.await
                .map_err(|error| io_error("access", &path)(io::Error::other(error)))?
        })
    }
}

impl StateStore for DirStore {
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        let key = key.to_owned();
        self.blocking(move |dir| dir.read(&key))
    }

    fn write(&self, values: BTreeMap<String, Vec<u8>>) -> StoreFuture<'_, ()> {
        self.blocking(move |dir| dir.write(&values, &mut |_| Ok(())))
    }

    fn clear(&self) -> StoreFuture<'_, ()> {
        self.blocking(|dir| dir.clear(&mut |_| Ok(())))
    }
}

impl Dir {
    fn file(&self, key: &str) -> Result<PathBuf, StateError> {
        let is_name = !key.is_empty() && !key.starts_with('.') && !key.contains(['/', '\0']);
        is_name
            .then(|| self.path.join(key))
            .ok_or_else(|| StateError::Invalid {
                what: format!("the key {key:?}"),
                reason: "it can't be the name of a file".to_owned(),
            })
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        let file = self.file(key)?;
        for path in [file, self.path.join(GO_CERTS).join(key)] {
            match fs::read(&path) {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("read", &path)(error)),
            }
        }
        Ok(None)
    }

    /// `step` is asked before each step, so that tests can fail there.
    fn write(
        &self,
        values: &BTreeMap<String, Vec<u8>>,
        step: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let _one_writer = self.lock.lock();
        recover(&self.path).map_err(io_error("recover", &self.path))?;
        let mut files = Vec::new();
        let prepared = self.prepare(values, &mut files, step);
        if prepared.is_err() {
            // Gives back what a full disk may need.
            drop(fs::remove_file(self.path.join(COMMITTED)));
            files
                .iter()
                .for_each(|(temporary, _)| drop(fs::remove_file(temporary)));
            return prepared;
        }
        for (temporary, path) in &files {
            let renamed = step(Step::Rename).and_then(|()| fs::rename(temporary, path));
            renamed.map_err(io_error("write", path))?;
        }
        let synced = step(Step::SyncDir).and_then(|()| sync_dir(&self.path));
        let concluded = synced.and_then(|()| match files.len() {
            0 | 1 => Ok(()),
            _ => step(Step::Conclude).and_then(|()| unmark(&self.path, COMMITTED)),
        });
        concluded.map_err(io_error("write", &self.path))
    }

    /// Writes the new values beside the old ones; `files` are the temporary names and the final ones.
    fn prepare(
        &self,
        values: &BTreeMap<String, Vec<u8>>,
        files: &mut Vec<(PathBuf, PathBuf)>,
        step: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<(), StateError> {
        for (key, value) in values {
            let path = self.file(key)?;
            let temporary = self.path.join(format!("{TEMPORARY}{key}"));
            files.push((temporary.clone(), path.clone()));
            write_synced(&temporary, value, step).map_err(io_error("write", &path))?;
        }
        if files.len() > 1 {
            let committed = step(Step::Commit).and_then(|()| mark(&self.path, COMMITTED));
            committed.map_err(io_error("write", &self.path))?;
        }
        Ok(())
    }

    /// Removes what this store can have written, and what it can have taken over; other files stay. Once it has begun
    /// it is ended, after a crash too: with our state gone and Go's still there, its identity would be taken over again.
    fn clear(&self, step: &mut dyn FnMut(Step) -> io::Result<()>) -> Result<(), StateError> {
        let _one_writer = self.lock.lock();
        let cleared = recover(&self.path)
            .and_then(|()| step(Step::Commit))
            .and_then(|()| mark(&self.path, CLEARING))
            .and_then(|()| finish_clearing(&self.path, step));
        cleared.map_err(io_error("clear", &self.path))
    }
}

fn finish_clearing(dir: &Path, step: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    remove_ours(dir, step)?;
    match remove_ours(&dir.join(GO_CERTS), step) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        cleared => cleared?,
    }
    step(Step::Conclude)?;
    unmark(dir, CLEARING)
}

fn remove_ours(dir: &Path, step: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_ours) {
            step(Step::Remove)?;
            fs::remove_file(entry.path())?;
        }
    }
    step(Step::SyncDir)?;
    sync_dir(dir)
}

fn is_ours(name: &str) -> bool {
    let by_ending = [".crt", ".key", ".key.pem"].iter().any(|end| name.ends_with(end));
    by_ending || name == STATE_KEY || name == tailscaled::KEY
}

fn write_synced(path: &Path, value: &[u8], step: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    step(Step::Create)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    step(Step::Write)?;
    file.write_all(value)?;
    step(Step::Sync)?;
    file.sync_all()
}

/// The kernel lets go of the lock when the process ends, however it ends.
fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join(LOCK);
    let fail = || io_error("lock", &path);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&path).map_err(fail())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(fail()(error)),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let known = file.read_to_string(&mut pid).is_ok() && pid.trim().parse::<u32>().is_ok();
            let by = if known {
                format!(" (process {})", pid.trim())
            } else {
                String::new()
            };
            return Err(StateError::InUse {
                what: format!("{}{by}", dir.display()),
            });
        }
    }
    let pid = format!("{}\n", std::process::id());
    // The pid is for people: a full disk must not keep a node that has its state from starting.
    let _ = file.set_len(0).and_then(|()| file.write_all(pid.as_bytes()));
    Ok(file)
}

/// From here on what the marker says is so. Names that it is about have to be on the disk before its own is.
fn mark(dir: &Path, marker: &str) -> io::Result<()> {
    sync_dir(dir)?;
    File::create(dir.join(marker))?.sync_all()?;
    sync_dir(dir)
}

/// It isn't so any longer.
fn unmark(dir: &Path, marker: &str) -> io::Result<()> {
    fs::remove_file(dir.join(marker))?;
    sync_dir(dir)
}

/// Ends what a crash has interrupted: complete values take their places, others were never written; what was to be
/// cleared goes.
fn recover(dir: &Path) -> io::Result<()> {
    let complete = dir.join(COMMITTED).try_exists()?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        match name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)) {
            Some(key) if complete => fs::rename(entry.path(), dir.join(key))?,
            Some(_) => fs::remove_file(entry.path())?,
            None => {}
        }
    }
    if complete {
        sync_dir(dir)?;
        unmark(dir, COMMITTED)?;
    }
    if dir.join(CLEARING).try_exists()? {
        finish_clearing(dir, &mut |_| Ok(()))?;
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError + use<> {
    let what = path.display().to_string();
    move |error| StateError::Io {
        action,
        what: what.clone(),
        source: match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("{error}; free some space, it is tried again").into()
            }
            _ => error.into(),
        },
    }
}

#[cfg(test)]
mod tests;
