//! The lab: hosts that are network namespaces, joined by a bridge in a namespace of its own, so that nothing of the
//! machine's own network is touched.
//!
//! Rule: every name carries the number of the process that made it; a lab goes away with its value, and one whose
//! process died is removed by the next. Needs root; without it [`Lab::open`] says so and the test is skipped.
//! Not here: `labmesh` itself ([`crate::harness`]).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::wait_for;

/// One lab at a time: two would measure each other. Between processes the runner's test group sees to it.
static TURN: Mutex<()> = Mutex::new(());

/// How fast the hosts' cables are, in both directions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    /// As fast as the machine copies.
    Unshaped,
    /// Megabits per second, by a token bucket at either end.
    Mbit(u32),
}

/// Hosts on one switch.
#[derive(Debug)]
pub(crate) struct Lab {
    tag: String,
    link: Link,
    hosts: Vec<Host>,
    _turn: MutexGuard<'static, ()>,
}

/// A machine of the lab, or this machine's loopback: where a program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    netns: Option<String>,
    /// The switch's end of the cable, and the switch.
    port: Option<(String, String)>,
    addr: Ipv4Addr,
}

/// Bytes at a host's interface since it was made, whatever they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// Received by the host.
    pub(crate) rx: u64,
    /// Sent by the host.
    pub(crate) tx: u64,
}

impl Bytes {
    /// What passed since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { rx: self.rx - earlier.rx, tx: self.tx - earlier.tx }
    }
}

/// A TCP connection as one of its hosts sees it: local and remote `address:port`.
pub(crate) type Connection = (String, String);

impl Lab {
    /// A switch with `hosts` hosts, `10.77.0.1` onwards. `None`, and a line that says why, without root.
    pub(crate) fn open(hosts: usize, link: Link) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: a lab of network namespaces needs root");
            return None;
        }
        remove_stale();
        allow_cubic();
        let tag = fresh_tag();
        let mut lab = Self { tag, link, hosts: Vec::new(), _turn: turn };
        let switch = lab.switch();
        ip_batch(None, &[format!("netns add {switch}")]);
        ip_batch(
            Some(&switch),
            &[
                "link set lo up".to_owned(),
                "link add bridge0 type bridge stp_state 0 mcast_snooping 0".to_owned(),
                "link set bridge0 up".to_owned(),
            ],
        );
        for _ in 0..hosts {
            lab.add_host();
        }
        Some(lab)
    }

    /// The hosts, in the order they were added.
    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// One host, counted from 0.
    pub(crate) fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// Plugs in one more host.
    pub(crate) fn add_host(&mut self) -> &Host {
        let number = self.hosts.len() + 1;
        let (switch, netns) = (self.switch(), format!("{}h{number}", self.tag));
        let port = format!("{}v{number}", self.tag);
        let addr = Ipv4Addr::new(10, 77, (number >> 8) as u8, number as u8);
        ip_batch(
            None,
            &[
                format!("netns add {netns}"),
                format!("link add {port} netns {switch} type veth peer name eth0 netns {netns}"),
            ],
        );
        ip_batch(Some(&switch), &[format!("link set {port} master bridge0 up")]);
        ip_batch(
            Some(&netns),
            &[
                "link set lo up".to_owned(),
                format!("addr add {addr}/16 brd 10.77.255.255 dev eth0"),
                "link set eth0 up".to_owned(),
                "route add default dev eth0".to_owned(),
            ],
        );
        if let Link::Mbit(rate) = self.link {
            shape(&netns, "eth0", rate);
            shape(&switch, &port, rate);
        }
        self.hosts.push(Host { netns: Some(netns), port: Some((switch, port)), addr });
        let host = self.hosts.last().expect("pushed just now");
        host.enter(|| fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "cubic").expect("cubic is allowed"));
        host
    }

    fn switch(&self) -> String {
        format!("{}s", self.tag)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in self.hosts.drain(..) {
            host.kill_everything();
        }
        remove_namespaces(|name| name.starts_with(&self.tag));
    }
}

impl Host {
    /// This machine itself: an address of the loopback that belongs to this process (and to `n` within it).
    pub(crate) fn loopback(n: u8) -> Self {
        let pid = std::process::id();
        Self { netns: None, port: None, addr: Ipv4Addr::new(127, 64 | (pid >> 8 & 63) as u8, pid as u8, n) }
    }

    /// Its address.
    pub(crate) fn addr(&self) -> IpAddr {
        IpAddr::V4(self.addr)
    }

    /// Whether it is a machine of the lab and not this one.
    pub(crate) fn is_namespace(&self) -> bool {
        self.netns.is_some()
    }

    /// A program that will run on this host. `ip netns exec` becomes the program, so its process is the child itself.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let Some(netns) = &self.netns else { return Command::new(program.as_ref()) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns]).arg(program.as_ref());
        command
    }

    /// Runs `f` with its sockets on this host, on a thread of its own.
    pub(crate) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let body = move || {
            if let Some(netns) = &self.netns {
                let file = fs::File::open(format!("/run/netns/{netns}")).expect("the lab's namespace exists");
                let file = std::os::fd::AsFd::as_fd(&file);
                move_into_link_name_space(file, Some(LinkNameSpaceType::Network)).expect("root may enter a namespace");
            }
            f()
        };
        std::thread::scope(|s| s.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// The byte counters of its interface.
    pub(crate) fn bytes(&self) -> Bytes {
        let netns = self.netns.as_ref().expect("only the lab's hosts have an interface of their own");
        let output = run("ip", &["-n", netns, "-s", "-j", "link", "show", "dev", "eth0"]);
        let json: serde_json::Value = serde_json::from_str(&output).expect("ip -j prints JSON");
        let count = |way: &str| json[0]["stats64"][way]["bytes"].as_u64().expect("ip -s counts bytes");
        Bytes { rx: count("rx"), tx: count("tx") }
    }

    /// Its established connections that have `port` at either end.
    pub(crate) fn connections(&self, port: u16) -> BTreeSet<Connection> {
        let netns = self.netns.as_ref().expect("only the lab's hosts have connections of their own");
        let output = run("ip", &["netns", "exec", netns, "ss", "-Htn", "state", "established"]);
        let port = format!(":{port}");
        output
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(2);
                Some((words.next()?.to_owned(), words.next()?.to_owned()))
            })
            .filter(|(local, remote)| local.ends_with(&port) || remote.ends_with(&port))
            .collect()
    }

    /// Pulls the cable out of the switch; both ends see it.
    pub(crate) fn unplug(&self) {
        self.set_port("down");
    }

    /// Puts the cable back.
    pub(crate) fn plug(&self) {
        self.set_port("up");
    }

    /// Takes its interface away altogether.
    pub(crate) fn remove_interface(&self) {
        let netns = self.netns.as_ref().expect("only the lab's hosts lose their interface");
        ip_batch(Some(netns), &["link del eth0".to_owned()]);
    }

    fn set_port(&self, state: &str) {
        let (switch, port) = self.port.as_ref().expect("only the lab's hosts have a cable");
        ip_batch(Some(switch), &[format!("link set {port} {state}")]);
    }

    fn kill_everything(&self) {
        let Some(netns) = &self.netns else { return };
        for pid in run("ip", &["netns", "pids", netns]).split_whitespace().filter_map(|p| p.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // It may have ended by itself meanwhile.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Both directions get a bucket large enough for one segmentation-offload packet and a queue of 20 ms.
fn shape(netns: &str, device: &str, mbit: u32) {
    let rate = format!("{mbit}mbit");
    run(
        "tc",
        &[
            "-n", netns, "qdisc", "add", "dev", device, "root", "tbf", "rate", &rate, "burst", "128kb", "latency",
            "20ms",
        ],
    );
}

/// `labPPPPPPn`: the process in six hex digits and a letter of its own for each lab of that process.
fn fresh_tag() -> String {
    static COUNT: Mutex<u8> = Mutex::new(0);
    let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    *count += 1;
    format!("lab{:06x}{}", std::process::id(), char::from(b'a' + (*count - 1) % 26))
}

/// The process that made the namespace of that name, if a lab did.
fn maker(netns: &str) -> Option<u32> {
    let digits = netns.strip_prefix("lab")?.get(..6)?;
    u32::from_str_radix(digits, 16).ok()
}

fn remove_stale() {
    remove_namespaces(|name| maker(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

/// `ip netns del` returns before the kernel has let go; the veths are waited for, so that the next lab is alone.
fn remove_namespaces(mine: impl Fn(&str) -> bool) {
    let list = || -> Vec<String> {
        run("ip", &["netns", "list"]).lines().filter_map(|l| Some(l.split_whitespace().next()?.to_owned())).collect()
    };
    let names: Vec<String> = list().into_iter().filter(|name| mine(name)).collect();
    if names.is_empty() {
        return;
    }
    ip_batch(None, &names.iter().map(|name| format!("netns del {name}")).collect::<Vec<_>>());
    wait_for(Duration::from_secs(10), "namespaces to go", || (!list().iter().any(|name| mine(name))).then_some(()));
}

/// Namespaces may only choose what the machine allows; Linux keeps `reno` and the default there.
fn allow_cubic() {
    const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let allowed = fs::read_to_string(ALLOWED).expect("Linux has TCP");
    if !allowed.split_whitespace().any(|name| name == "cubic") {
        fs::write(ALLOWED, format!("{} cubic", allowed.trim())).expect("root may allow cubic");
    }
}

fn ip_batch(netns: Option<&str>, commands: &[String]) {
    let mut ip = Command::new("ip");
    if let Some(netns) = netns {
        ip.args(["-n", netns]);
    }
    let mut child = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2 is installed");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(commands.join("\n").as_bytes()).expect("ip reads its commands");
    drop(stdin);
    let status = child.wait().expect("ip ends");
    assert!(status.success(), "ip failed in {netns:?}: {commands:?}");
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("the tools print UTF-8")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::time::Instant;

    use super::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

    /// Sends `len` bytes from one host to another; how long it took.
    fn transfer(from: &Host, to: &Host, len: usize) -> Duration {
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(to.addr(), 7000)).unwrap());
        let receive = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sink = Vec::with_capacity(len);
            stream.read_to_end(&mut sink).unwrap()
        });
        let begin = Instant::now();
        from.enter(|| TcpStream::connect((to.addr(), 7000)).unwrap().write_all(&vec![0; len]).unwrap());
        assert_eq!(receive.join().unwrap(), len);
        begin.elapsed()
    }

    /// Whether multicast from one host arrives at another within `limit`. It is said again and again, since a busy
    /// machine may lose a datagram; where none may arrive, none of them may.
    fn hears(from: &Host, to: &Host, limit: Duration) -> bool {
        let ear = to.enter(|| {
            let ear = UdpSocket::bind((GROUP, 5999)).unwrap();
            ear.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED).unwrap();
            ear.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            ear
        });
        let mouth = from.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let begin = Instant::now();
        while begin.elapsed() < limit {
            mouth.send_to(b"who is there", (GROUP, 5999)).unwrap();
            if ear.recv_from(&mut [0; 64]).is_ok_and(|(_, source)| source.ip() == from.addr()) {
                return true;
            }
        }
        false
    }

    #[test]
    fn hosts_hear_each_other_until_a_cable_is_pulled() {
        let Some(mut lab) = Lab::open(2, Link::Unshaped) else { return };
        let late = lab.add_host().clone();
        let (a, b) = (lab.host(0), lab.host(1));
        let soon = Duration::from_secs(5);
        assert!(hears(a, b, soon) && hears(b, &late, soon));
        b.unplug();
        assert!(!hears(a, b, Duration::from_millis(200)));
        b.plug();
        assert!(hears(a, b, soon));
        assert_eq!(
            a.command("cat").arg("/proc/sys/net/ipv4/tcp_congestion_control").output().unwrap().stdout,
            b"cubic\n"
        );
    }

    #[test]
    fn cables_have_a_speed_and_count_bytes() {
        let Some(lab) = Lab::open(2, Link::Mbit(200)) else { return };
        let (a, b) = (lab.host(0), lab.host(1));
        let len = 10_000_000;
        let (before_a, before_b) = (a.bytes(), b.bytes());
        let took = transfer(a, b, len).as_secs_f64();
        let (sent, received) = (a.bytes().since(before_a).tx, b.bytes().since(before_b).rx);
        assert!((0.38..1.0).contains(&took), "80 Mbit at 200 Mbit/s took {took:.2} s");
        for counted in [sent, received] {
            assert!((len as u64..len as u64 * 11 / 10).contains(&counted), "{counted} bytes counted of {len}");
        }
    }

    #[test]
    fn a_lab_leaves_nothing_behind() {
        let Some(lab) = Lab::open(1, Link::Unshaped) else { return };
        let tag = lab.tag.clone();
        let mut sleeper = lab.host(0).command("sleep").arg("60").spawn().unwrap();
        let netns = lab.host(0).netns.clone().unwrap();
        wait_for(Duration::from_secs(5), "the sleeper to be on its host", || {
            run("ip", &["netns", "pids", &netns])
                .split_whitespace()
                .any(|p| p == sleeper.id().to_string())
                .then_some(())
        });
        drop(lab);
        assert!(!sleeper.wait().unwrap().success());
        assert!(!run("ip", &["netns", "list"]).contains(&tag));
        assert_eq!(maker("lab00002ab"), Some(0x2a));
        assert_eq!((maker("lab"), maker("label1"), maker("blue")), (None, None, None));
    }
}
