//! Real `labmesh` processes and what people type at them.
//!
//! Rule: a test waits for what it expects, with a deadline, never for a time; everything it starts or writes goes
//! away with the value that stands for it. When a test fails, the end of each node's log is printed.
//! Not here: hosts and cables ([`crate::lab`]).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{self, AddressFamily, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::lab::Host;

/// The tracker and the pages of every node.
pub(crate) const HTTP_PORT: u16 = 6969;
/// Where every node's peers connect.
pub(crate) const PEER_PORT: u16 = 6881;
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// The program under test: `LABMESH_BIN`, or what `cargo build --release` left.
pub(crate) fn binary() -> PathBuf {
    let path = std::env::var_os("LABMESH_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/labmesh"), PathBuf::from);
    assert!(path.exists(), "{} is missing: cargo build --release, or set LABMESH_BIN", path.display());
    path
}

/// Calls `probe` until it gives something; panics with `what` when `limit` has passed.
#[track_caller]
pub(crate) fn wait_for<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain for {what}");
        // Not a wait for luck: between two looks at a process that cannot call us.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether `holds` is true all the time until `span` has passed.
pub(crate) fn stays(span: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < span {
        if !holds() {
            return false;
        }
        // What must not happen has no event; each look asks a process that cannot call us.
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A folder for one test, in memory if there is room, so that a disk decides nothing.
pub(crate) fn scratch() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("labmesh-it-").to_owned();
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|s| s.f_bavail * s.f_frsize > 4 << 30);
    let made = if room { builder().tempdir_in(memory) } else { builder().tempdir() };
    made.expect("a temporary folder can be made")
}

/// Writes `len` bytes that no compression and no other seed gives.
pub(crate) fn random_file(path: &Path, len: u64, seed: u64) {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut file = File::create(path).expect("the image can be made");
    let mut left = len;
    let mut chunk = Vec::with_capacity(MIB as usize);
    while left > 0 {
        chunk.clear();
        for _ in 0..MIB / 8 {
            // xorshift64*, Vigna 2016.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            chunk.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        let now = left.min(MIB);
        file.write_all(&chunk[..now as usize]).expect("the image can be written");
        left -= now;
    }
}

/// Whether two files hold the same bytes.
pub(crate) fn same_bytes(a: &Path, b: &Path) -> bool {
    let open = |p: &Path| File::open(p).map(|f| BufReader::with_capacity(MIB as usize, f));
    let (Ok(mut a), Ok(mut b)) = (open(a), open(b)) else { return false };
    loop {
        let (x, y) = (a.fill_buf().expect("readable"), b.fill_buf().expect("readable"));
        let len = x.len().min(y.len());
        if x[..len] != y[..len] || (len == 0 && x.len() != y.len()) {
            return false;
        }
        if len == 0 {
            return true;
        }
        a.consume(len);
        b.consume(len);
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Insists on exit code 0.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Insists on this exit code and on an explanation for people that holds each of `words`.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        let said = self.said();
        for word in words {
            assert!(said.contains(word), "expected {word:?} in {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }

    /// Both streams: with `--json` an error is a line of the one, else of the other.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A command that needs no node.
pub(crate) fn labmesh(words: &[&str]) -> Ran {
    Ran::of(
        &hermetic(Command::new(binary())).args(words).stdin(Stdio::null()).output().expect("labmesh can be started"),
    )
}

/// A `labmesh run` on some host, with a cache, a state and a socket of its own.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) host: Host,
    dir: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// Starts a node called `name` in `dir/name` and waits until its socket answers.
    pub(crate) fn start(host: &Host, dir: &Path, name: &str, arguments: &[&str]) -> Self {
        let mut node = Self::prepare(host, dir, name, arguments);
        node.restart();
        node
    }

    /// Its folders, without starting it.
    pub(crate) fn prepare(host: &Host, dir: &Path, name: &str, arguments: &[&str]) -> Self {
        let dir = dir.join(name);
        fs::create_dir_all(dir.join("cache")).expect("the cache can be made");
        fs::write(dir.join("labmesh.toml"), "").expect("the configuration can be written");
        let mut arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        if !host.is_namespace() && !arguments.iter().any(|a| a == "--bind") {
            arguments.extend(["--bind".to_owned(), host.addr().to_string()]);
        }
        Self { name: name.to_owned(), host: host.clone(), dir, arguments, child: None }
    }

    /// Starts it again with what is on its disk.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.spawn();
        wait_for(Duration::from_secs(10), &format!("{} to answer", self.name), || {
            assert!(self.alive(), "{} ended at its start:\n{}", self.name, self.log_end());
            self.status()
        });
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.name);
        let log = File::options().create(true).append(true).open(self.log()).expect("the log can be written");
        let mut command = hermetic(self.host.command(binary()));
        command.arg("run").arg("--config").arg(self.dir.join("labmesh.toml"));
        command.arg("--cache").arg(self.cache()).arg("--state").arg(self.dir.join("state"));
        command.arg("--socket").arg(self.socket()).args(["--name", &self.name]).args(&self.arguments);
        let log_too = log.try_clone().expect("a handle can be copied");
        let child = command.stdin(Stdio::null()).stdout(log_too).stderr(log).spawn();
        self.child = Some(child.expect("labmesh can be started"));
    }

    /// The plug is pulled: SIGKILL.
    pub(crate) fn kill_9(&mut self) {
        let mut child = self.child.take().expect("only a running node is killed");
        child.kill().expect("our own child may be killed");
        child.wait().expect("a killed child ends");
    }

    /// Asks it to end; how it ended.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("only a running node is stopped");
        signal(&child, Signal::TERM);
        wait_for(Duration::from_secs(10), &format!("{} to end", self.name), || child.try_wait().expect("our child"))
    }

    /// Sends its process a signal, such as STOP and CONT.
    pub(crate) fn signal(&self, number: Signal) {
        signal(self.child.as_ref().expect("only a running node gets signals"), number);
    }

    /// Whether its process runs.
    pub(crate) fn alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("our child").is_none())
    }

    /// Waits until its process ends by itself.
    #[track_caller]
    pub(crate) fn ends(&mut self, limit: Duration) -> Ran {
        let mut child = self.child.take().expect("only a running node can end");
        let status = wait_for(limit, &format!("{} to end", self.name), || child.try_wait().expect("our child"));
        Ran { code: status.code().unwrap_or(-1), stdout: String::new(), stderr: self.log_text() }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let pid = self.child.as_ref().expect("only a running node has memory").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("our child's status");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * KIB
    }

    /// Bytes that it has read from files since it was started, from disk or from memory.
    pub(crate) fn bytes_read(&self) -> u64 {
        let pid = self.child.as_ref().expect("only a running node reads").id();
        let counts = fs::read_to_string(format!("/proc/{pid}/io")).expect("our child's counts");
        let line = counts.lines().find_map(|l| l.strip_prefix("rchar: ")).expect("reads are counted");
        line.parse().expect("a number")
    }

    /// Its image directory.
    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// A file of its cache.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.cache().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Everything it has logged.
    pub(crate) fn log_text(&self) -> String {
        fs::read(self.log()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Its configuration file, empty unless a test writes it.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("labmesh.toml")
    }

    /// Types a command at it.
    pub(crate) fn cli(&self, words: &[&str]) -> Ran {
        Ran::of(&self.cli_command(words).output().expect("labmesh can be started"))
    }

    fn cli_command(&self, words: &[&str]) -> Command {
        let mut command = hermetic(self.host.command(binary()));
        command.args(words).arg("--socket").arg(self.socket()).stdin(Stdio::null());
        command
    }

    /// Types a command with `--json`; its one JSON value.
    #[track_caller]
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let text = self.cli(&[words, &["--json"]].concat()).good();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?} --json: {e} in {text}"))
    }

    /// `status --json`, if it answers.
    pub(crate) fn status(&self) -> Option<Value> {
        let ran = self.cli(&["status", "--json"]);
        (ran.code == 0).then(|| serde_json::from_str(&ran.stdout).expect("status --json is JSON"))
    }

    /// Who it says is master.
    pub(crate) fn master(&self) -> Option<String> {
        Some(self.status()?["master"].as_str()?.to_owned())
    }

    /// Its own role.
    pub(crate) fn role(&self) -> Option<String> {
        let status = self.status()?;
        let own = status["nodes"].as_array()?.iter().find(|n| n["name"] == self.name.as_str())?;
        Some(own["role"].as_str()?.to_owned())
    }

    /// Its transfer of that image, if it has one.
    pub(crate) fn transfer(&self, image: &str) -> Option<Value> {
        self.status()?["transfers"].as_array()?.iter().find(|t| t["image"] == image).cloned()
    }

    /// What its transfer of that image does, in the word of `status`.
    pub(crate) fn state(&self, image: &str) -> Option<String> {
        Some(self.transfer(image)?["state"].as_str()?.to_owned())
    }

    /// How much of that image is here, 0 to 100.
    pub(crate) fn percent(&self, image: &str) -> f64 {
        self.transfer(image).and_then(|t| t["percent"].as_f64()).unwrap_or(0.0)
    }

    /// `ls` as rows of that image name.
    pub(crate) fn listed(&self, image: &str) -> Vec<Value> {
        let rows = self.json(&["ls"]);
        rows.as_array().expect("ls --json is an array").iter().filter(|r| r["name"] == image).cloned().collect()
    }

    /// Waits until its catalogue has that image with so many holders; its row.
    #[track_caller]
    pub(crate) fn sees(&self, image: &str, holders: usize) -> Value {
        wait_for(Duration::from_secs(20), &format!("{} to see {image} at {holders} holders", self.name), || {
            let holds = |row: &Value| row["holders"].as_array().is_some_and(|h| h.len() == holders);
            self.listed(image).into_iter().find(holds)
        })
    }

    /// `get` in the background.
    pub(crate) fn get(&self, image: &str, words: &[&str]) -> Getting {
        Getting::start(&self.name, image, self.cli_command(&[&["get", image, "--json"], words].concat()))
    }

    /// A page of its own HTTP port: status code and body.
    pub(crate) fn page(&self, path: &str) -> (u16, Vec<u8>) {
        http_get(&self.host, SocketAddr::new(self.host.addr(), HTTP_PORT), path)
    }

    /// Adds a file and waits until this node lists it as here; its info hash.
    #[track_caller]
    pub(crate) fn add(&self, file: &Path) -> String {
        let name = file.file_name().and_then(|n| n.to_str()).expect("images have names");
        self.cli(&["add", &file.to_string_lossy()]).good();
        let row = wait_for(Duration::from_secs(30), &format!("{name} to be offered by {}", self.name), || {
            self.listed(name).into_iter().next()
        });
        row["info_hash"].as_str().expect("ls has info hashes").to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; nobody is left to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the end of {}'s log\n{}", self.name, self.log_end());
        }
    }
}

/// A person at a host where no node runs: a command that needs one starts it for its own length.
#[derive(Debug)]
pub(crate) struct Alone {
    host: Host,
    dir: PathBuf,
}

impl Alone {
    /// Everything it leaves is in `dir/alone`.
    pub(crate) fn new(host: &Host, dir: &Path) -> Self {
        Self { host: host.clone(), dir: dir.join("alone") }
    }

    /// A file of the cache.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join("cache").join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        fs::create_dir_all(&self.dir).expect("a folder can be made");
        fs::write(self.dir.join("labmesh.toml"), "").expect("the configuration can be written");
        let mut command = hermetic(self.host.command(binary()));
        command.args(words).arg("--socket").arg(self.dir.join("sock"));
        command.arg("--config").arg(self.dir.join("labmesh.toml"));
        command.arg("--cache").arg(self.dir.join("cache")).arg("--state").arg(self.dir.join("state"));
        if !self.host.is_namespace() {
            command.args(["--bind", &self.host.addr().to_string()]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Types a command.
    pub(crate) fn cli(&self, words: &[&str]) -> Ran {
        Ran::of(&self.command(words).output().expect("labmesh can be started"))
    }

    /// `get` in the background.
    pub(crate) fn get(&self, image: &str, words: &[&str]) -> Getting {
        Getting::start("alone", image, self.command(&[&["get", image, "--json"], words].concat()))
    }
}

/// A `get` under way.
#[derive(Debug)]
pub(crate) struct Getting {
    what: String,
    child: Child,
    lines: mpsc::Receiver<(Instant, String)>,
    reader: Option<JoinHandle<()>>,
    seen: Vec<(Instant, Value)>,
}

impl Getting {
    fn start(who: &str, image: &str, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("labmesh can be started");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Self { what: format!("{who} get {image}"), child, lines, reader: Some(reader), seen: Vec::new() }
    }

    /// Waits for an event of that name while it runs; the line.
    #[track_caller]
    pub(crate) fn says(&mut self, event: &str, limit: Duration) -> Value {
        wait_for(limit, &format!("{} to say {event}", self.what), || {
            self.events().iter().find(|(_, v)| v["event"] == event).map(|(_, v)| v.clone())
        })
    }

    /// Waits until so much is here.
    #[track_caller]
    pub(crate) fn says_more_than(&mut self, limit: Duration, percent: f64) {
        wait_for(limit, &format!("{} to have {percent} %", self.what), || {
            self.events().iter().any(|(_, v)| v["percent"].as_f64().is_some_and(|p| p > percent)).then_some(())
        });
    }

    /// Sends it a signal, such as Ctrl-C's.
    pub(crate) fn signal(&self, number: Signal) {
        signal(&self.child, number);
    }

    /// Every line so far.
    pub(crate) fn events(&mut self) -> &[(Instant, Value)] {
        while let Ok((when, line)) = self.lines.try_recv() {
            let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {e} in {line}", self.what));
            self.seen.push((when, value));
        }
        &self.seen
    }

    /// Waits for the end, which must be good; when the `complete` line came, and the line.
    #[track_caller]
    pub(crate) fn completes(&mut self, limit: Duration) -> (Instant, Value) {
        let what = format!("{} to complete", self.what);
        let complete = wait_for(limit, &what, || {
            if let Some(found) = self.events().iter().find(|(_, v)| v["event"] == "complete").cloned() {
                return Some(found);
            }
            if let Some(status) = self.child.try_wait().expect("our child") {
                self.read_to_end();
                let found = self.events().iter().find(|(_, v)| v["event"] == "complete").cloned();
                let said = self.stderr();
                assert!(found.is_some(), "{} ended with {status}: {said}{:?}", self.what, self.seen.last());
                return found;
            }
            None
        });
        let status = wait_for(limit, &what, || self.child.try_wait().expect("our child"));
        let said = self.stderr();
        assert!(status.success(), "{}: {status}, {said}", self.what);
        complete
    }

    /// Waits for the end, whichever it is.
    #[track_caller]
    pub(crate) fn ends(mut self, limit: Duration) -> Ran {
        let status = wait_for(limit, &format!("{} to end", self.what), || self.child.try_wait().expect("our child"));
        self.read_to_end();
        let stdout = self.events().iter().map(|(_, v)| format!("{v}\n")).collect();
        Ran { code: status.code().unwrap_or(-1), stdout, stderr: self.stderr() }
    }

    /// Its last lines may still be on their way when it has ended.
    fn read_to_end(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            // What cannot be read is missing from a message only.
            let _ = pipe.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Getting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Any other program on a host, killed with its value.
#[derive(Debug)]
pub(crate) struct Program(pub(crate) Child);

impl Program {
    /// Asks it to end with a signal, as a person would, and waits until it has.
    #[track_caller]
    pub(crate) fn ends_after(mut self, number: Signal, limit: Duration) {
        signal(&self.0, number);
        wait_for(limit, "a program to end", || self.0.try_wait().expect("our child"));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(Some(status)) = self.0.try_wait()
        {
            // A foreign program that had died is another failure than one of ours.
            eprintln!("---- process {} was gone before the test ended: {status}", self.0.id());
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first of `nodes` that everybody of `nodes` follows, once that is so.
#[track_caller]
pub(crate) fn one_master(nodes: &[&Node], limit: Duration) -> usize {
    wait_for(limit, "one master that everybody follows", || {
        let master = nodes.first()?.master()?;
        let index = nodes.iter().position(|n| n.name == master)?;
        let follow = nodes.iter().all(|n| n.master().as_ref() == Some(&master));
        let role = nodes[index].role()?;
        (follow && role == "master").then_some(index)
    })
}

/// The 40 hexadecimal digits of an info hash as they stand in a query.
pub(crate) fn escaped(hash: &str) -> String {
    (0..20).map(|i| format!("%{}", &hash[2 * i..2 * i + 2])).collect()
}

/// A connection from one of the addresses of this machine.
#[track_caller]
pub(crate) fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    net::bind(&socket, &SocketAddrV4::new(source, 0)).expect("all of 127.0.0.0/8 is ours");
    net::connect(&socket, &to).expect("it listens");
    socket.into()
}

/// A GET of HTTP/1.1 from some host: status code and body. Panics if the answer is not HTTP.
#[track_caller]
pub(crate) fn http_get(host: &Host, to: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let mut answer = Vec::new();
    host.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("the page is served");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        // It may answer and close before a request that is too long is written; what counts is the answer.
        let written = write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
        let read = stream.read_to_end(&mut answer);
        assert!(!answer.is_empty(), "it answers within ten seconds: {written:?}, {read:?}");
    });
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("HTTP has a head");
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let code = head.split_whitespace().nth(1).and_then(|c| c.parse().ok()).expect("HTTP has a status code");
    let body = &answer[end + 4..];
    (code, if head.contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_vec() })
}

/// RFC 9112 s. 7.1.
fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n").expect("a chunk has a length line");
        let digits = std::str::from_utf8(&body[..end]).expect("a length is ASCII");
        let len = usize::from_str_radix(digits, 16).expect("a length is hexadecimal");
        if len == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + len]);
        body = &body[end + 2 + len + 2..];
    }
}

/// No setting of the person who runs the tests reaches the program.
fn hermetic(mut command: Command) -> Command {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("LABMESH_") {
            command.env_remove(key);
        }
    }
    command.env("RUST_LOG", std::env::var("LABMESH_TEST_LOG").unwrap_or_else(|_| "info".to_owned()));
    command.env_remove("XDG_RUNTIME_DIR");
    command
}

fn signal(child: &Child, number: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a child has a number");
    kill_process(pid, number).expect("our own child may be signalled");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_differ_by_seed_length_and_any_byte() {
        let dir = scratch();
        let path = |n: &str| dir.path().join(n);
        for (name, len, seed) in
            [("a", 3 * MIB + 5, 1), ("same", 3 * MIB + 5, 1), ("seed", 3 * MIB + 5, 2), ("long", 3 * MIB + 6, 1)]
        {
            random_file(&path(name), len, seed);
        }
        assert!(same_bytes(&path("a"), &path("same")));
        for other in ["seed", "long", "missing"] {
            assert!(!same_bytes(&path("a"), &path(other)), "{other}");
        }
    }

    #[test]
    fn chunked_bodies_are_joined() {
        assert_eq!(dechunk(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"), b"abc0123456789");
    }
}
