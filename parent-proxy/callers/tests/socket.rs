//! Where sockets may be, who may reach them, and what stands there already. In a process of its own: binding
//! sets the umask, which all threads share, so that one test runs after another.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test, which says what it skips"
)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use callers::{AgentSocket, Socket};
use policy::{Annex, Bundle};
use rustix::fs::Mode;
use rustix::process::{geteuid, umask};

const ROBOT: &str = "z6MkkgmuCCiYtMnMp5d9Zq7p6Bsy71Nxk4ddnfywzeGnFNeF";

/// One test at a time, in a folder of its own, with a runtime for what listens.
struct Alone {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    _turn: MutexGuard<'static, ()>,
}

impl Alone {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        Self {
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
            folder: tempfile::tempdir().unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder with this mode.
    fn folder(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn bind(&self, path: &Path, policy: &Bundle) -> Result<Socket, String> {
        self.bind_annexed(path, policy, None)
    }

    fn bind_annexed(
        &self,
        path: &Path,
        policy: &Bundle,
        annex: Option<&Annex>,
    ) -> Result<Socket, String> {
        let _runtime = self.runtime.enter();
        Socket::bind(path, policy, annex).map_err(|error| error.to_string())
    }

    fn bind_for(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<Socket, String> {
        let _runtime = self.runtime.enter();
        let socket = AgentSocket {
            name: "agent".into(),
            path: path.into(),
            uid,
            gid,
        };
        Socket::bind_for(&socket).map_err(|error| error.to_string())
    }

    fn bind_private(&self, path: &Path) -> Result<Socket, String> {
        let _runtime = self.runtime.enter();
        Socket::bind_private(path)
    }
}

fn own() -> u32 {
    geteuid().as_raw()
}

/// A user who is neither root nor ourselves.
fn stranger() -> u32 {
    own() + 7
}

/// A policy that names these callers.
fn policy(callers: &str) -> Bundle {
    let text = format!(
        "version = 1\nmode = 'development'\n\
         proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'\n\
         operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'\n\
         callers = [{{ name = 'robot', key = '{ROBOT}' }}]\n\
         [[identities]]\nname = 'agent'\nenvironment = 'test'\ndid = 'did:key'\nalgorithm = 'EdDSA'\n\
         max_validity_seconds = 600\ncallers = {callers}\n\
         rules = [{{ name = 'any', actions = ['*'], targets = ['*'], resources = ['*'] }}]\n"
    );
    Bundle::from_toml(&text).unwrap()
}

fn for_ourselves() -> Bundle {
    policy(&format!("{{ uids = [{}] }}", own()))
}

fn for_others() -> Bundle {
    policy(&format!("{{ uids = [{}] }}", stranger()))
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

/// Folders that others may reach must be root's.
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root has folders that others may reach");
    }
    is_root
}

#[test]
fn a_socket_for_ourselves_is_closed_to_others_from_its_first_moment_and_goes_when_it_ends() {
    let alone = Alone::new();
    let path = alone.path("new/s.sock");
    let before = umask(Mode::from_raw_mode(0o377));
    let socket = alone.bind(&path, &for_ourselves()).unwrap();
    let after = umask(before);
    assert_eq!(after, Mode::from_raw_mode(0o377), "it is put back");
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    assert!(path.metadata().unwrap().file_type().is_socket());
    assert_eq!((socket.path(), &socket.name), (&*path, &None));
    drop(socket);
    assert!(!path.exists());
    // Once more, in the folder that is there.
    drop(alone.bind(&path, &for_ourselves()).unwrap());

    // What another process has put there in the meantime is not ours to remove.
    let socket = alone.bind(&path, &for_ourselves()).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[test]
fn a_socket_is_for_others_where_anybody_else_may_be_a_caller() {
    let alone = Alone::new();
    if !is_root() {
        return;
    }
    let names = policy("{ names = ['crew'] }");
    let annex = |uid: &str| {
        let text = format!("version = 1\ncallers = [{{ name = 'crew', socket = 'a'{uid} }}]");
        Annex::from_toml(&text).unwrap()
    };
    let (ours, theirs) = (
        annex(&format!(", uid = {}", own())),
        annex(&format!(", uid = {}", stranger())),
    );
    let own_and_more = |more: &str| policy(&format!("{{ uids = [{}]{more} }}", own()));
    for (number, (policy, annex, is_shared)) in [
        (for_ourselves(), None, false),
        (for_others(), None, true),
        (own_and_more(", gids = [0]"), None, true),
        (own_and_more(", proven = ['robot']"), None, true),
        (
            policy(&format!("{{ uids = [{}, {}] }}", own(), stranger())),
            None,
            true,
        ),
        (names.clone(), None, false),
        (names.clone(), Some(&ours), false),
        (names.clone(), Some(&theirs), true),
        (names, Some(&annex("")), true),
    ]
    .into_iter()
    .enumerate()
    {
        let path = alone.path(&format!("{number}/s.sock"));
        let before = umask(Mode::from_raw_mode(0o077));
        let socket = alone.bind_annexed(&path, &policy, annex);
        umask(before);
        let _socket = socket.unwrap();
        let modes = (mode(path.parent().unwrap()), mode(&path));
        let wanted = if is_shared {
            (0o755, 0o666)
        } else {
            (0o700, 0o600)
        };
        assert_eq!(modes, wanted, "{number}");
    }
}

#[test]
fn the_folder_of_a_socket_for_ourselves_is_ours_and_closed() {
    let alone = Alone::new();
    for bits in [0o750, 0o701, 0o720] {
        let folder = alone.folder(&format!("{bits:o}"), bits);
        let refused = alone
            .bind(&folder.join("s"), &for_ourselves())
            .err()
            .unwrap();
        assert!(
            refused.contains("must be ours and closed to others"),
            "{refused}"
        );
    }
    if is_root() {
        let folder = alone.folder("theirs", 0o700);
        chown(&folder, Some(stranger()), None).unwrap();
        let refused = alone
            .bind(&folder.join("s"), &for_ourselves())
            .err()
            .unwrap();
        assert!(
            refused.contains("must be ours and closed to others"),
            "{refused}"
        );
    }
    fs::write(alone.path("file"), "").unwrap();
    let refused = alone
        .bind(&alone.path("file/s"), &for_ourselves())
        .err()
        .unwrap();
    assert!(refused.contains("is not a directory"), "{refused}");
    let refused = alone
        .bind(&alone.path("no/folder/s"), &for_ourselves())
        .err()
        .unwrap();
    assert!(
        refused.contains("its directory") && refused.contains("No such file"),
        "{refused}"
    );
}

#[test]
fn the_folder_of_a_socket_for_others_is_roots_and_lets_them_in() {
    let alone = Alone::new();
    if !is_root() {
        let folder = alone.folder("ours", 0o755);
        let refused = alone.bind(&folder.join("s"), &for_others()).err().unwrap();
        assert!(refused.contains("must belong to root"), "{refused}");
        return;
    }
    for bits in [0o775, 0o757] {
        let folder = alone.folder(&format!("{bits:o}"), bits);
        let refused = alone.bind(&folder.join("s"), &for_others()).err().unwrap();
        assert!(refused.contains("must belong to root"), "{refused}");
    }
    let theirs = alone.folder("theirs", 0o755);
    chown(&theirs, Some(stranger()), None).unwrap();
    let refused = alone.bind(&theirs.join("s"), &for_others()).err().unwrap();
    assert!(refused.contains("must belong to root"), "{refused}");
    let closed = alone.folder("closed", 0o700);
    let refused = alone.bind(&closed.join("s"), &for_others()).err().unwrap();
    assert!(refused.contains("lets none of them in"), "{refused}");
    for bits in [0o710, 0o701, 0o755] {
        let folder = alone.folder(&format!("{bits:o}-good"), bits);
        drop(alone.bind(&folder.join("s"), &for_others()).unwrap());
    }
}

#[test]
fn nobody_else_can_replace_what_is_above_the_folder() {
    let alone = Alone::new();
    for (bits, is_good) in [
        (0o757, false),
        (0o775, false),
        (0o1777, true),
        (0o711, true),
    ] {
        let above = alone.folder(&format!("{bits:o}"), bits);
        let bound = alone.bind(&above.join("folder/s"), &for_ourselves());
        let refused = bound.err();
        assert_eq!(refused.is_none(), is_good, "{bits:o}: {refused:?}");
        if let Some(refused) = refused {
            assert!(refused.contains("another user could replace"), "{refused}");
        }
    }
    // A link is as movable as what it stands in.
    alone.folder("real", 0o711);
    symlink(alone.path("real"), alone.path("link")).unwrap();
    drop(
        alone
            .bind(&alone.path("link/folder/s"), &for_ourselves())
            .unwrap(),
    );
    if is_root() {
        let theirs = alone.folder("theirs", 0o711);
        chown(&theirs, Some(stranger()), None).unwrap();
        let refused = alone
            .bind(&theirs.join("folder/s"), &for_ourselves())
            .err()
            .unwrap();
        assert!(refused.contains("another user could replace"), "{refused}");
    }
}

#[test]
fn a_path_is_as_long_as_an_address_can_be() {
    let alone = Alone::new();
    let folder = alone.folder("f", 0o700);
    let rest = 107 - folder.as_os_str().len() - 1;
    drop(
        alone
            .bind(&folder.join("x".repeat(rest)), &for_ourselves())
            .unwrap(),
    );
    let long = folder.join("x".repeat(rest + 1));
    let refused = alone.bind(&long, &for_ourselves()).err().unwrap();
    assert!(refused.contains("longer than the 107 bytes"), "{refused}");
}

#[test]
fn only_a_socket_of_ours_that_nobody_listens_on_is_replaced() {
    let alone = Alone::new();
    let folder = alone.folder("f", 0o700);
    let path = folder.join("s");
    let bind = || alone.bind_private(&path);
    // Left by a process that is gone.
    drop(UnixListener::bind(&path).unwrap());
    let inode = path.metadata().unwrap().ino();
    let socket = bind().unwrap();
    assert_eq!(mode(&path), 0o600);
    UnixStream::connect(&path).unwrap();
    drop(socket);
    let refused = |what: &str| {
        let before = path.symlink_metadata().unwrap().ino();
        let refused = bind().err().unwrap();
        assert!(refused.contains(what), "{refused}");
        assert_eq!(path.symlink_metadata().unwrap().ino(), before, "{what}");
        fs::remove_file(&path).unwrap();
    };
    assert!(!path.exists(), "{inode}");

    fs::write(&path, "").unwrap();
    refused("something that is not a socket");
    symlink(folder.join("elsewhere"), &path).unwrap();
    refused("something that is not a socket");
    let listens = UnixListener::bind(&path).unwrap();
    refused("another process listens there");
    drop(listens);
    // Of another kind, which nobody can connect to so.
    let datagrams = UnixDatagram::bind(&path).unwrap();
    refused("rotocol");
    drop(datagrams);
    if is_root() {
        drop(UnixListener::bind(&path).unwrap());
        chown(&path, Some(stranger()), None).unwrap();
        refused("a socket of another user");
    }
}

#[test]
fn an_agents_own_socket_lets_in_its_user_or_group() {
    let alone = Alone::new();
    let owner = |path: &Path| {
        let metadata = path.metadata().unwrap();
        (metadata.uid(), metadata.gid())
    };
    let group = rustix::process::getegid().as_raw();
    for (number, (uid, gid, folder_mode, socket_mode)) in [
        (None, None, 0o700, 0o600),
        (Some(own()), None, 0o700, 0o600),
        (None, Some(group), 0o755, 0o660),
        (Some(stranger()), None, 0o755, 0o600),
        (Some(stranger()), Some(stranger()), 0o755, 0o660),
    ]
    .into_iter()
    .enumerate()
    {
        let is_foreign = uid.is_some_and(|uid| uid != own()) || gid.is_some();
        if is_foreign && !is_root() {
            continue;
        }
        let path = alone.path(&format!("{number}/s"));
        let socket = alone.bind_for(&path, uid, gid).unwrap();
        assert_eq!(socket.name.as_deref(), Some("agent"));
        assert_eq!(
            (mode(path.parent().unwrap()), mode(&path)),
            (folder_mode, socket_mode)
        );
        assert_eq!(owner(&path), (uid.unwrap_or(own()), gid.unwrap_or(group)));
    }
    // Its folder may be of the other kind, too.
    let closed = alone.folder("closed", 0o700);
    drop(
        alone
            .bind_for(&closed.join("s"), None, Some(group))
            .unwrap(),
    );
    if is_root() {
        let open = alone.folder("open", 0o755);
        drop(alone.bind_for(&open.join("s"), None, None).unwrap());
    }
    // Of neither kind: what is said is for the kind that it was to be.
    let bad = alone.folder("bad", 0o777).join("s");
    let refused = |gid| alone.bind_for(&bad, None, gid).err().unwrap();
    assert!(
        refused(None).contains("must be ours and closed"),
        "{}",
        refused(None)
    );
    assert!(refused(Some(group)).contains("must belong to root"));
}

#[test]
fn every_byte_comes_with_who_wrote_it() {
    let alone = Alone::new();
    let asks = |socket: &Socket| rustix::net::sockopt::socket_passcred(&socket.listener).unwrap();
    let path = alone.folder("f", 0o700).join("s");
    assert!(asks(&alone.bind_private(&path).unwrap()));

    let given = UnixListener::bind(&path).unwrap();
    let _runtime = alone.runtime.enter();
    let socket = Socket::inherited(given).unwrap();
    assert!(asks(&socket));
    assert_eq!(socket.path(), path);
    // It stays: it is of the one who made it.
    drop(socket);
    assert!(path.exists());
}
