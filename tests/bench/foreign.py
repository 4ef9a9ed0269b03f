"""Other people's programs for the benchmarks: their command lines, and a tracker of a few lines.

The tracker is not ours, so that ours decides nothing. Run as a program, `foreign.py PORT`, this file is that tracker.
Every BitTorrent client goes on seeding once its copy is whole, as ours does, and says by itself that it is: aria2 and
Transmission by the script that they run then, libtorrent and rqbit (`cargo install rqbit --locked`) in a line.
"""
import http.server
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).parent))
from benchlab import ROOT, wait_for  # noqa: E402

LIBTORRENT = ROOT / "tests/foreign/libtorrent_client"
# Longer than any of them takes.
PATIENCE = 600
HOOK = '#!/bin/sh\necho done >"$(dirname "${3:-$TR_TORRENT_DIR/$TR_TORRENT_NAME}")/done"\n'


@dataclass
class Client:
    """Who fetches: `start` begins it, `wait` returns once the copy is whole."""
    host: int
    copy: Path
    start: Callable
    wait: Callable


@dataclass
class Team:
    """Everybody of one kind in a room: seeds by host, clients, other programs, what to delete."""
    seeds: dict
    clients: list
    others: list = field(default_factory=list)
    folders: list = field(default_factory=list)


def serve_tracker(port):
    peers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, encoding="latin-1")
            key = query["info_hash"][0]
            others = peers.setdefault(key, set())
            packed = b"".join(others)
            others.add(socket.inet_aton(self.client_address[0]) + struct.pack(">H", int(query["port"][0])))
            body = b"d8:intervali5e5:peers%d:%se" % (len(packed), packed)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    http.server.ThreadingHTTPServer(("", port), Handler).serve_forever()


def aria2(folder, torrent, _address):
    return ["aria2c", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--no-conf=true",
            "--enable-peer-exchange=false", "--listen-port=6881", "--file-allocation=none", "--check-integrity=true",
            "--bt-max-peers=0", "--seed-ratio=0.0", "--on-bt-download-complete", folder / "hook", "--dir", folder,
            torrent]


def transmission(folder, torrent, _address):
    config = folder / "config"
    config.mkdir()
    settings = {"dht-enabled": False, "lpd-enabled": False, "pex-enabled": False, "utp-enabled": False,
                "port-forwarding-enabled": False, "preallocation": 0, "speed-limit-up-enabled": False,
                "speed-limit-down-enabled": False, "upload-slots-per-torrent": 14}
    (config / "settings.json").write_text(json.dumps(settings))
    return ["transmission-cli", "-g", config, "-p", "6881", "-M", "-U", "-D", "-f", folder / "hook", "-w", folder,
            torrent]


def libtorrent(folder, torrent, address):
    return [LIBTORRENT, torrent, folder, "seed", address]


def rqbit(folder, torrent, _address):
    return ["rqbit", "--disable-dht", "--disable-lsd", "--disable-upnp-port-forward", "--listen-port=6881", "download",
            "--disable-http-api", "--overwrite", "--output-folder", folder, torrent]


BITTORRENT = {"aria2": aria2, "libtorrent": libtorrent, "rqbit": rqbit, "transmission": transmission}
# What a client prints when its copy is whole.
LAST_WORDS = {"libtorrent": "complete", "rqbit": "finished downloading"}
PROGRAMS = {"aria2": "aria2c", "rqbit": "rqbit", "transmission": "transmission-cli", "udpcast": "udp-sender"}


def installed(name):
    if name == "libtorrent":
        return subprocess.run([sys.executable, "-c", "import libtorrent"], capture_output=True).returncode == 0
    return shutil.which(PROGRAMS[name]) is not None


def hooked(folder):
    """A script that a client runs when it is done, and what waits for it."""
    hook, pipe = folder / "hook", folder / "done"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)

    def wait(_child):
        if not select.select([handle], [], [], PATIENCE)[0]:
            sys.exit(f"no copy in {folder} within {PATIENCE} s")
        os.close(handle)

    return wait


def says(words):
    """Reads what a client prints until its copy is whole."""
    def wait(child):
        if not any(words in line for line in child.stdout):
            sys.exit(f"{child.args} ended with {child.wait()}")

    return wait


def ends_well(child):
    if child.wait() != 0:
        sys.exit(f"{child.args} ended with {child.returncode}")


def bittorrent_team(name, lab, image, holders, clients, piece):
    """Seeds that have found their tracker, on host 1, and clients that are not started. A piece has so many KiB."""
    command = BITTORRENT[name]
    torrent = lab.dir / "bench.torrent"
    torrent.unlink(missing_ok=True)
    length = ["-l", str(piece.bit_length() + 9)]
    subprocess.run(["mktorrent", *length, "-a", f"http://{lab.addr(1)}:7070/announce", "-o", torrent, image],
                   check=True, capture_output=True)
    tracker = lab.start(1, sys.executable, __file__, "7070")
    wait_for("the tracker", lambda: ":7070" in subprocess.run(
        lab.inside(1, "ss", "-tlnH"), capture_output=True, text=True).stdout)
    team = Team({}, [], [tracker])

    def start(n, folder):
        piped = {"stdout": subprocess.PIPE, "text": True} if name in LAST_WORDS and n in clients else {}
        return lab.start(n, *command(folder, torrent, lab.addr(n)), log=folder / "log", **piped)

    for n in (*holders, *clients):
        folder = lab.dir / f"{name}-{n}"
        folder.mkdir()
        team.folders.append(folder)
        wait = says(LAST_WORDS[name]) if name in LAST_WORDS else hooked(folder)
        if n in holders:
            os.link(image, folder / image.name)
            team.seeds[n] = start(n, folder)
        else:
            team.clients.append(Client(n, folder / image.name, lambda n=n, f=folder: start(n, f), wait))
    # They check their copies first; what they tell the tracker then has no event that a script could wait for.
    time.sleep(3 + image.stat().st_size / 400e6)
    return team


def udpcast_team(lab, image, holders, clients):
    """A multicast to all clients together, which starts when the last of them is there."""
    seed = holders[0]
    sender = ["udp-sender", "--interface", "eth0", "--nokbd", "--min-receivers", len(clients), "--file", image]
    team = Team({seed: lab.start(seed, *sender)}, [])
    for n in clients:
        folder = lab.dir / f"udpcast-{n}"
        folder.mkdir()
        team.folders.append(folder)
        words = ["udp-receiver", "--interface", "eth0", "--nokbd", "--file", folder / image.name]
        team.clients.append(Client(n, folder / image.name, lambda n=n, w=words: lab.start(n, *w), ends_well))
    time.sleep(0.5)  # It does not say that it is ready.
    return team


if __name__ == "__main__":
    serve_tracker(int(sys.argv[1]))
