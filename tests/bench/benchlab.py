"""Hosts as network namespaces for the benchmarks: the same room as tests/it/lab.rs makes, from a script."""
import atexit
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LABMESH = os.environ.get("LABMESH_BIN", str(ROOT / "target/release/labmesh"))
MIB = 1 << 20


def sh(*words, **options):
    return subprocess.run(words, check=True, text=True, capture_output=True, **options).stdout


class Lab:
    """`hosts` namespaces on a bridge; `mbit` shapes every cable in both directions."""

    def __init__(self, hosts, mbit=None):
        if os.geteuid() != 0:
            sys.exit("SKIPPED: a lab of network namespaces needs root")
        self.tag = f"lab{os.getpid() & 0xffffff:06x}z"
        self.dir = Path(tempfile.mkdtemp(prefix="labmesh-bench-", dir="/dev/shm"))
        self.children = []
        atexit.register(self.close)
        allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
        if "cubic" not in allowed.read_text().split():
            allowed.write_text(allowed.read_text().strip() + " cubic")
        self.switch = switch = self.tag + "s"
        sh("ip", "netns", "add", switch)
        sh("ip", "-n", switch, "link", "add", "bridge0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        sh("ip", "-n", switch, "link", "set", "bridge0", "up")
        for n in range(1, hosts + 1):
            host, port = self.host(n), f"{self.tag}v{n}"
            sh("ip", "netns", "add", host)
            sh("ip", "link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", host)
            sh("ip", "-n", switch, "link", "set", port, "master", "bridge0", "up")
            sh("ip", "-n", host, "-batch", "-", input=f"link set lo up\naddr add {self.addr(n)}/16 brd 10.77.255.255 "
               "dev eth0\nlink set eth0 up\nroute add default dev eth0\n")
            sh("ip", "netns", "exec", host, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=cubic")
            if mbit:
                for netns, device in ((host, "eth0"), (switch, port)):
                    sh("tc", "-n", netns, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{mbit}mbit",
                       "burst", "128kb", "latency", "20ms")

    @staticmethod
    def addr(n):
        return f"10.77.0.{n}"

    def host(self, n):
        return f"{self.tag}h{n}"

    def counter(self, n, name):
        """What host `n` has received (`rx_bytes`) or sent (`tx_bytes`) so far, headers included."""
        return int(sh("ip", "netns", "exec", self.host(n), "cat", f"/sys/class/net/eth0/statistics/{name}"))

    def start(self, n, *words, log="/dev/null"):
        """A program on host `n`; the child is the program itself."""
        with open(log, "ab") as out:
            child = subprocess.Popen(["ip", "netns", "exec", self.host(n), *map(str, words)],
                                     stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.children.append(child)
        return child

    def close(self):
        for child in self.children:
            child.kill()
            child.wait()
        self.children = []
        for line in sh("ip", "netns", "list").splitlines():
            if line.startswith(self.tag):
                sh("ip", "netns", "del", line.split()[0])
        shutil.rmtree(self.dir, ignore_errors=True)


class Node:
    """A `labmesh run` on host `n`."""

    def __init__(self, lab, n, *words):
        self.lab, self.n, self.name = lab, n, f"pc{n:02}"
        self.dir = lab.dir / self.name
        self.cache = self.dir / "cache"
        self.cache.mkdir(parents=True)
        (self.dir / "labmesh.toml").write_text("")
        self.words = words
        self.run()

    def run(self):
        self.child = self.lab.start(
            self.n, LABMESH, "run", "--config", self.dir / "labmesh.toml", "--cache", self.cache, "--state",
            self.dir / "state", "--socket", self.dir / "sock", "--name", self.name, *self.words, log=self.dir / "log")

    def cli(self, *words):
        return ["ip", "netns", "exec", self.lab.host(self.n), LABMESH, *map(str, words), "--socket",
                str(self.dir / "sock")]

    def json(self, *words):
        done = subprocess.run(self.cli(*words, "--json"), text=True, capture_output=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def kill_9(self):
        self.child.kill()
        self.child.wait()
        self.lab.children.remove(self.child)


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
