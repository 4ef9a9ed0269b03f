//! One virtual node: inputs to its parts, outputs of its parts to each other and to the network.
//!
//! Not here: any rule; the real router (`node.rs`) does the same for all parts.

use super::{Event, Group, Happening, Verbosity, discovery, election, letter, pair, roster, side};
use crate::election::Role;
use crate::id::{Epoch, NodeId};
use crate::wire::control::{Beat, Message};

use std::time::Duration;

impl Group {
    pub(super) fn route(&mut self, host: usize, what: Happening) {
        let now = self.now;
        let peer = match &what {
            Happening::Found(n) | Happening::Up(n) | Happening::Down(n) => Some(*n),
            Happening::Message { from, .. } => Some(*from),
            _ => None,
        };
        let (node, addr) =
            peer.map_or((NodeId::default(), self.hosts[host].addr), |n| (self.hosts[n].id, self.hosts[n].addr));
        let Some(parts) = &mut self.hosts[host].parts else { return };
        let (elect, list, find) = (&mut parts.election, &mut parts.roster, &mut parts.discovery);
        match what {
            Happening::Beat { from, beat } => {
                let mut addr = from;
                addr.set_port(beat.control_port);
                find.handle_input(now, discovery::Input::Beat { node: beat.epoch.node, addr });
                elect.handle_input(now, election::Input::Beat { beat, direct: true });
            }
            Happening::Found(_) => find.handle_input(now, discovery::Input::Found { node: Some(node), addr }),
            Happening::Join(addr) => find.handle_input(now, discovery::Input::Found { node: None, addr }),
            Happening::Up(_) => {
                find.handle_input(now, discovery::Input::Up { node, addr: addr.ip() });
                list.handle_input(now, roster::Input::Up { node, addr: addr.ip() });
                elect.handle_input(now, election::Input::Up(node));
            }
            Happening::Down(_) => {
                find.handle_input(now, discovery::Input::Down(node));
                list.handle_input(now, roster::Input::Down(node));
                elect.handle_input(now, election::Input::Down(node));
            }
            Happening::Unreachable { node, addr, refused } => {
                find.handle_input(now, discovery::Input::Unreachable { node, addr, refused });
            }
            Happening::Persisted(epoch) => {
                elect.handle_input(now, election::Input::Persisted { epoch });
                let on_disk = &mut self.hosts[host].on_disk;
                *on_disk = epoch.max(*on_disk);
            }
            Happening::ForceClaim => elect.handle_input(now, election::Input::ForceClaim),
            Happening::Release => elect.handle_input(now, election::Input::Release),
            Happening::Shutdown => elect.handle_input(now, election::Input::Shutdown),
            Happening::Message { message, .. } => self.route_message(host, node, message),
        }
        self.drain(host);
    }

    fn route_message(&mut self, host: usize, from: NodeId, message: Message) {
        let now = self.now;
        let Some(parts) = &mut self.hosts[host].parts else { return };
        let beat = parts.election.latest_beat();
        parts.roster.handle_input(now, roster::Input::Heard(from));
        if !message.is_gossip() {
            parts.election.handle_input(now, election::Input::Heard(from));
        }
        let vote = match message {
            Message::Beat(beat) => election::Input::Beat { beat, direct: false },
            Message::Ask(epoch) => election::Input::Ask { from, epoch },
            Message::Answer(beat) => election::Input::Answer { from, beat },
            Message::Welcome { beat, master } => {
                parts.roster.handle_input(now, roster::Input::Welcome { beat, master });
                election::Input::Answer { from, beat }
            }
            Message::Claim { epoch, members } => election::Input::Claim { from, epoch, members },
            Message::Goodbye { epoch, successor } => election::Input::Goodbye { from, epoch, successor },
            Message::Yield(epoch) => election::Input::Yield { from, epoch },
            other => {
                let list = match other {
                    Message::Hello { member, protocol, .. } => roster::Input::Hello { from, member, protocol, beat },
                    Message::RosterSince(version) => roster::Input::Since { from, version },
                    Message::Roster(delta) => roster::Input::Delta { from, delta },
                    Message::Handover(entries) => roster::Input::Handover(entries),
                    _ => return,
                };
                return parts.roster.handle_input(now, list);
            }
        };
        parts.election.handle_input(now, vote);
    }

    /// Passes outputs on until nobody has any.
    pub(super) fn drain(&mut self, host: usize) {
        loop {
            let Some(parts) = &mut self.hosts[host].parts else { return };
            if let Some(output) = parts.election.poll_output() {
                self.do_for_election(host, output);
            } else if let Some(output) = parts.roster.poll_output() {
                self.do_for_roster(host, output);
            } else if let Some(output) = parts.discovery.poll_output() {
                self.do_for_discovery(host, output);
            } else {
                return;
            }
        }
    }

    fn do_for_election(&mut self, host: usize, output: election::Output) {
        let (now, me) = (self.now, self.hosts[host].id);
        self.tell_election(host, &output);
        let Some(parts) = &mut self.hosts[host].parts else { return };
        let own = parts.election.epoch().unwrap_or_default();
        match output {
            election::Output::Beat(beat) => self.send_beats(host, beat),
            election::Output::Beacon(beat) => {
                for to in (0..self.hosts.len()).filter(|_| self.multicast).collect::<Vec<_>>() {
                    self.send_datagram(host, to, beat);
                }
            }
            election::Output::Gossip(message) => self.gossip(host, &message),
            election::Output::Send { to, message } => self.send(host, &to, message),
            election::Output::Persist { epoch } => {
                let wait = self.between(Duration::from_millis(1), Duration::from_millis(5));
                self.deliver_after(wait, host, Happening::Persisted(epoch));
            }
            election::Output::Redial(node) => parts.discovery.handle_input(now, discovery::Input::Redial(node)),
            election::Output::Role(role) => {
                let standing = match role {
                    Role::Listening => discovery::Standing::Starting,
                    Role::Candidate | Role::Solo => discovery::Standing::Leaderless,
                    Role::Follower => discovery::Standing::Following(own.node),
                    Role::Master => discovery::Standing::Leading,
                };
                parts.discovery.handle_input(now, discovery::Input::Standing(standing));
                if matches!(role, Role::Listening | Role::Candidate) {
                    parts.roster.handle_input(now, roster::Input::Leaderless);
                }
            }
            election::Output::BecameMaster { term } => {
                parts.roster.handle_input(now, roster::Input::Leading { epoch: Epoch { term, node: me } });
            }
            election::Output::BecameSolo => parts.roster.handle_input(now, roster::Input::Leading { epoch: own }),
            election::Output::Following { epoch } => {
                parts.roster.handle_input(now, roster::Input::Following { epoch });
                let standing = discovery::Standing::Following(epoch.node);
                parts.discovery.handle_input(now, discovery::Input::Standing(standing));
            }
            election::Output::LostMaster { .. } => {}
            election::Output::HandOver { to } => parts.roster.handle_input(now, roster::Input::HandOver { to }),
            election::Output::Versions { roster, .. } => {
                parts.roster.handle_input(now, roster::Input::Version(roster));
            }
        }
    }

    fn do_for_roster(&mut self, host: usize, output: roster::Output) {
        let now = self.now;
        let Some(parts) = &mut self.hosts[host].parts else { return };
        match output {
            roster::Output::Send { to, message } => self.send(host, &to, message),
            roster::Output::Members(members) => {
                let places = members.iter().filter_map(|(node, _)| Some((*node, parts.roster.control_addr(node)?)));
                parts.discovery.handle_input(now, discovery::Input::Members(places.collect()));
                parts.election.handle_input(now, election::Input::Members(members));
            }
            roster::Output::Succession(list) => {
                parts.discovery.handle_input(now, discovery::Input::Succession(list.clone()));
                parts.election.handle_input(now, election::Input::Succession(list));
            }
            roster::Output::Version(roster) => {
                parts.election.handle_input(now, election::Input::Versions { roster, catalogue: 0 });
            }
            roster::Output::MasterAt { node, addr } => {
                parts.discovery.handle_input(now, discovery::Input::Beat { node, addr });
            }
            roster::Output::MemberUp(_)
            | roster::Output::MemberDown(_)
            | roster::Output::MemberForgotten(_)
            | roster::Output::Incompatible { .. } => {}
        }
    }

    fn do_for_discovery(&mut self, host: usize, output: discovery::Output) {
        let now = self.now;
        match output {
            discovery::Output::Dial { node, addr } => {
                let (at, start) = (now + self.delay() + self.delay(), self.hosts[host].starts);
                self.schedule(at, Event::Dialled { from: host, start, node, addr });
            }
            discovery::Output::Hangup(node) => {
                if let Some(other) = self.index(&node) {
                    self.close(host, other);
                    self.deliver_after(Duration::ZERO, host, Happening::Down(other));
                }
            }
            discovery::Output::Browse(on) => {
                self.hosts[host].browsing = on;
                for other in (0..self.hosts.len()).filter(|_| on) {
                    self.find(host, other);
                }
            }
            discovery::Output::Advertise(on) => {
                self.hosts[host].advertised = on;
                for other in (0..self.hosts.len()).filter(|_| on) {
                    self.find(other, host);
                }
            }
            discovery::Output::Gone(node) => {
                let name = self.index(&node).map_or(String::new(), letter);
                self.write(Verbosity::Messages, &format!("{} finds {name} gone", letter(host)));
                let Some(parts) = &mut self.hosts[host].parts else { return };
                parts.election.handle_input(now, election::Input::Gone(node));
            }
        }
    }

    /// mDNS answers in 20 to 120 ms (RFC 6762, s. 6).
    fn find(&mut self, who: usize, whom: usize) {
        if !self.multicast
            || who == whom
            || self.is_cut(who, whom)
            || !self.hosts[who].browsing
            || !self.hosts[whom].advertised
        {
            return;
        }
        let wait = self.between(Duration::from_millis(20), Duration::from_millis(120));
        self.deliver_after(wait, who, Happening::Found(whom));
    }

    fn send_beats(&mut self, host: usize, beat: Beat) {
        let Some(parts) = &self.hosts[host].parts else { return };
        let to: Vec<_> = parts.roster.followers().collect();
        for addr in to {
            if let Some(to) = self.hosts.iter().position(|other| other.addr == addr) {
                self.send_datagram(host, to, beat);
            }
        }
    }

    fn send_datagram(&mut self, from: usize, to: usize, beat: Beat) {
        let lost =
            self.between(Duration::ZERO, Duration::from_nanos(1000)).as_nanos() < u128::from(self.link.loss_permille);
        if from == to || lost || self.hosts[to].deaf || self.is_cut(from, to) {
            return;
        }
        let (wait, from) = (self.delay(), self.hosts[from].addr);
        self.deliver_after(wait, to, Happening::Beat { from, beat });
    }

    fn send(&mut self, from: usize, to: &NodeId, message: Message) {
        let Some(to) = self.index(to) else { return };
        let at = self.now + self.delay();
        let Some(connection) = self.connections.get_mut(&pair(from, to)) else { return };
        if !connection.open[side(from, to)] {
            return;
        }
        // In order, as TCP is.
        let busy = &mut connection.busy_until[side(from, to)];
        *busy = at.max(*busy + Duration::from_nanos(1));
        let (at, connection) = (*busy, connection.number);
        self.schedule(at, Event::Control { from, to, connection, message });
    }

    /// To everybody that connections reach, one delay per hop.
    fn gossip(&mut self, from: usize, message: &Message) {
        let mut reached = vec![false; self.hosts.len()];
        reached[from] = true;
        let mut ring = vec![(from, Duration::ZERO)];
        while let Some((at, wait)) = ring.pop() {
            for (other, reached) in reached.iter_mut().enumerate() {
                let stands = self.connections.get(&pair(at, other)).is_some_and(|c| c.open == [true; 2]);
                if *reached || !stands || self.is_cut(at, other) || !self.awake(other) {
                    continue;
                }
                *reached = true;
                let wait = wait + self.delay();
                ring.insert(0, (other, wait));
                self.deliver_after(wait, other, Happening::Message { from, message: message.clone() });
            }
        }
    }

    fn tell_election(&mut self, host: usize, output: &election::Output) {
        let (who, name) = (letter(host), |node: &NodeId| self.index(node).map_or("?".to_owned(), letter));
        let line = match output {
            election::Output::Role(role) => format!("{who} is {}", format!("{role:?}").to_lowercase()),
            election::Output::BecameMaster { term } => format!("{who} is master of term {term}"),
            election::Output::Following { epoch } => format!("{who} follows {}", self.epoch_name(*epoch)),
            election::Output::LostMaster { epoch } => format!("{who} lost {}", self.epoch_name(*epoch)),
            election::Output::HandOver { to } => format!("{who} hands over to {}", name(to)),
            election::Output::Gossip(Message::Beat(_)) | election::Output::Beat(_) | election::Output::Beacon(_) => {
                return;
            }
            election::Output::Send { to, message } => {
                let line = format!("{who} -> {} {}", name(to), self.message_name(message));
                return self.write(Verbosity::Messages, &line);
            }
            election::Output::Gossip(message) => {
                let line = format!("{who} -> all {}", self.message_name(message));
                return self.write(Verbosity::Messages, &line);
            }
            election::Output::Persist { epoch } => {
                return self.write(Verbosity::Messages, &format!("{who} writes {}", self.epoch_name(*epoch)));
            }
            election::Output::Redial(node) => {
                let line = format!("{who} redials {}", name(node));
                return self.write(Verbosity::Messages, &line);
            }
            election::Output::BecameSolo | election::Output::Versions { .. } => return,
        };
        self.write(Verbosity::Roles, &line);
    }

    fn message_name(&self, message: &Message) -> String {
        let name = |node: &NodeId| self.index(node).map_or("?".to_owned(), letter);
        match message {
            Message::Beat(beat) => format!("beat {} #{} of {}", self.epoch_name(beat.epoch), beat.seq, beat.members),
            Message::Ask(epoch) => format!("ask {}", self.epoch_name(*epoch)),
            Message::Answer(None) => "answer none".to_owned(),
            Message::Answer(Some(beat)) => format!("answer {} #{}", self.epoch_name(beat.epoch), beat.seq),
            Message::Claim { epoch, members } => format!("claim {} of {members}", self.epoch_name(*epoch)),
            Message::Goodbye { epoch, successor } => {
                format!(
                    "goodbye {} next {}",
                    self.epoch_name(*epoch),
                    successor.as_ref().map_or("nobody".to_owned(), name)
                )
            }
            Message::Yield(epoch) => format!("yield {}", self.epoch_name(*epoch)),
            other => format!("{other:?}"),
        }
    }
}
