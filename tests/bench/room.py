"""A room and a race in it: one or more holders of an image, N clients, cables; who has it when, and at what cost."""
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from benchlab import LABMESH, MIB, Lab, Node, busy_seconds, peak_memory, wait_for  # noqa: E402
from foreign import Client, Team, bittorrent_team, ends_well, says, udpcast_team  # noqa: E402

IMAGE = "bench.img"
MEMORY_EVERY = 0.25


@dataclass
class Room:
    """Hosts 1 to `holders` have the image, the next `clients` want it. Rates in Mbit/s; None: unshaped."""
    clients: int = 8
    mbit: int | None = 200
    mib: int = 256
    holders: int = 1
    # Host: its rate.
    slow: dict = field(default_factory=dict)
    # Host: seconds after the others at which it begins.
    late: dict = field(default_factory=dict)
    # Host: seconds after the beginning at which it is killed, for good.
    kill: dict = field(default_factory=dict)
    uplink: int | None = None
    # KiB of a piece.
    piece: int | None = None

    @property
    def hosts(self):
        return self.holders + self.clients

    @property
    def finishers(self):
        """How many clients are to have the image in the end."""
        return self.clients - sum(host > self.holders for host in self.kill)

    @property
    def size(self):
        return self.mib * MIB

    def limit(self, mbit):
        """Seconds that one copy takes at so many Mbit/s."""
        return self.size * 8 / mbit / 1e6

    def plain(self, host):
        """Whether a client is as the others: neither slow nor late."""
        return host not in self.slow and host not in self.late

    def lab(self):
        """The room itself, with an image in it."""
        lab = Lab(self.hosts, self.mbit, self.slow, self.uplink)
        with open("/dev/urandom", "rb") as noise, open(lab.dir / IMAGE, "wb") as out:
            for _ in range(self.mib):
                out.write(noise.read(MIB))
        return lab


def labmesh_team(lab, room):
    """Nodes that are one mesh and know of the image; the first is master. A client's `get` is still to be said.

    A late one does not run yet: its `get` brings a node of its own, so its seconds begin when it is switched on.
    """
    image = lab.dir / IMAGE

    def words(n):
        site = ["--site", f"s{lab.site(n)}"] if room.uplink else []
        return ["--mesh", "bench", *site]

    nodes = [Node(lab, n, *words(n)) for n in range(1, room.hosts + 1) if n not in room.late]
    wait_for("one mesh", lambda: all(len((n.json("status") or {"nodes": []})["nodes"]) == len(nodes) for n in nodes))
    # Who was up first may have become it, and stays.
    wait_for("a master", lambda: (nodes[0].json("status") or {}).get("master"))
    if nodes[0].json("status")["master"] != nodes[0].name:
        subprocess.run(nodes[0].cli("master", "--claim"), check=True, capture_output=True)
    wait_for("the first to be master", lambda: all(
        (n.json("status") or {}).get("master") == nodes[0].name for n in nodes))
    if room.piece:
        how = ["--piece-length", f"{room.piece}KiB", "--announce", f"http://{lab.addr(1)}:6969/announce", "--force"]
        subprocess.run([LABMESH, "torrent", "create", image, *how], check=True, capture_output=True)
    for node in nodes[:room.holders]:
        subprocess.run(node.cli("add", image), check=True, capture_output=True)
        wait_for("the full sum", lambda node=node: (node.cache / f"{IMAGE}.full.sum").exists())
    wait_for("the catalogue", lambda: all(any(
        row["name"] == IMAGE and len(row["holders"]) == room.holders for row in n.json("ls") or []) for n in nodes))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    clients = [Client(node.n, node.cache / IMAGE, lambda node=node: subprocess.Popen(node.cli("get", IMAGE), **quiet),
                      ends_well) for node in nodes[room.holders:]]
    for n in room.late:
        late = Node(lab, n, *words(n), runs=False)
        clients.append(Client(n, late.cache / IMAGE, lambda late=late: late.get(IMAGE), says("complete")))
        nodes.append(late)
    seeds = {node.n: node.child for node in nodes[:room.holders]}
    others = {node.n: node.child for node in nodes[room.holders:] if node.child}
    return Team(seeds, clients, list(others.values()), [node.dir for node in nodes]), others


def control(lab, size):
    """CPU-seconds per GiB of writing `size` to the same tmpfs now, which also makes that much memory warm."""
    path, before = lab.dir / "control", busy_seconds()
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size // MIB}", "status=none"], check=True)
    spent = busy_seconds() - before
    path.unlink()
    return spent * 1024 * MIB / size


def race(lab, room, who):
    """Runs `who` in the room; what came of it as a dictionary. Every copy is compared."""
    image = lab.dir / IMAGE
    hosts = range(1, room.hosts + 1)
    processes = {}
    if who == "labmesh":
        team, processes = labmesh_team(lab, room)
    elif who == "udpcast":
        team = udpcast_team(lab, image, hosts[:room.holders], hosts[room.holders:])
    else:
        team = bittorrent_team(who, lab, image, hosts[:room.holders], hosts[room.holders:], room.piece or 512)
    spent = control(lab, room.size * room.clients)
    seconds, memory, started = {}, {}, []
    over = threading.Event()
    before = lab.counter(1, "tx_bytes"), lab.crossed() if room.uplink else 0, busy_seconds()
    begin = time.monotonic()

    def run(client):
        time.sleep(max(0, begin + room.late.get(client.host, 0) - time.monotonic()))
        mine = time.monotonic()
        child = client.start()
        started.append(child)
        processes.setdefault(client.host, child)
        if client.host in room.kill:
            return
        client.wait(child)
        seconds[client.host] = time.monotonic() - mine

    def look():
        while not over.wait(MEMORY_EVERY):
            for host, child in list(processes.items()):
                memory[host] = peak_memory(child.pid) or memory.get(host, 0)

    threads = [threading.Thread(target=run, args=(client,)) for client in team.clients]
    watch = threading.Thread(target=look)
    for thread in [*threads, watch]:
        thread.start()
    for host, at in sorted(room.kill.items(), key=lambda item: item[1]):
        time.sleep(max(0, begin + at - time.monotonic()))
        lab.end(team.seeds.pop(host, None) or processes[host])
    for thread in threads:
        thread.join()
    took = time.monotonic() - begin
    cpu = busy_seconds() - before[2]
    copies = (lab.counter(1, "tx_bytes") - before[0]) / room.size
    crossed = (lab.crossed() - before[1]) / room.size if room.uplink else None
    over.set()
    watch.join()
    if len(seconds) < room.finishers:
        sys.exit(f"{who}: a client failed")
    copies_made = [client.copy for client in team.clients if client.host in seconds]
    same = all(subprocess.run(["cmp", "-s", image, copy]).returncode == 0 for copy in copies_made)
    lab.end(*[child for child in [*team.seeds.values(), *team.others, *started] if child in lab.children])
    for folder in team.folders:
        shutil.rmtree(folder)
    return {"who": who, "seconds": seconds, "took": took, "copies": copies, "uplink_copies": crossed, "cpu": cpu,
            "memory_mib": max(memory.values(), default=0), "control": spent, "same": same}
