//! What the commands of one FTP session do to the tree.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use unftp_core::storage::{Error, ErrorKind, FEATURE_RESTART, Fileinfo, Metadata, Result, StorageBackend};

use super::login::Visitor;
use super::{Shared, TIMEOUT};
use crate::access::Role;
use crate::api::{self, Retry};
use crate::base::limits;
use crate::files::{
    self, Asker, Conditions, Download, FileError, FilePath, FolderPath, Manifest, Placement, Stat, TreePath,
};
use crate::gateway::files::{CoreStore, Uploading, millis_now, now};

/// Entries of a folder that are listed; LIST can't be asked for the next page.
const ENTRIES_MAX: usize = 100_000;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// The tree, for one session.
pub(super) struct Backend {
    shared: Arc<Shared>,
    /// What could not be looked at, because the store gave no answer. libunftp takes any failure to look for an empty file
    /// when it appends, so that a file of which nothing is known would be written anew.
    unknown: Mutex<Option<PathBuf>>,
}

impl Backend {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, unknown: Mutex::new(None) }
    }

    fn asker(&self) -> Asker<CoreStore> {
        self.store().asker(&self.shared.options.gateway)
    }

    fn store(&self) -> CoreStore {
        CoreStore::new(Arc::clone(&self.shared.core), TIMEOUT)
    }

    /// The path that a client means, if it may do there what takes `needed`.
    fn path(&self, visitor: &Visitor, path: &Path, needed: Role) -> Result<TreePath> {
        let path = resolve(path, self.shared.options.gateway.key_bytes_max)?;
        let may_below = |folder: &FolderPath| visitor.grant.may_below(needed, folder.as_str().as_bytes()).is_ok();
        let path = match path {
            TreePath::File(file) if visitor.grant.may_key(needed, file.as_str().as_bytes()).is_ok() => {
                Some(TreePath::File(file))
            }
            // FTP writes a folder like a file. Who may do something in it needs no right to a file of that name.
            TreePath::File(file) => Some(file.as_folder()).filter(may_below).map(TreePath::Folder),
            // Whoever is limited to a part of the tree still walks through what is above it.
            TreePath::Folder(folder) => visitor.grant.may(needed).is_ok().then_some(TreePath::Folder(folder)),
        };
        self.confirm(visitor)?;
        path.ok_or_else(|| ErrorKind::PermissionDenied.into())
    }

    fn file(&self, visitor: &Visitor, path: &Path, needed: Role) -> Result<FilePath> {
        self.path(visitor, path, needed)?.file().map_err(|error| refusal(error.into()))
    }

    /// The same for a folder, and all that is in it.
    fn folder(&self, visitor: &Visitor, path: &Path, needed: Role) -> Result<FolderPath> {
        let path = resolve(path, self.shared.options.gateway.key_bytes_max)?.folder();
        self.confirm(visitor)?;
        let may = visitor.grant.may_below(needed, path.as_str().as_bytes());
        may.map(|()| path).map_err(|_| ErrorKind::PermissionDenied.into())
    }

    /// Refuses a client whose token was taken back since it logged in.
    fn confirm(&self, visitor: &Visitor) -> Result<()> {
        let is_good = self.shared.options.gateway.guard.access().confirms(&visitor.grant);
        if is_good { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
    }

    fn transfer(&self) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.shared.transfers).try_acquire_owned();
        permit.map_err(|_| Error::new(ErrorKind::TransientFileNotAvailable, "too many transfers are under way"))
    }

    async fn stat(&self, path: &TreePath) -> std::result::Result<Meta, FileError> {
        Ok(match files::stat(&mut self.asker(), path).await? {
            Stat::File(entry) => Meta::file(&entry.manifest),
            Stat::Folder => Meta::FOLDER,
        })
    }

    async fn upload<R: AsyncRead + Unpin>(&self, mut input: R, path: FilePath, at: Placement) -> Result<u64> {
        let value_bytes_max = self.shared.options.gateway.value_bytes_max;
        let begun = Uploading::begin(self.asker(), path, at, Conditions::default(), value_bytes_max);
        let mut uploading = begun.await.map_err(refusal)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let Ok(read) = timeout(self.shared.options.pause_max, input.read(&mut buffer)).await else {
                return Err(Error::new(ErrorKind::ConnectionClosed, "the client pauses for too long"));
            };
            let bytes = read.map_err(|error| Error::new(ErrorKind::ConnectionClosed, error))?;
            if bytes == 0 {
                break;
            }
            uploading.upload().write(&buffer[..bytes], now()).await.map_err(refusal)?;
        }
        uploading.upload().finish(None, millis_now(), now()).await.map_err(refusal)?;
        let size = uploading.upload().size();
        uploading.0 = None;
        Ok(size)
    }

    fn unknown(&self) -> std::sync::MutexGuard<'_, Option<PathBuf>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StorageBackend<Visitor> for Backend {
    type Metadata = Meta;

    fn name(&self) -> &str {
        "jumpgate"
    }

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }

    async fn metadata<P: AsRef<Path> + Send + fmt::Debug>(&self, user: &Visitor, path: P) -> Result<Meta> {
        let found = self.stat(&self.path(user, path.as_ref(), Role::Read)?).await;
        let is_unknown = found.as_ref().is_err_and(|error| *error != FileError::NotFound);
        *self.unknown() = is_unknown.then(|| path.as_ref().to_owned());
        found.map_err(refusal)
    }

    async fn list<P: AsRef<Path> + Send + fmt::Debug>(
        &self,
        user: &Visitor,
        path: P,
    ) -> Result<Vec<Fileinfo<PathBuf, Meta>>> {
        let tree_path = self.path(user, path.as_ref(), Role::Read)?;
        if let TreePath::File(file) = &tree_path
            && let Ok(Stat::File(entry)) = files::stat(&mut self.asker(), &tree_path).await
        {
            return Ok(vec![Fileinfo { path: file.as_str().into(), metadata: Meta::file(&entry.manifest) }]);
        }
        let folder = self.folder(user, path.as_ref(), Role::Read)?;
        let (mut entries, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut asker = self.asker();
            let listing = files::list(&mut asker, &folder, after.as_deref(), limits::PAGE_ITEMS_MAX).await;
            let listing = listing.map_err(refusal)?;
            entries.extend(listing.entries.into_iter().map(|found| {
                let metadata = found.file.as_ref().map_or(Meta::FOLDER, Meta::file);
                Fileinfo { path: PathBuf::from(found.name), metadata }
            }));
            match listing.next {
                None => return Ok(entries),
                // A part of a folder would pass for the whole.
                Some(_) if entries.len() >= ENTRIES_MAX => {
                    let why = format!("the folder has more than {ENTRIES_MAX} entries");
                    return Err(Error::new(ErrorKind::PermanentDirectoryNotAvailable, why));
                }
                next => after = next,
            }
        }
    }

    async fn get_into<'a, P, W: ?Sized>(&self, user: &Visitor, path: P, at: u64, output: &'a mut W) -> Result<u64>
    where
        W: AsyncWrite + Unpin + Sync + Send,
        P: AsRef<Path> + Send + fmt::Debug,
    {
        let path = self.file(user, path.as_ref(), Role::Read)?;
        let _transfer = self.transfer()?;
        let entry = files::open(&mut self.asker(), &path).await.map_err(refusal)?;
        if at > entry.manifest.size {
            let why = format!("the file has {} bytes; it can't be read from {at}", entry.manifest.size);
            return Err(Error::new(ErrorKind::PermanentFileNotAvailable, why));
        }
        let mut download = Download::new(self.store(), &entry.manifest, at..entry.manifest.size);
        let send = async {
            let mut sent = 0;
            while let Some(piece) = download.next().await {
                let piece = piece.map_err(refusal)?;
                self.confirm(user)?;
                match timeout(self.shared.options.pause_max, output.write_all(&piece)).await {
                    Ok(written) => written?,
                    Err(_) => return Err(Error::new(ErrorKind::ConnectionClosed, "the client reads too slowly")),
                }
                sent += piece.len() as u64;
            }
            Ok(sent)
        };
        tokio::select! {
            sent = send => sent,
            () = self.shared.abort.cancelled() => Err(ErrorKind::ConnectionClosed.into()),
        }
    }

    /// Files are written to their reader as they come; nothing asks for a reader of them.
    async fn get<P: AsRef<Path> + Send + fmt::Debug>(
        &self,
        _: &Visitor,
        _: P,
        _: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        Err(ErrorKind::CommandNotImplemented.into())
    }

    async fn put<P: AsRef<Path> + Send + fmt::Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        user: &Visitor,
        input: R,
        path: P,
        at: u64,
    ) -> Result<u64> {
        let file = self.file(user, path.as_ref(), Role::Write)?;
        let is_unknown = self.unknown().take().is_some_and(|unknown| unknown == path.as_ref());
        if at == 0 && is_unknown {
            return Err(Error::new(ErrorKind::TransientFileNotAvailable, "nothing is known of the file at the moment"));
        }
        let _transfer = self.transfer()?;
        let placement = if at == 0 { Placement::Replace } else { Placement::AppendAt(at) };
        tokio::select! {
            written = self.upload(input, file, placement) => written,
            () = self.shared.abort.cancelled() => Err(ErrorKind::ConnectionClosed.into()),
        }
    }

    async fn del<P: AsRef<Path> + Send + fmt::Debug>(&self, user: &Visitor, path: P) -> Result<()> {
        let path = self.file(user, path.as_ref(), Role::Write)?;
        let deleted = files::delete(&mut self.asker(), &path, &Conditions::default()).await;
        deleted.map(drop).map_err(refusal)
    }

    async fn mkd<P: AsRef<Path> + Send + fmt::Debug>(&self, user: &Visitor, path: P) -> Result<()> {
        let folder = self.folder(user, path.as_ref(), Role::Write)?;
        files::create_folder(&mut self.asker(), &folder, millis_now()).await.map(drop).map_err(refusal)
    }

    async fn rename<P: AsRef<Path> + Send + fmt::Debug>(&self, user: &Visitor, from: P, to: P) -> Result<()> {
        let (from, to) = (self.file(user, from.as_ref(), Role::Write)?, self.file(user, to.as_ref(), Role::Write)?);
        files::rename(&mut self.asker(), &from, &to).await.map_err(refusal)
    }

    async fn rmd<P: AsRef<Path> + Send + fmt::Debug>(&self, user: &Visitor, path: P) -> Result<()> {
        let folder = self.folder(user, path.as_ref(), Role::Write)?;
        files::remove_folder(&mut self.asker(), &folder).await.map(drop).map_err(refusal)
    }

    async fn cwd<P: AsRef<Path> + Send + fmt::Debug>(&self, user: &Visitor, path: P) -> Result<()> {
        let path = resolve(path.as_ref(), self.shared.options.gateway.key_bytes_max)?.folder();
        self.confirm(user)?;
        // Whoever is limited to a part of the tree still walks through what is above it.
        user.grant.may(Role::Read).map_err(|_| Error::from(ErrorKind::PermissionDenied))?;
        match self.stat(&TreePath::Folder(path)).await {
            Ok(_) => Ok(()),
            Err(FileError::NotFound) => Err(ErrorKind::PermanentDirectoryNotAvailable.into()),
            Err(error) => Err(refusal(error)),
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

/// What is told of a file or a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    size: u64,
    is_folder: bool,
    modified_ms: u64,
}

impl Meta {
    /// Folders are what files have in their paths; nobody knows when they began.
    const FOLDER: Self = Self { size: 0, is_folder: true, modified_ms: 0 };

    const fn file(manifest: &Manifest) -> Self {
        Self { size: manifest.size, is_folder: false, modified_ms: manifest.modified_ms }
    }
}

impl Metadata for Meta {
    fn len(&self) -> u64 {
        self.size
    }

    fn is_dir(&self) -> bool {
        self.is_folder
    }

    fn is_file(&self) -> bool {
        !self.is_folder
    }

    fn is_symlink(&self) -> bool {
        false
    }

    fn modified(&self) -> Result<SystemTime> {
        let modified = UNIX_EPOCH.checked_add(Duration::from_millis(self.modified_ms));
        modified.ok_or_else(|| ErrorKind::LocalError.into())
    }

    fn gid(&self) -> u32 {
        0
    }

    fn uid(&self) -> u32 {
        0
    }
}

/// The path that a client means: `.` and `..` are FTP's own, and nothing is above the root.
fn resolve(path: &Path, key_bytes_max: usize) -> Result<TreePath> {
    let refused = |why: String| Error::new(ErrorKind::FileNameNotAllowedError, why);
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => match part.to_str() {
                // libunftp has put this character where the bytes were no text: another name than was meant.
                Some(part) if !part.contains(char::REPLACEMENT_CHARACTER) => parts.push(part),
                _ => return Err(refused("the name is not UTF-8".to_owned())),
            },
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    TreePath::new(parts.join("/").as_bytes(), key_bytes_max).map_err(|error| refused(error.to_string()))
}

/// A failure as FTP has it: 4xx where the same may go well in a moment, 5xx where it won't.
fn refusal(error: FileError) -> Error {
    let kind = match &error {
        FileError::Path(_) => ErrorKind::FileNameNotAllowedError,
        FileError::NotFound | FileError::Conflict(_) | FileError::Foreign(_) | FileError::PreconditionFailed { .. } => {
            ErrorKind::PermanentFileNotAvailable
        }
        FileError::NotEmpty => ErrorKind::PermanentDirectoryNotEmpty,
        FileError::TooLarge(_) | FileError::Store(api::Error::MemoryFull { .. } | api::Error::ValueTooLarge { .. }) => {
            ErrorKind::ExceededStorageAllocationError
        }
        FileError::Busy | FileError::Changed => ErrorKind::TransientFileNotAvailable,
        FileError::Store(error) => match error.retry() {
            Retry::Never => ErrorKind::PermanentFileNotAvailable,
            Retry::Safe => ErrorKind::TransientFileNotAvailable,
            Retry::IfIdempotent => ErrorKind::LocalError,
        },
        FileError::Unexpected => ErrorKind::LocalError,
    };
    Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_walked_and_nothing_is_above_the_root() {
        for (path, expected) in [
            ("/", ""),
            ("/a/b", "a/b"),
            ("a/b/", "a/b"),
            ("/a/../b", "b"),
            ("/../../etc/passwd", "etc/passwd"),
            ("/a/./b//c", "a/b/c"),
            ("/a/b/../../..", ""),
        ] {
            let resolved = resolve(Path::new(path), 1024).expect(path);
            let expected = TreePath::new(expected.as_bytes(), 1024).expect("a path");
            assert_eq!(resolved, expected, "{path}");
        }
        let long = format!("/{}", "k".repeat(1024));
        for bad in ["/a\u{1}b", "/a\u{7f}", "/a\u{FFFD}", &long] {
            let refused = resolve(Path::new(bad), 1024).expect_err(bad);
            assert_eq!(refused.kind(), ErrorKind::FileNameNotAllowedError, "{bad:?}");
        }
    }

    #[test]
    fn what_may_go_well_in_a_moment_is_4xx_and_what_will_not_is_5xx() {
        let store = |error| FileError::Store(error);
        let cases = [
            (FileError::NotFound, ErrorKind::PermanentFileNotAvailable),
            (FileError::NotEmpty, ErrorKind::PermanentDirectoryNotEmpty),
            (FileError::Busy, ErrorKind::TransientFileNotAvailable),
            (FileError::TooLarge(String::new()), ErrorKind::ExceededStorageAllocationError),
            (store(api::Error::NoQuorum("x".into())), ErrorKind::TransientFileNotAvailable),
            (store(api::Error::Busy("x".into())), ErrorKind::TransientFileNotAvailable),
            (store(api::Error::DeadlineBefore("x".into())), ErrorKind::TransientFileNotAvailable),
            (store(api::Error::OutcomeUnknown("x".into())), ErrorKind::LocalError),
            (store(api::Error::MemoryFull { bytes_max: 1 }), ErrorKind::ExceededStorageAllocationError),
            (store(api::Error::PartitionLost(crate::base::PartitionId(1))), ErrorKind::PermanentFileNotAvailable),
        ];
        for (error, kind) in cases {
            assert_eq!(refusal(error.clone()).kind(), kind, "{error:?}");
        }
    }
}
