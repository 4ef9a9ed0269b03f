"""Other people's clients for the benchmarks: their command lines, and a tracker of a few lines.

The tracker is not ours, so that ours decides nothing. Run as a program, `foreign.py PORT`, this file is that tracker.
"""
import http.server
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from benchlab import ROOT, wait_for  # noqa: E402

CLIENT = ROOT / "tests/foreign/libtorrent_client"


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


def aria2(folder, torrent, *words):
    return ["aria2c", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--no-conf=true",
            "--enable-peer-exchange=false", "--listen-port=6881", "--file-allocation=none", "--check-integrity=true",
            "--bt-max-peers=0", *words, "--dir", folder, torrent]


def seed_and_clients(name, lab, image, clients):
    """A seed on host 1 that has found its tracker; what starts the clients, their copies, other children, folders."""
    torrent = lab.dir / "bench.torrent"
    torrent.unlink(missing_ok=True)
    subprocess.run(["mktorrent", "-l", "19", "-a", f"http://{lab.addr(1)}:7070/announce", "-o", torrent, image],
                   check=True, capture_output=True)
    tracker = lab.start(1, sys.executable, __file__, "7070")
    folders = [lab.dir / f"{name}-{n}" for n in (1, *clients)]
    for folder in folders:
        folder.mkdir()
    os.link(image, folders[0] / image.name)
    log = lab.dir / f"{name}.log"
    log.unlink(missing_ok=True)
    if name == "aria2":
        seed = lab.start(1, *aria2(folders[0], torrent, "--seed-ratio=0.0"), log=log)
        wait_for("aria2 to seed", lambda: "SEED" in log.read_text() or "listening" in log.read_text())
    else:
        seed = lab.start(1, CLIENT, torrent, folders[0], "seed", lab.addr(1), log=log)
        wait_for("libtorrent to seed", lambda: "complete" in log.read_text())
    time.sleep(1.5)  # Its first announce has no event of its own that a script could wait for.

    def start(n, folder):
        if name == "aria2":
            return lab.start(n, *aria2(folder, torrent, "--seed-time=0"))
        return lab.start(n, CLIENT, torrent, folder, "fetch", lab.addr(n))

    starts = [lambda n=n, f=f: start(n, f) for n, f in zip(clients, folders[1:])]
    return seed, starts, [folder / image.name for folder in folders[1:]], [tracker], folders


if __name__ == "__main__":
    serve_tracker(int(sys.argv[1]))
