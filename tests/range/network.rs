//! The network of the range: a namespace with nothing but a loopback interface, to which every address of both families leads.
//! One listener answers for all of them and knows which was dialled; a packet socket sees every SYN, to whatever port.
//!
//! Nothing that is sent here can leave: there is no other interface, and the first thing done is to make sure of that.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::dns::{NAME_SERVER, NameServer};
use super::support::{SOON, poll};

/// A global address; outside of the range it is somebody's who routes it to nobody.
pub const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(25, 25, 25, 25));
pub const PUBLIC_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 0x25));
pub const PORT: u16 = 8080;

const INSIDE: &str = "RANGE_INSIDE";
const ETH_P_ALL: u16 = 3;

pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test of that name once more, in namespaces of its own.
pub fn run_inside(test: &str) {
    if std::env::var_os("NO_NETWORK_NAMESPACE").is_some() {
        println!("NOT TESTED: NO_NETWORK_NAMESPACE says that this system allows no namespaces");
        return;
    }
    let allowed = Command::new("unshare").args(["--net", "--mount", "true"]).stderr(Stdio::null()).status();
    assert!(
        allowed.is_ok_and(|status| status.success()),
        "this test makes a network of its own, which takes root's rights; set NO_NETWORK_NAMESPACE=1 to do without it"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]).arg(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let done = command.output().expect("unshare");
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}\n{told}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    println!("{told}");
}

pub struct Network {
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Where SYNs went, since it was last forgotten.
    connects: Mutex<Vec<SocketAddr>>,
    in_all: Mutex<usize>,
    /// The daemon's own address: who connects there is the test.
    ignored: Mutex<Vec<SocketAddr>>,
    /// By path, the address that was dialled.
    requests: Mutex<BTreeMap<String, SocketAddr>>,
    request_count: Mutex<usize>,
}

impl Network {
    pub fn set_up() -> Self {
        let interfaces = std::fs::read_to_string("/proc/self/net/dev").expect("the interfaces");
        let names: Vec<_> = interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
        assert_eq!(names, ["lo"], "this is not a network of its own");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["route", "add", "local", "0.0.0.0/0", "dev", "lo"]);
        run("ip", &["-6", "route", "add", "local", "::/0", "dev", "lo"]);
        resolver_files();
        let mut server = NameServer::default();
        super::script(&mut server);
        server.start();
        let seen = Arc::<Seen>::default();
        watch(Arc::clone(&seen));
        listen(Arc::clone(&seen));
        Self { seen }
    }

    /// Connections to this address are the test's own.
    pub fn ignore(&self, address: SocketAddr) {
        self.seen.ignored.lock().expect("a lock").push(address);
    }

    /// Every address that a SYN went to since the last `forget`.
    pub fn connects(&self) -> Vec<SocketAddr> {
        // What has been sent is seen in a moment.
        std::thread::sleep(Duration::from_millis(50));
        let ignored = self.seen.ignored.lock().expect("a lock").clone();
        let connects = self.seen.connects.lock().expect("a lock").clone();
        connects.into_iter().filter(|addr| !ignored.contains(addr)).collect()
    }

    pub fn connects_in_all(&self) -> usize {
        *self.seen.in_all.lock().expect("a lock")
    }

    pub fn forget(&self) {
        self.connects();
        self.seen.connects.lock().expect("a lock").clear();
    }

    /// That there were connects, all of them to the public addresses; they are forgotten.
    #[track_caller]
    pub fn only_public(&self) {
        let connects = self.connects();
        assert!(!connects.is_empty(), "nothing was connected to, so nothing is proven");
        let inner: Vec<_> = connects.iter().filter(|addr| addr.ip() != PUBLIC && addr.ip() != PUBLIC_V6).collect();
        assert!(inner.is_empty(), "inner addresses were connected to: {inner:?}");
        self.forget();
    }

    /// Waits for a request with this path; the address that was dialled for it.
    pub fn request(&self, path: &str) -> Option<SocketAddr> {
        let patience = if path == "/redirected" { Duration::from_millis(300) } else { SOON };
        poll(patience, || self.seen.requests.lock().expect("a lock").get(path).copied())
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        *self.seen.request_count.lock().expect("a lock")
    }
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Lays files of the range over those of this machine, for this mount namespace.
fn resolver_files() {
    run("mount", &["--make-rprivate", "/"]);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder").keep();
    let resolv = format!("nameserver {}\nsearch google.internal range.test\n", NAME_SERVER.ip());
    let hosts = "127.0.0.1 localhost\n192.168.7.7 listed.range.test\n".to_owned();
    for (name, text) in [("resolv.conf", resolv), ("hosts", hosts)] {
        let file = folder.join(name);
        std::fs::write(&file, text).expect("writing a file");
        run("mount", &["--bind", file.to_str().expect("a path"), &format!("/etc/{name}")]);
        std::fs::remove_file(&file).expect("removing it");
    }
    std::fs::remove_dir(folder).expect("removing the folder");
}

/// Notes every SYN on the wire.
fn watch(seen: Arc<Seen>) {
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("a packet socket");
    socket.set_recv_buffer_size(16 << 20).expect("a buffer");
    std::thread::spawn(move || {
        let mut frame = vec![0; 1 << 16];
        // What is sent over the loopback is seen as it leaves and as it comes.
        let mut known = HashSet::new();
        while let Ok(length) = socket.read(&mut frame) {
            if let Some((to, once)) = syn(&frame[..length])
                && known.insert(once)
            {
                seen.connects.lock().expect("a lock").push(to);
                if !seen.ignored.lock().expect("a lock").contains(&to) {
                    *seen.in_all.lock().expect("a lock") += 1;
                }
            }
        }
    });
}

/// Where a frame's SYN goes, when it is one, and what tells it from others.
fn syn(frame: &[u8]) -> Option<(SocketAddr, (SocketAddr, u16, u32))> {
    let (ip, tcp) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let packet = frame.get(14..)?;
            let header = usize::from(packet.first()? & 0x0f) * 4;
            (packet[9] == 6).then_some(())?;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (IpAddr::from(to), packet.get(header..)?)
        }
        [0x86, 0xdd] => {
            let packet = frame.get(14..)?;
            (*packet.get(6)? == 6).then_some(())?;
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (IpAddr::from(to).to_canonical(), packet.get(40..)?)
        }
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    const SYN_AND_ACK: u8 = 0x12;
    const SYN: u8 = 0x02;
    (tcp.get(13)? & SYN_AND_ACK == SYN).then_some(())?;
    let to = SocketAddr::new(ip, word(2)?);
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    Some((to, (to, word(0)?, sequence)))
}

/// The receiver at every address. 200, over a connection that is kept, unless the path says otherwise.
fn listen(seen: Arc<Seen>) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("a port of one's own network");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || drop(serve(stream, &seen)));
        }
    });
}

fn serve(stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut dialled = stream.local_addr()?;
    dialled.set_ip(dialled.ip().to_canonical());
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut path, mut length, mut line) = (String::new(), 0, String::new());
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        if path.is_empty() {
            return Ok(());
        }
        reader.read_exact(&mut vec![0; length])?;
        *seen.request_count.lock().expect("a lock") += 1;
        let redirect = path.strip_prefix("/redirect/").and_then(|rest| rest.split_once('/'));
        let answer = match (redirect, path.as_str()) {
            (Some((status, to)), _) => format!("{status} Elsewhere\r\nLocation: http://{to}:8080/redirected"),
            (None, "/close") => "200 OK\r\nConnection: close".to_owned(),
            (None, "/fail") => "500 No\r\nConnection: close".to_owned(),
            _ => "200 OK".to_owned(),
        };
        let close = answer.contains("close");
        seen.requests.lock().expect("a lock").insert(path, dialled);
        writer.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
