//! No tracker at all: takes a connection, reads once, sends the same bytes to everybody, closes.
//!
//! Rule: the system calls of an announce and nothing else, in the order and with the rest of our tracker's thread
//! (`node/src/io/tracker/desk.rs`). What `tests/bench/tracker load` measures of it is the kernel's and the load's part,
//! and about what a server with one thread that rests like ours can reach.
//!
//! `canned ADDR`

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv, send, socket_with,
};

/// Connections that are taken in one turn.
const TURN_MAX: usize = 256;
/// Rest after a turn of several, but of no more than [`CROWD_MAX`].
const GATHER: Duration = Duration::from_micros(200);
const CROWD_MAX: usize = 32;
/// An answer of our tracker to this load, on the average: 47 peers of 6 bytes, and 76 bytes of keys.
const BODY_BYTES: usize = 358;

fn main() -> anyhow::Result<()> {
    let addr: SocketAddr = std::env::args().nth(1).context("canned ADDR")?.parse()?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &addr)?;
    listen(&listener, 4096)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let token = |socket: &OwnedFd| EventData::new_u64(socket.as_raw_fd() as u64);
    epoll::add(&epoll, &listener, token(&listener), EventFlags::IN)?;

    let answer = answer();
    let mut request = [0; 4096];
    // Whose request was not there yet.
    let mut silent = BTreeMap::new();
    let mut events = Vec::with_capacity(TURN_MAX);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut asked = Vec::with_capacity(2 * TURN_MAX);
        for event in &events {
            if let Some(socket) = silent.remove(&event.data.u64()) {
                // Whatever it is, also the end: it is not looked at.
                let _ = recv(&socket, &mut request, RecvFlags::empty());
                asked.push(socket);
                continue;
            }
            for _ in 0..TURN_MAX {
                let Ok(socket) = accept_with(&listener, flags) else { break };
                if let Err(Errno::AGAIN) = recv(&socket, &mut request, RecvFlags::empty()) {
                    epoll::add(&epoll, &socket, token(&socket), EventFlags::IN)?;
                    silent.insert(socket.as_raw_fd() as u64, socket);
                } else {
                    asked.push(socket);
                }
            }
        }
        let came = asked.len();
        for socket in asked {
            let _ = send(&socket, &answer, SendFlags::NOSIGNAL | SendFlags::MORE);
        }
        // Waits for nothing: it is the rest whose part in the figures is to be the same as of our tracker.
        if (2..=CROWD_MAX).contains(&came) {
            std::thread::sleep(GATHER);
        }
    }
}

/// As the load wants it (`is_announce_answer` of `announcers.rs`).
fn answer() -> Vec<u8> {
    let body = format!("{:x<BODY_BYTES$}", "d8:c");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\n\
         Content-Length: {BODY_BYTES}\r\n\r\n{body}"
    )
    .into_bytes()
}
