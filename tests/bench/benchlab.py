"""Hosts as network namespaces for the benchmarks: the same room as tests/it/lab.rs makes, from a script."""
import atexit
import concurrent.futures
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LABMESH = os.environ.get("LABMESH_BIN", str(ROOT / "target/release/labmesh"))
MIB = 1 << 20
# With it, a library of ours looks up a backtrace for every key that a torrent lacks: 0.1 s, on the driver's thread.
os.environ["RUST_BACKTRACE"] = "0"


def sh(*words, **options):
    return subprocess.run(words, check=True, text=True, capture_output=True, **options).stdout


class Lab:
    """`hosts` namespaces on a bridge; `mbit` shapes every cable in both directions, `slow` some of them otherwise.

    `uplink` puts the second half of the hosts on a bridge of their own, behind a cable of so many Mbit/s each way.
    """

    def __init__(self, hosts, mbit=None, slow=None, uplink=None):
        if os.geteuid() != 0:
            sys.exit("SKIPPED: a lab of network namespaces needs root")
        self.tag = f"lab{os.getpid() & 0xffffff:06x}z"
        self.dir = Path(tempfile.mkdtemp(prefix="labmesh-bench-", dir="/dev/shm"))
        self.hosts, self.uplink = hosts, uplink
        self.children = []
        atexit.register(self.close)
        allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
        if "cubic" not in allowed.read_text().split():
            allowed.write_text(allowed.read_text().strip() + " cubic")
        self.switch = switch = self.tag + "s"
        sh("ip", "netns", "add", switch)
        # A switch asks no firewall; each packet would cost five questions more.
        for tables in ("arptables", "iptables", "ip6tables"):
            key = f"/proc/sys/net/bridge/bridge-nf-call-{tables}"
            subprocess.run(["ip", "netns", "exec", switch, "sh", "-c", f"[ ! -e {key} ] || echo 0 >{key}"], check=True)
        for bridge in ("bridge0", "bridge1") if uplink else ("bridge0",):
            sh("ip", "-n", switch, "link", "add", bridge, "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
            sh("ip", "-n", switch, "link", "set", bridge, "up")
        if uplink:
            sh("ip", "-n", switch, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
            for end in "01":
                sh("ip", "-n", switch, "link", "set", "up" + end, "master", "bridge" + end, "up")
                self.shape(switch, "up" + end, uplink)
        for n in range(1, hosts + 1):
            host, port = self.host(n), f"{self.tag}v{n}"
            sh("ip", "netns", "add", host)
            sh("ip", "link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", host)
            sh("ip", "-n", switch, "link", "set", port, "master", f"bridge{self.site(n)}", "up")
            sh("ip", "-n", host, "-batch", "-", input=f"link set lo up\naddr add {self.addr(n)}/16 brd 10.77.255.255 "
               "dev eth0\nlink set eth0 up\nroute add default dev eth0\n")
            sh("ip", "netns", "exec", host, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=cubic")
            rate = (slow or {}).get(n, mbit)
            if rate:
                self.shape(host, "eth0", rate)
                self.shape(switch, port, rate)

    @staticmethod
    def shape(netns, device, mbit):
        sh("tc", "-n", netns, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{mbit}mbit", "burst", "128kb",
           "latency", "20ms")

    @staticmethod
    def addr(n):
        return f"10.77.0.{n}"

    def host(self, n):
        return f"{self.tag}h{n}"

    def site(self, n):
        """Which switch a host hangs on: 0, or 1."""
        return int(bool(self.uplink) and n > (self.hosts + 1) // 2)

    def counter(self, n, name):
        """What host `n` has received (`rx_bytes`) or sent (`tx_bytes`) so far, headers included."""
        return self.count(self.host(n), "eth0", name)

    def crossed(self):
        """What the uplink has carried away from the first switch so far, headers included."""
        return self.count(self.switch, "up0", "tx_bytes")

    @staticmethod
    def count(netns, device, name):
        [link] = json.loads(sh("ip", "-n", netns, "-s", "-j", "link", "show", device))
        way, what = name.split("_")
        return link["stats64"][way][what]

    def inside(self, n, *words):
        """The command that runs `words` on host `n`."""
        return ["nsenter", f"--net=/run/netns/{self.host(n)}", *map(str, words)]

    def start(self, n, *words, log="/dev/null", **options):
        """A program on host `n`; the child is the program itself."""
        with open(log, "ab") as out:
            child = subprocess.Popen(self.inside(n, *words), stdin=subprocess.DEVNULL,
                                     **{"stdout": out, "stderr": out, **options})
        self.children.append(child)
        return child

    def end(self, *children):
        """Kills programs that were started here."""
        for child in children:
            child.kill()
            child.wait()
            self.children.remove(child)

    def calibrate(self, seconds=4):
        """Each host sends to the next by TCP: payload Mbit/s of the slowest flow, and how busy the CPUs were."""
        servers = [self.start(n, "iperf3", "-s", "-1") for n in range(1, self.hosts + 1)]
        wait_for("iperf3 to listen", lambda: all(
            ":5201" in sh(*self.inside(n, "ss", "-tlnH")) for n in range(1, self.hosts + 1)))

        def flow(n):
            words = ["iperf3", "-J", "-O", "1", "-t", str(seconds), "-c", self.addr(n % self.hosts + 1)]
            return json.loads(sh(*self.inside(n, *words)))["end"]["sum_received"]["bits_per_second"] / 1e6

        spent, began = busy_seconds(), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(self.hosts) as pool:
            rates = list(pool.map(flow, range(1, self.hosts + 1)))
        busy = (busy_seconds() - spent) / (time.monotonic() - began) / os.cpu_count()
        self.end(*servers)
        return min(rates), busy

    def close(self):
        self.end(*list(self.children))
        for line in sh("ip", "netns", "list").splitlines():
            if line.startswith(self.tag):
                sh("ip", "netns", "del", line.split()[0])
        shutil.rmtree(self.dir, ignore_errors=True)


class Node:
    """A `labmesh run` on host `n`."""

    def __init__(self, lab, n, *words, runs=True, cache=None):
        self.lab, self.n, self.name = lab, n, f"pc{n:02}"
        self.dir = lab.dir / self.name
        self.dir.mkdir()
        self.cache = cache or self.dir / "cache"
        self.cache.mkdir()
        (self.dir / "labmesh.toml").write_text("")
        self.words = ["--config", self.dir / "labmesh.toml", "--cache", self.cache, "--state", self.dir / "state",
                      "--socket", self.dir / "sock", "--name", self.name, *words]
        self.child = None
        if runs:
            self.run()

    def run(self):
        self.child = self.lab.start(self.n, LABMESH, "run", *self.words, log=self.dir / "log")

    def get(self, image):
        """A `get` without a node: it runs one itself, and says `complete` when the copy is whole."""
        return self.lab.start(self.n, LABMESH, "get", image, "--json", *self.words, log=self.dir / "log",
                              stdout=subprocess.PIPE, text=True)

    def cli(self, *words):
        """A command to it; the socket is a file, so it may be said from anywhere."""
        return [LABMESH, *map(str, words), "--socket", str(self.dir / "sock")]

    def json(self, *words):
        done = subprocess.run(self.cli(*words, "--json"), text=True, capture_output=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def kill_9(self):
        self.lab.end(self.child)


def inside(netns, work, *arguments):
    """What `work` gives in a process of its own within a namespace."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(f"/run/netns/{netns}", "rb") as handle:
                setns(handle.fileno())
            os.write(writer, json.dumps(work(*arguments)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said)


def setns(handle):
    """Into a network namespace; Python 3.11 has no function for it."""
    if ctypes.CDLL(None, use_errno=True).setns(handle, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the namespace")


def wait_for(what, probe, limit=60.0, every=0.02):
    end = time.monotonic() + limit
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > end:
            sys.exit(f"waited {limit} s in vain for {what}")
        time.sleep(every)


def cpu_seconds(child):
    """User and system time of a process so far, all threads."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_seconds():
    """CPU-seconds of the whole machine so far: user, system, and the kernel's network."""
    user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid):
    """The most memory that a process had in MiB so far, pages of files that it maps included; None if it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(found[1]) / 1024 if found else None
