//! First contact: nodes of a LAN find each other by DNS-SD over multicast DNS (RFC 6762, RFC 6763).
//!
//! Rule: a service is found only if its TXT record names our mesh, our protocol version and a node that is not us;
//! nothing is ever probed, since the names are unique by themselves. Not here: when to browse and to advertise
//! (`proto`'s `discovery`); failure detection, which mDNS cannot do.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use labmesh_proto::config::{PROTOCOL_VERSION, Weight};
use labmesh_proto::id::NodeId;
use labmesh_proto::io::Input;
use mdns_sd::{IfKind, Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::task::AbortHandle;

use super::identity::MeshKey;
use super::interfaces::{Interface, Place};
use super::{Event, Events};

const SERVICE: &str = "_labmesh._tcp.local.";
const HTTP_SERVICE: &str = "_http._tcp.local.";
/// The mesh of nodes that were told no name; its host name is `labmesh.local`.
pub const DEFAULT_MESH: &str = "labmesh";
/// A DNS label (RFC 1035, 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// Addresses of one service that are reported; a machine with more names one with `--bind`.
const ADDRESSES_MAX: usize = 4;
/// Nodes of other versions that are named in the log; a stranger can invent any number.
const OTHER_VERSIONS_MAX: usize = 256;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(250);
/// Before browsing again after the library dropped us for reading too slowly.
const BROWSE_AGAIN: Duration = Duration::from_secs(1);

/// What this node says of itself.
#[derive(Clone, Debug)]
pub struct Service {
    /// Who it is.
    pub id: NodeId,
    /// The mesh's name, for the host name.
    pub mesh_name: String,
    /// Tells our mesh from others.
    pub mesh: MeshKey,
    /// How willing it is to be master.
    pub weight: Weight,
    /// Where its control plane listens.
    pub control_port: u16,
    /// Where its page is.
    pub http_port: u16,
}

/// The responder and browser of one node, which runs on a thread of its own.
pub struct Mdns {
    daemon: ServiceDaemon,
    node: ServiceInfo,
    host: ServiceInfo,
    reader: Reader,
    browsing: Option<AbortHandle>,
}

impl Mdns {
    /// Starts the responder, which says nothing yet. A machine without network gets one all the same; interfaces that
    /// come later are used.
    ///
    /// # Errors
    /// If the library cannot start its thread.
    pub fn start(place: &Place, service: &Service, events: Events) -> Result<Self, mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(interfaces(place))?;
        let node = node_info(place, service)?;
        let host = host_info(place, service)?;
        let reader = Reader {
            own: service.id,
            mesh: service.mesh.tag_hex(),
            place: place.clone(),
            events,
            other_versions: Arc::default(),
        };
        Ok(Self { daemon, node, host, reader, browsing: None })
    }

    /// Looks for other nodes, or stops looking.
    pub fn browse(&mut self, on: bool) {
        if on == self.browsing.is_some() {
            return;
        }
        self.browsing = if on {
            Some(tokio::spawn(browse(self.daemon.clone(), self.reader.clone())).abort_handle())
        } else {
            self.browsing.take().inspect(AbortHandle::abort);
            told("stop browsing", self.daemon.stop_browse(SERVICE));
            None
        };
    }

    /// Registers this node's service, or withdraws it with a goodbye.
    pub fn advertise(&mut self, on: bool) {
        announce(&self.daemon, &self.node, on);
    }

    /// Takes the mesh's host name (`labmesh.local`) for this node, or lets it go with a goodbye.
    pub fn host_name(&mut self, on: bool) {
        announce(&self.daemon, &self.host, on);
    }

    /// Withdraws everything with goodbyes and ends the thread, within a quarter of a second.
    pub async fn shutdown(mut self) {
        self.browse(false);
        let goodbyes = async {
            for info in [&self.node, &self.host] {
                if let Ok(done) = self.daemon.unregister(info.get_fullname()) {
                    // The answer comes once the goodbye is sent; an error means that there is nobody to send it.
                    let _ = done.recv_async().await;
                }
            }
            if let Ok(done) = self.daemon.shutdown() {
                let _ = done.recv_async().await;
            }
        };
        if tokio::time::timeout(GOODBYE, goodbyes).await.is_err() {
            tracing::debug!("mDNS takes too long to say goodbye");
        }
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        self.browsing.take().inspect(AbortHandle::abort);
        // Ends the thread; after `shutdown` there is none.
        let _ = self.daemon.shutdown();
    }
}

fn announce(daemon: &ServiceDaemon, info: &ServiceInfo, on: bool) {
    if on {
        told("register", daemon.register(info.clone()));
    } else {
        told("withdraw", daemon.unregister(info.get_fullname()).map(drop));
    }
}

fn told(what: &'static str, result: mdns_sd::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(what, %error, "mDNS does not listen; nodes may have to be joined by --join");
    }
}

/// IPv4 only: the control plane listens there, and every packet would go out twice.
fn interfaces(place: &Place) -> IfKind {
    match place {
        Place::Address(ip) if ip.is_loopback() => IfKind::LoopbackV4,
        Place::Address(ip) => IfKind::Addr((*ip).into()),
        Place::Everywhere => IfKind::Predicate(mdns_sd::IfPredicate::new(|i| i.ip().is_ipv4() && !i.is_loopback())),
        Place::Interface(name) => {
            let name = name.clone();
            IfKind::Predicate(mdns_sd::IfPredicate::new(move |i| i.ip().is_ipv4() && i.name == name))
        }
    }
}

fn node_info(place: &Place, service: &Service) -> Result<ServiceInfo, mdns_sd::Error> {
    let instance = service.id.short();
    let host = format!("labmesh-{instance}.local.");
    let txt = [
        ("v", PROTOCOL_VERSION.to_string()),
        ("id", service.id.to_string()),
        ("mesh", service.mesh.tag_hex()),
        ("w", service.weight.get().to_string()),
    ];
    at(place, ServiceInfo::new(SERVICE, &instance, &host, addresses(place).as_slice(), service.control_port, &txt[..])?)
}

fn host_info(place: &Place, service: &Service) -> Result<ServiceInfo, mdns_sd::Error> {
    let name = host_label(&service.mesh_name, &service.mesh);
    let host = format!("{name}.local.");
    let txt = [("path", "/")];
    at(place, ServiceInfo::new(HTTP_SERVICE, &name, &host, addresses(place).as_slice(), service.http_port, &txt[..])?)
}

fn addresses(place: &Place) -> Vec<IpAddr> {
    place.address().into_iter().map(IpAddr::from).collect()
}

fn at(place: &Place, mut info: ServiceInfo) -> Result<ServiceInfo, mdns_sd::Error> {
    // A probed name is away for most of a second after each change, and may come back as another.
    info.set_requires_probe(false);
    if place.address().is_some() {
        return Ok(info);
    }
    info.set_interfaces(vec![interfaces(place)]);
    Ok(info.enable_addr_auto())
}

/// The host name of a mesh: `labmesh`, or `labmesh-NAME`. What cannot stand in a host name becomes `-`, and such a
/// name gets the mesh's tag, so that two meshes do not fight for it.
pub fn host_label(mesh_name: &str, mesh: &MeshKey) -> String {
    if mesh_name == DEFAULT_MESH {
        return DEFAULT_MESH.to_owned();
    }
    let wanted = format!("labmesh-{mesh_name}");
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if wanted.len() <= LABEL_BYTES_MAX && wanted.chars().all(good) && !wanted.ends_with('-') {
        return wanted;
    }
    let tag = mesh.tag_hex();
    let kept: String = wanted
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if good(c) { c } else { '-' })
        .take(LABEL_BYTES_MAX - 1 - tag.len())
        .collect();
    format!("{kept}-{tag}")
}

async fn browse(daemon: ServiceDaemon, reader: Reader) {
    loop {
        match daemon.browse(SERVICE) {
            Ok(services) => {
                if reader.read(services).await.is_err() {
                    return;
                }
            }
            Err(mdns_sd::Error::DaemonShutdown) => return,
            Err(error) => tracing::debug!(%error, "cannot browse"),
        }
        tokio::time::sleep(BROWSE_AGAIN).await;
    }
}

/// The driver has ended.
struct Ended;

/// Judges what others advertise. Everything in it came from the network.
#[derive(Clone)]
struct Reader {
    own: NodeId,
    mesh: String,
    place: Place,
    events: Events,
    /// Named once, however often we browse.
    other_versions: Arc<Mutex<BTreeSet<NodeId>>>,
}

/// A TXT record that is one of ours, of whatever version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Advertised {
    node: NodeId,
    version: u16,
}

impl Reader {
    async fn read(&self, services: Receiver<ServiceEvent>) -> Result<(), Ended> {
        while let Ok(event) = services.recv_async().await {
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let Some(node) = self.judge(&service) else { continue };
            let found = addresses_of(&service);
            for addr in reachable(&self.place.interfaces(), self.place.is_loopback(), found, service.get_port()) {
                let found = Event::Input(Input::Found { node: Some(node), addr });
                self.events.send(found).await.map_err(|_| Ended)?;
            }
        }
        Ok(())
    }

    /// The node that advertises itself, if it is one for us.
    fn judge(&self, service: &ResolvedService) -> Option<NodeId> {
        let text = |key| service.get_property_val_str(key).unwrap_or_default();
        let Some(found) = parse_txt(&self.mesh, service.get_fullname(), text) else {
            tracing::trace!(service = ?service.get_fullname(), "not a node of this mesh");
            return None;
        };
        if found.node == self.own {
            return None;
        }
        if found.version != PROTOCOL_VERSION {
            let mut named = self.other_versions.lock().unwrap_or_else(PoisonError::into_inner);
            if named.len() < OTHER_VERSIONS_MAX && named.insert(found.node) {
                let (theirs, ours, node) = (found.version, PROTOCOL_VERSION, found.node.short());
                tracing::warn!(node, theirs, ours, "a node speaks another protocol version and is left alone");
            }
            return None;
        }
        Some(found.node)
    }
}

fn parse_txt<'a>(mesh: &str, fullname: &str, text: impl Fn(&'static str) -> &'a str) -> Option<Advertised> {
    if text("mesh") != mesh {
        return None;
    }
    let node: NodeId = text("id").parse().ok()?;
    let version = text("v").parse().ok()?;
    let named = fullname.get(..16).is_some_and(|instance| instance.eq_ignore_ascii_case(&node.short()));
    named.then_some(Advertised { node, version })
}

fn addresses_of(service: &ResolvedService) -> impl Iterator<Item = Ipv4Addr> {
    service.get_addresses().iter().filter_map(|ip| match ip {
        ScopedIp::V4(ip) => Some(*ip.addr()),
        _ => None,
    })
}

/// The addresses worth a dial: first those on a network that we are on, last those that we have too (every Docker host
/// is 172.17.0.1, and another node of this machine shares all of them), and loopback only if we live there.
fn reachable(
    interfaces: &[Interface],
    loopback: bool,
    found: impl Iterator<Item = Ipv4Addr>,
    port: u16,
) -> Vec<SocketAddr> {
    if port == 0 {
        return Vec::new();
    }
    let distance = |ip: Ipv4Addr| match interfaces.iter().find(|interface| interface.reaches(ip)) {
        Some(interface) if interface.ip == ip => 2,
        Some(_) => 0,
        None => 1,
    };
    let mut good: Vec<_> = found
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast() && ip.is_loopback() == loopback)
        .collect();
    good.sort_by_key(|ip| (distance(*ip), *ip));
    good.into_iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::from((ip, port))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::mpsc;
    use tokio::time::{Instant, timeout_at};

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn service(n: u8, mesh: &str) -> Service {
        Service {
            id: node(n),
            mesh_name: mesh.to_owned(),
            mesh: MeshKey::new(mesh, None),
            weight: Weight::DEFAULT,
            control_port: 7000 + u16::from(n),
            http_port: 6969,
        }
    }

    /// Meshes of tests that run at the same time, perhaps by somebody else on this machine, must not meet.
    fn mesh_name(test: &str) -> String {
        format!("{test}-{}", std::process::id())
    }

    fn start(n: u8, mesh: &str) -> (Mdns, mpsc::Receiver<Event>) {
        let (events, inbox) = mpsc::channel(64);
        let place = Place::Address(Ipv4Addr::new(127, 0, 0, n));
        (Mdns::start(&place, &service(n, mesh), events).unwrap(), inbox)
    }

    async fn nodes_find_each_other(count: u8) {
        let mesh = mesh_name(&format!("find{count}"));
        let mut nodes: Vec<_> = (1..=count).map(|n| start(n, &mesh)).collect();
        for (mdns, _) in &mut nodes {
            mdns.browse(true);
            mdns.advertise(true);
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        for (n, (_, inbox)) in (1..=count).zip(&mut nodes) {
            let mut found = BTreeMap::new();
            while found.len() + 1 < usize::from(count) {
                let event = timeout_at(deadline, inbox.recv()).await;
                let Some(Event::Input(Input::Found { node: Some(node), addr })) =
                    event.unwrap_or_else(|_| panic!("node {n} found only {found:?}"))
                else {
                    panic!("something else was found")
                };
                found.insert(node, addr);
            }
            let expected = (1..=count)
                .filter(|other| *other != n)
                .map(|other| (node(other), SocketAddr::from(([127, 0, 0, other], 7000 + u16::from(other)))));
            assert_eq!(found, expected.collect(), "node {n}");
        }
        for (mdns, _) in nodes {
            mdns.shutdown().await;
        }
    }

    #[tokio::test]
    async fn two_nodes_find_each_other() {
        nodes_find_each_other(2).await;
    }

    #[tokio::test]
    async fn eight_nodes_find_each_other() {
        nodes_find_each_other(8).await;
    }

    #[tokio::test]
    async fn meshes_do_not_see_each_other_and_withdrawn_nodes_are_not_found() {
        let mesh = mesh_name("apart");
        let (mut stranger, _strangers) = start(11, "another");
        let (mut gone, _gones) = start(12, &mesh);
        let (mut friend, _friends) = start(13, &mesh);
        stranger.advertise(true);
        gone.advertise(true);
        gone.shutdown().await;
        let (mut seeker, mut inbox) = start(14, &mesh);
        seeker.browse(true);
        friend.advertise(true);
        let found = tokio::time::timeout(Duration::from_secs(20), inbox.recv()).await.unwrap();
        assert!(
            matches!(&found, Some(Event::Input(Input::Found { node: Some(id), .. })) if *id == node(13)),
            "{found:?}"
        );
        for mdns in [stranger, friend, seeker] {
            mdns.shutdown().await;
        }
    }

    #[tokio::test]
    async fn the_host_name_of_the_mesh_is_held_and_let_go() {
        let mesh = mesh_name("name");
        let (mut master, _inbox) = start(21, &mesh);
        master.host_name(true);
        let daemon = ServiceDaemon::new().unwrap();
        daemon.disable_interface(IfKind::All).unwrap();
        daemon.enable_interface(IfKind::LoopbackV4).unwrap();
        let name = format!("labmesh-{mesh}.local.");
        let answers = daemon.resolve_hostname(&name, Some(20_000)).unwrap();
        let mut held = false;
        while let Ok(event) = answers.recv_async().await {
            match event {
                mdns_sd::HostnameResolutionEvent::AddressesFound(_, found) => {
                    let found: Vec<_> = found.iter().map(ScopedIp::to_ip_addr).collect();
                    assert_eq!(found, [IpAddr::from([127, 0, 0, 21])]);
                    held = true;
                    master.host_name(false);
                }
                mdns_sd::HostnameResolutionEvent::AddressesRemoved(..) => break,
                mdns_sd::HostnameResolutionEvent::SearchTimeout(_) => panic!("held: {held}, never let go"),
                _ => {}
            }
        }
        assert!(held);
        master.shutdown().await;
        daemon.shutdown().unwrap();
    }

    #[test]
    fn only_well_formed_nodes_of_this_mesh_are_found() {
        let good = [("v", "1".to_owned()), ("id", node(0xab).to_string()), ("mesh", "tag".to_owned())];
        #[track_caller]
        fn check(txt: &[(&str, String)], fullname: &str, expected: Option<u16>) {
            let text = |key| txt.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str()).unwrap_or_default();
            let expected = expected.map(|version| Advertised { node: node(0xab), version });
            assert_eq!(parse_txt("tag", fullname, text), expected, "{fullname} {txt:?}");
        }
        let fullname = format!("{}.{SERVICE}", node(0xab).short());
        check(&good, &fullname, Some(1));
        check(&good, &fullname.to_uppercase(), Some(1));
        for bad in ["", "abab", "0000000000000000._labmesh._tcp.local.", "ééééééééé"] {
            check(&good, bad, None);
        }
        for (at, value) in [(0, ""), (0, "-1"), (0, "65536"), (1, ""), (1, "zz"), (1, "abab"), (2, ""), (2, "Tag")] {
            let mut txt = good.clone();
            txt[at].1 = value.to_owned();
            check(&txt, &fullname, None);
        }
        let mut newer = good.clone();
        newer[0].1 = "2".to_owned();
        check(&newer, &fullname, Some(2));
    }

    #[test]
    fn near_addresses_come_first_and_senseless_ones_never() {
        #[track_caller]
        fn check(loopback: bool, found: &[[u8; 4]], expected: &[[u8; 4]]) {
            let interfaces = [Interface { index: 2, ip: Ipv4Addr::new(10, 1, 12, 90), prefix: 24 }];
            let got = reachable(&interfaces, loopback, found.iter().map(|ip| Ipv4Addr::from(*ip)), 6970);
            let expected: Vec<_> = expected.iter().map(|ip| SocketAddr::from((*ip, 6970))).collect();
            assert_eq!(got, expected);
        }
        check(false, &[[9, 9, 9, 9], [10, 1, 12, 7], [127, 0, 0, 1]], &[[10, 1, 12, 7], [9, 9, 9, 9]]);
        check(false, &[[0, 0, 0, 0], [224, 0, 0, 251], [255, 255, 255, 255]], &[]);
        check(
            false,
            &[[10, 1, 12, 90], [9, 9, 9, 9], [10, 1, 12, 91]],
            &[[10, 1, 12, 91], [9, 9, 9, 9], [10, 1, 12, 90]],
        );
        check(true, &[[127, 0, 0, 2], [10, 1, 12, 7]], &[[127, 0, 0, 2]]);
        check(
            false,
            &[[5, 0, 0, 1], [4, 0, 0, 1], [3, 0, 0, 1], [2, 0, 0, 1], [1, 0, 0, 1]],
            &[[1, 0, 0, 1], [2, 0, 0, 1], [3, 0, 0, 1], [4, 0, 0, 1]],
        );
        assert_eq!(reachable(&[], false, [Ipv4Addr::new(10, 1, 12, 7)].into_iter(), 0), []);
    }

    #[test]
    fn host_names_are_dns_labels_whatever_the_mesh_is_called() {
        #[track_caller]
        fn check(mesh: &str, expected: &str) {
            assert_eq!(host_label(mesh, &MeshKey::new(mesh, None)), expected);
        }
        check("labmesh", "labmesh");
        check("aula-3", "labmesh-aula-3");
        for odd in ["Aula 3", "aula.3", "ñ", "a-", &"x".repeat(63)] {
            let label = host_label(odd, &MeshKey::new(odd, None));
            assert!(label.len() <= LABEL_BYTES_MAX && label.starts_with("labmesh-"), "{label}");
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{label}");
            assert!(label.ends_with(&MeshKey::new(odd, None).tag_hex()), "{label}");
        }
    }
}
