//! Listening sockets: bound, adopted from whoever started us, and multiplied so that each worker accepts on its own.
//!
//! Invariant: an address that another process listens on is refused, also when both would share it, and a unix socket is
//! never open to more than owner and group, nor removed while something answers on it. Accepting is left to `server`.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket as RawSocket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

use super::wire::Stream;

/// Connections that the system holds for us before we accept them.
const BACKLOG: i32 = 1024;
/// Owner and group; access to the socket is the right to administer.
const SOCKET_MODE: u32 = 0o660;

/// A bound socket that no runtime has taken yet.
#[derive(Debug)]
pub enum Socket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// A socket that the current runtime accepts on.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why there is no socket; says what to do.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error(
        "can't listen on {addr}: address already in use; another process listens there (`ss -ltnp 'sport = :{}'` \
         names it), or choose another address", .addr.port()
    )]
    InUse { addr: SocketAddr },
    #[error("can't listen on {addr}: no interface of this machine has that address")]
    NotOurs { addr: SocketAddr },
    #[error("can't listen on {addr}: ports below 1024 need CAP_NET_BIND_SERVICE or a socket handed over by systemd")]
    Privileged { addr: SocketAddr },
    #[error("can't listen on {addr}: {source}")]
    Tcp { addr: SocketAddr, source: io::Error },
    #[error("can't listen on {}: another process answers there; stop it or choose another path", path.display())]
    Answered { path: PathBuf },
    #[error("can't listen on {}: it exists and is not a socket; remove it or choose another path", path.display())]
    NotASocket { path: PathBuf },
    #[error("can't listen on {}: can't create its folder: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("can't listen on {}: {source}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("the socket that was handed over can't be used: {source}")]
    Inherited { source: io::Error },
}

/// One socket for each of `workers` (at least one), all on the same address; with port 0, on the one that the first got.
///
/// # Errors
/// When the address is taken or not to be had.
pub fn tcp(addr: SocketAddr, workers: usize) -> Result<Vec<Socket>, ListenError> {
    let fails = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { addr },
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs { addr },
        io::ErrorKind::PermissionDenied if addr.port() < 1024 => ListenError::Privileged { addr },
        _ => ListenError::Tcp { addr, source },
    };
    if addr.port() != 0 {
        // Sockets that share would join those of another daemon without a word; one that doesn't share finds it.
        tcp_socket(addr, false).map_err(fails)?;
    }
    let mut sockets = Vec::new();
    let mut actual = addr;
    for _ in 0..workers.max(1) {
        let socket = tcp_socket(actual, true).map_err(fails)?;
        socket.listen(BACKLOG).map_err(fails)?;
        let socket = StdTcpListener::from(socket);
        actual = socket.local_addr().map_err(fails)?;
        sockets.push(Socket::Tcp(socket));
    }
    Ok(sockets)
}

/// One unix socket, shared by each of `workers` (at least one). A file left behind by a process that is gone is replaced.
///
/// # Errors
/// When something answers there, or the path can't be used.
pub fn unix(path: &Path, workers: usize) -> Result<Vec<Socket>, ListenError> {
    let fails = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|source| ListenError::Folder { path: path.to_owned(), source })?;
    }
    remove_stale(path)?;
    let bind = || {
        let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Nobody can connect before it listens, so nobody does with the mode that the umask left.
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    let socket = bind().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Answered { path: path.to_owned() },
        _ => fails(source),
    })?;
    share(Socket::Unix(StdUnixListener::from(socket)), workers).map_err(fails)
}

/// A listening socket that was handed over, by systemd for instance: the one queue, shared by each of `workers`.
///
/// # Errors
/// When the descriptor can't be duplicated or isn't what it should be.
pub fn inherited(socket: Socket, workers: usize) -> Result<Vec<Socket>, ListenError> {
    if let Socket::Tcp(socket) = &socket {
        let set = socket2::SockRef::from(socket).set_tcp_nodelay(true);
        set.map_err(|source| ListenError::Inherited { source })?;
    }
    share(socket, workers).map_err(|source| ListenError::Inherited { source })
}

fn share(socket: Socket, workers: usize) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for _ in 1..workers.max(1) {
        sockets.push(socket.try_clone()?);
    }
    sockets.push(socket);
    Ok(sockets)
}

fn tcp_socket(addr: SocketAddr, shared: bool) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ListenError::Unix { path: path.to_owned(), source }),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    // Only a refusal says that nobody is there: a full queue or a missing right does not.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| ListenError::Unix { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(ListenError::Answered { path: path.to_owned() }),
    }
}

impl Socket {
    /// Where it listens; `None` for a unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// Hands it to the runtime that this is called on.
    ///
    /// # Errors
    /// When the runtime can't watch it.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Listener::Tcp)
            }
            Self::Unix(socket) => {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Listener::Unix)
            }
        }
    }
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, mut addr) = listener.accept().await?;
                addr.set_ip(addr.ip().to_canonical());
                Ok((Stream::Tcp(stream), Some(addr)))
            }
            Self::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn workers_share_one_port() {
        let sockets = tcp(loopback(0), 3).unwrap();
        let ports: Vec<u16> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0));
    }

    #[test]
    fn an_address_in_use_is_refused_even_when_it_is_shared() {
        let first = tcp(loopback(0), 2).unwrap();
        let addr = first[0].local_addr().unwrap();
        let error = tcp(addr, 2).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&addr.to_string()) && text.contains("already in use"), "{text}");
        drop(first);
        tcp(addr, 1).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = tcp("192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
    }

    #[tokio::test]
    async fn what_is_accepted_has_nodelay_set() {
        let own = tcp(loopback(0), 1).unwrap().remove(0);
        let handed = inherited(Socket::Tcp(StdTcpListener::bind(loopback(0)).unwrap()), 2).unwrap().remove(0);
        for socket in [own, handed] {
            let addr = socket.local_addr().unwrap();
            let listener = socket.listen().unwrap();
            let _client = tokio::net::TcpStream::connect(addr).await.unwrap();
            let (Stream::Tcp(stream), Some(_)) = listener.accept().await.unwrap() else { panic!("not TCP") };
            assert!(stream.nodelay().unwrap());
        }
    }

    #[test]
    fn a_unix_socket_is_for_owner_and_group_and_replaces_only_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/admin.sock");
        let sockets = unix(&path, 2).unwrap();
        assert_eq!(sockets.len(), 2);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(unix(&path, 1).unwrap_err(), ListenError::Answered { .. }));
        UnixStream::connect(&path).unwrap().write_all(b"x").unwrap();
        drop(sockets);
        assert!(path.exists());
        drop(unix(&path, 1).unwrap());
    }

    #[test]
    fn a_file_in_the_way_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(unix(&path, 1).unwrap_err(), ListenError::NotASocket { .. }));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
