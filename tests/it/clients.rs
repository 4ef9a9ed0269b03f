//! Other people's BitTorrent clients, each as a person would start it.
//!
//! Rule: a client gets a torrent and a folder, listens on port 6881, and finds peers in one way only, since that is what
//! is tested: by its tracker, or by local discovery. No distributed hash table with anybody in it, no peer exchange.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Program, wait_for};
use crate::lab::Host;

/// A client that can do without a tracker: it speaks BEP 14.
pub(crate) trait Local: Client {
    /// As [`Client::start`], with local discovery.
    fn start_local(&self, host: &Host, torrent: &Path, folder: &Path) -> Program;
}

/// A program that fetches what the torrent says into the folder, or seeds it from there if it is there.
pub(crate) trait Client {
    /// Whether it can be run here; says so if not.
    fn installed(&self) -> bool;

    /// Starts it. Started again in the same folder it goes on with what is there.
    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Program;

    /// Whether it speaks BEP 15.
    fn knows_udp_trackers(&self) -> bool {
        true
    }
}

pub(crate) struct Aria2;

impl Client for Aria2 {
    fn installed(&self) -> bool {
        installed("aria2c", &["--version"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        Self::spawn(host, torrent, folder, "false")
    }
}

impl Local for Aria2 {
    fn start_local(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        Self::spawn(host, torrent, folder, "true")
    }
}

impl Aria2 {
    fn spawn(host: &Host, torrent: &Path, folder: &Path, local: &str) -> Program {
        let mut aria2 = host.command("aria2c");
        // It speaks to UDP trackers by the socket of its hash table only; nobody else is in that one.
        aria2.args(["--enable-dht=true", "--dht-listen-port=6882", "--enable-dht6=false"]);
        aria2.arg("--dht-file-path").arg(folder.with_extension("dht"));
        aria2.args(["--seed-ratio=0.0", "--enable-peer-exchange=false", "--listen-port=6881"]);
        aria2.args(["--check-integrity=true", "--no-conf=true", "--file-allocation=none"]);
        aria2.arg(format!("--bt-enable-lpd={local}")).arg("--dir").arg(folder).arg(torrent);
        spawn(aria2, folder)
    }
}

/// Version 3.00 takes its time, whoever the other side is (seen with `tcpdump` and its debug log): it says whom it is
/// interested in and whom it unchokes every ten seconds, the first time ten after its start; it tries encryption
/// first and waits half a second after our refusal; it looks at requests of others twice a second, and makes its own
/// once a second, at most 512 of 16 KiB. No setting changes that, so its tests take 15 to 25 s.
pub(crate) struct Transmission;

impl Client for Transmission {
    fn installed(&self) -> bool {
        installed("transmission-daemon", &["--version"]) && installed("transmission-remote", &["--version"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        Self::spawn(host, torrent, folder, "--no-lpd")
    }
}

impl Local for Transmission {
    fn start_local(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        Self::spawn(host, torrent, folder, "--lpd")
    }
}

impl Transmission {
    fn spawn(host: &Host, torrent: &Path, folder: &Path, local: &str) -> Program {
        let state = folder.with_extension("state");
        fs::create_dir_all(&state).expect("a folder can be made");
        let mut daemon = host.command("transmission-daemon");
        daemon.args(["-f", "--no-dht", local, "--no-utp", "--no-portmap", "--no-auth", "-P", "6881"]);
        daemon.arg("-g").arg(&state).arg("-w").arg(folder);
        let daemon = spawn(daemon, folder);
        let add = || {
            let output = host.command("transmission-remote").arg("127.0.0.1:9091").arg("-a").arg(torrent).output();
            let output = output.ok().filter(|o| o.status.success())?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            // It remembers the torrents of its last run.
            (said.contains("success") || said.contains("duplicate torrent")).then_some(())
        };
        wait_for(Duration::from_secs(15), "transmission to take the torrent", add);
        daemon
    }
}

pub(crate) struct Libtorrent;

impl Client for Libtorrent {
    fn installed(&self) -> bool {
        installed("/usr/bin/python3", &["-c", "import libtorrent"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        Self::spawn(host, torrent, folder, &[])
    }
}

impl Local for Libtorrent {
    fn start_local(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        Self::spawn(host, torrent, folder, &["lsd"])
    }
}

impl Libtorrent {
    /// With these of `lsd`, `pex` and addresses of peers that it knows.
    pub(crate) fn spawn(host: &Host, torrent: &Path, folder: &Path, more: &[&str]) -> Program {
        let mut client = host.command(libtorrent_client());
        client.arg(torrent).arg(folder).arg("seed").arg(host.addr().to_string()).args(more);
        spawn(client, folder)
    }
}

pub(crate) struct Ctorrent;

impl Client for Ctorrent {
    fn installed(&self) -> bool {
        Path::new("/usr/bin/ctorrent").exists() || installed("ctorrent", &["-h"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        let mut ctorrent = host.command("ctorrent");
        // Seeds for an hour; the file's name is said, or it would be made in the folder that this test runs in.
        ctorrent.args(["-e", "1", "-p", "6881", "-s"]).arg(folder.join(crate::foreign::IMAGE)).arg(torrent);
        ctorrent.current_dir(folder.parent().expect("the test's own folder"));
        spawn(ctorrent, folder)
    }

    fn knows_udp_trackers(&self) -> bool {
        false
    }
}

pub(crate) struct Rtorrent;

impl Client for Rtorrent {
    fn installed(&self) -> bool {
        installed("rtorrent", &["-h"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        let (session, rc) = (folder.with_extension("session"), folder.with_extension("rc"));
        fs::create_dir_all(&session).expect("a folder can be made");
        let settings = format!(
            "system.daemon.set = true\nsession.path.set = {}\ndirectory.default.set = {}\n\
             network.port_range.set = 6881-6881\nnetwork.port_random.set = no\ndht.mode.set = disable\n\
             protocol.pex.set = no\ntrackers.use_udp.set = yes\nschedule2 = load, 0, 0, \"load.start={}\"\n",
            session.display(),
            folder.display(),
            torrent.display()
        );
        fs::write(&rc, settings).expect("a file can be written");
        let mut rtorrent = host.command("rtorrent");
        rtorrent.arg("-n").arg("-o").arg(format!("import={}", rc.display()));
        spawn(rtorrent, folder)
    }
}

/// Not Debian's, and minutes to build, so `tests/run` does not install it: `cargo install rqbit --locked`.
pub(crate) struct Rqbit;

impl Client for Rqbit {
    fn installed(&self) -> bool {
        let found = runs("rqbit", &["--version"]);
        if !found {
            eprintln!("SKIPPED: rqbit does not run here; cargo install rqbit --locked");
        }
        found
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Program {
        let mut rqbit = host.command("rqbit");
        rqbit.args(["--disable-dht", "--disable-lsd", "--disable-upnp-port-forward", "--listen-port=6881"]);
        rqbit.args(["download", "--disable-http-api", "--overwrite", "--output-folder"]).arg(folder).arg(torrent);
        spawn(rqbit, folder)
    }
}

/// The script that is a client of libtorrent, and makes and shows torrents.
pub(crate) fn libtorrent_client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/libtorrent_client")
}

/// Whether a program runs here; says so if not.
pub(crate) fn installed(program: &str, arguments: &[&str]) -> bool {
    let found = runs(program, arguments);
    if !found {
        eprintln!("SKIPPED: {program} {arguments:?} does not run here; tests/run installs it");
    }
    found
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// What it prints lies beside its folder, for whoever looks for a failure.
pub(crate) fn spawn(mut command: Command, folder: &Path) -> Program {
    let log = fs::File::options().create(true).append(true).open(folder.with_extension("log"));
    let log = log.expect("the log can be written");
    let log_too = log.try_clone().expect("a handle can be copied");
    Program(command.stdin(Stdio::null()).stdout(log).stderr(log_too).spawn().expect("it is installed"))
}
