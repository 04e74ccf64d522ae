//! The Unix socket for agents: where it may be, who may reach it, and what stands there already.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use policy::{Annex, Bundle, Callers};
use rustix::fs::Mode;
use rustix::process::{geteuid, umask};
use serde::Deserialize;
use tokio::net::UnixListener;

use crate::admission::all_callers;
use crate::error::Error;

/// A socket for one agent, beside the one for all.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSocket {
    /// What the policy's annex knows it by.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Only this user may connect; the sidecar's own, if neither is given.
    pub uid: Option<u32>,
    /// This group may connect too.
    pub gid: Option<u32>,
}

/// A listening socket that is removed when dropped.
pub struct Socket {
    /// Where callers connect.
    pub listener: UnixListener,
    /// What callers on it are told apart by, where there are several.
    pub name: Option<String>,
    path: PathBuf,
    /// Of the file that is ours to remove.
    inode: Option<(u64, u64)>,
}

/// Whether the policy names callers other than this process' own user.
fn is_shared(policy: &Bundle, annex: Option<&Annex>) -> bool {
    let own = geteuid().as_raw();
    let described = annex.into_iter().flat_map(|annex| &annex.callers);
    if described.into_iter().any(|caller| caller.uid != Some(own)) {
        return true;
    }
    // Who a name stands for, the annex says, and it may change; and a caller that proves itself may be
    // anybody.
    let others = |callers: &Callers| {
        !callers.gids.is_empty()
            || !callers.proven.is_empty()
            || callers.uids.iter().any(|uid| *uid != own)
    };
    all_callers(policy).any(others)
}

impl Socket {
    /// Binds. For the own user only: 0600 in a 0700 directory. For others: 0666 in a directory that
    /// only root can change, and the peers' credentials decide.
    pub fn bind(path: &Path, policy: &Bundle, annex: Option<&Annex>) -> Result<Self, Error> {
        let refuse = |why: String| Error::Socket {
            path: path.into(),
            why,
        };
        if path.as_os_str().len() > 107 {
            return Err(refuse(
                "longer than the 107 bytes that a socket address can hold".into(),
            ));
        }
        let shared = is_shared(policy, annex);
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        prepare_folder(folder, shared).map_err(&refuse)?;
        Self::bind_with(path, if shared { 0o111 } else { 0o177 }).map_err(refuse)
    }

    /// Binds one agent's own socket: nobody but this user or group may connect.
    pub fn bind_for(named: &AgentSocket) -> Result<Self, Error> {
        let refuse = |why: String| Error::Socket {
            path: named.path.clone(),
            why,
        };
        let folder = named
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let foreign = named.uid.is_some_and(|uid| uid != geteuid().as_raw()) || named.gid.is_some();
        // The socket's own mode lets in whom it should; its directory may be either kind, as long
        // as nobody else can change it.
        prepare_folder(folder, foreign)
            .or_else(|why| prepare_folder(folder, !foreign).map_err(|_| why))
            .map_err(&refuse)?;
        let mut socket =
            Self::bind_with(&named.path, if named.gid.is_some() { 0o117 } else { 0o177 })
                .map_err(&refuse)?;
        std::os::unix::fs::lchown(&named.path, named.uid, named.gid)
            .map_err(|error| refuse(error.to_string()))?;
        socket.name = Some(named.name.clone());
        Ok(socket)
    }

    /// Binds in a directory that is somebody else's to guard, closed to other users.
    pub fn bind_private(path: &Path) -> Result<Self, String> {
        Self::bind_with(path, 0o177)
    }

    /// Binds where nothing is, or where a dead process of ours has left its socket.
    fn bind_with(path: &Path, mask: u32) -> Result<Self, String> {
        clear_stale(path)?;
        // The mode must be right from the first moment; no other thread makes files.
        let before = umask(Mode::from_raw_mode(mask));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(|error| error.to_string())?;
        ask_for_writers(&listener).map_err(|error| error.to_string())?;
        let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        Ok(Self {
            listener,
            name: None,
            path: path.into(),
            inode: Some((metadata.dev(), metadata.ino())),
        })
    }

    /// Takes a socket that listens already. Where it is and who may reach it was decided by the one who
    /// made it, and it stays when this one goes; the peers' credentials decide as ever.
    pub fn inherited(listener: std::os::unix::net::UnixListener) -> Result<Self, Error> {
        listener.set_nonblocking(true)?;
        let path = listener
            .local_addr()?
            .as_pathname()
            .unwrap_or(Path::new("(unnamed)"))
            .to_owned();
        let listener = UnixListener::from_std(listener)?;
        ask_for_writers(&listener)?;
        Ok(Self {
            listener,
            name: None,
            path,
            inode: None,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Each byte on each connection comes with the credentials of the process that wrote it; connections inherit
/// this from their listener.
fn ask_for_writers(listener: &UnixListener) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_passcred(listener, true)?)
}

impl Drop for Socket {
    /// Removes the socket, unless another process has put its own there.
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| Some((metadata.dev(), metadata.ino())) == self.inode)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn prepare_folder(folder: &Path, shared: bool) -> Result<(), String> {
    let mode = if shared { 0o755 } else { 0o700 };
    match fs::DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => {
            // The process' umask may have taken bits away.
            fs::set_permissions(folder, fs::Permissions::from_mode(mode))
                .map_err(|error| error.to_string())?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(format!("its directory {}: {error}", folder.display())),
    }
    check_ancestors(folder)?;
    let metadata = fs::metadata(folder).map_err(|error| error.to_string())?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_dir() {
        return Err(format!("{} is not a directory", folder.display()));
    }
    if shared && (owner != 0 || mode & 0o022 != 0) {
        return Err(format!(
            "others than this user may connect (other users or groups, or callers that prove themselves), so its directory {} must belong to root and be writable by \
             nobody else (it is {mode:o}, owned by {owner})",
            folder.display()
        ));
    }
    if shared && mode & 0o011 == 0 {
        return Err(format!(
            "others than this user may connect (other users or groups, or callers that prove themselves), and its directory {} lets none of them in: chmod 755 it, or \
             remove it and have it made anew",
            folder.display()
        ));
    }
    if !shared && (owner != geteuid().as_raw() || mode & 0o077 != 0) {
        return Err(format!(
            "its directory {} must be ours and closed to others: give it a directory of its own, of mode 0700 (this one is {mode:o}, owned by {owner})",
            folder.display()
        ));
    }
    Ok(())
}

/// A user who may rename a directory above could put another in its place: each must be root's or
/// ours, and writable by others only where they cannot move what is not theirs (sticky).
fn check_ancestors(folder: &Path) -> Result<(), String> {
    let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
    for above in folder.ancestors().skip(1) {
        let metadata =
            fs::symlink_metadata(above).map_err(|error| format!("{}: {error}", above.display()))?;
        let trusted = [0, geteuid().as_raw()].contains(&metadata.uid());
        let movable =
            !metadata.is_symlink() && metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0;
        if !trusted || movable {
            return Err(format!(
                "another user could replace {}, which is above its directory",
                above.display()
            ));
        }
    }
    Ok(())
}

/// Removes a socket of ours that nobody listens on any more. Anything else stays, and is an error.
fn clear_stale(path: &Path) -> Result<(), String> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !metadata.file_type().is_socket() {
        return Err("something that is not a socket stands there".into());
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err("a socket of another user stands there".into());
    }
    match UnixStream::connect(path) {
        Ok(_) => Err("another process listens there".into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}
