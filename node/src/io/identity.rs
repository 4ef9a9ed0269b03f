//! Who this node is, which mesh it belongs to, and the highest epoch it has seen: what has to survive a restart.
//!
//! Rule: a node signs only what it says itself, one node at a time uses a state folder, and an epoch is reported as
//! written only when it is. Not here: when a term is raised (`proto`'s `election`), where signed bytes travel
//! (`heartbeat`, `control`).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use labmesh_proto::id::{Epoch, NodeId};
use labmesh_proto::io::Input;
use labmesh_proto::wire::control::{Beat, Message, Signature};
use libp2p::PeerId;
use libp2p::identity::{self, ed25519};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::{Event, Events};

const KEY_FILE: &str = "node.key";
/// `TERM NODEID` and a line end.
const EPOCH_FILE: &str = "epoch";
const LOCK_FILE: &str = "lock";
/// libp2p's multihash code for "these are the bytes themselves".
const IDENTITY_HASH: u64 = 0;
/// After a failed write of the epoch: long enough not to fill the log, short enough to be master soon after the disk
/// has room again.
const EPOCH_RETRY: Duration = Duration::from_secs(1);

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process holds the folder.
    #[error("the state folder {} is in use by another labmesh; choose another with --state", .0.display())]
    InUse(PathBuf),
    /// The key file is not what we wrote.
    #[error(
        "{} is damaged (expected 64 bytes that are a key pair); restore it, or delete it and this node gets a new name",
        .0.display()
    )]
    DamagedKey(PathBuf),
    /// The epoch file is not what we wrote.
    #[error(
        "{} is damaged (expected a term, a node and a line end); delete it if another node of the mesh is \
         up, which will tell this one the present epoch",
        .0.display()
    )]
    DamagedEpoch(PathBuf),
    /// The file system said no.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl IdentityError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, error }
    }
}

/// A node's key pair and the state folder that it holds locked as long as it lives.
#[derive(Debug)]
pub struct Identity {
    keypair: ed25519::Keypair,
    id: NodeId,
    epoch: Epoch,
    stored: Arc<Mutex<StoredEpoch>>,
    _lock: File,
}

impl Identity {
    /// Takes the state folder, which is created if it is missing, and reads the key pair and the epoch from it, or
    /// makes a new key pair.
    ///
    /// # Errors
    /// If the folder is in use or cannot be used, or a file in it is damaged.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, IdentityError> {
        let folder = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        folder.map_err(IdentityError::file(state_dir))?;
        let lock = lock(state_dir)?;
        let keypair = load_or_create_key(&state_dir.join(KEY_FILE))?;
        let epoch_file = state_dir.join(EPOCH_FILE);
        let epoch = load_epoch(&epoch_file)?;
        let id = NodeId(keypair.public().to_bytes());
        let stored = Arc::new(Mutex::new(StoredEpoch { file: epoch_file, epoch }));
        Ok(Self { keypair, id, epoch, stored, _lock: lock })
    }

    /// The public key.
    pub fn node_id(&self) -> NodeId {
        self.id
    }

    /// The epoch that was on disk at the start; nobody's in term 0 on a new node.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The key pair as libp2p wants it.
    pub fn keypair(&self) -> identity::Keypair {
        self.keypair.clone().into()
    }

    /// Signs bytes.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        let signature = self.keypair.sign(bytes);
        Signature(signature.try_into().expect("an Ed25519 signature has 64 bytes"))
    }

    /// Fills in the signature of a heartbeat.
    pub fn sign_beat(&self, mesh: &MeshKey, beat: &mut Beat) {
        beat.signature = self.sign(&mesh.beat_bytes(beat));
    }

    /// Signs the heartbeat inside a message if it is our own; relayed ones keep the signature of their master.
    pub fn sign_message(&self, mesh: &MeshKey, message: &mut Message) {
        if let Some(beat) = beat_in(message).filter(|beat| beat.epoch.node == self.id) {
            self.sign_beat(mesh, beat);
        }
    }

    /// Puts the epoch on disk on a thread of its own, then reports [`Input::Persisted`]. A disk that refuses is
    /// tried again until it takes the epoch, since a node that forgets it may claim it twice.
    ///
    /// Must be called on a tokio runtime.
    pub fn persist_epoch(&self, epoch: Epoch, events: Events) {
        let stored = Arc::clone(&self.stored);
        tokio::spawn(async move {
            loop {
                let stored = Arc::clone(&stored);
                let written = tokio::task::spawn_blocking(move || {
                    // A panic while the lock was held left a whole value behind: it is set last.
                    stored.lock().unwrap_or_else(PoisonError::into_inner).raise(epoch)
                });
                match written.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::error!(term = epoch.term, %error, "cannot store the epoch; this node cannot be master")
                    }
                }
                tokio::time::sleep(EPOCH_RETRY).await;
            }
            // The driver that ended needs no answer.
            let _ = events.send(Event::Input(Input::Persisted { epoch })).await;
        });
    }
}

/// Whether `node` signed these bytes.
pub fn verify(node: NodeId, bytes: &[u8], signature: &Signature) -> bool {
    ed25519::PublicKey::try_from_bytes(&node.0).is_ok_and(|key| key.verify(bytes, &signature.0))
}

/// The name of a node on libp2p; `None` if no key has these bytes.
pub fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PeerId::from_public_key(&key.into()))
}

/// The node behind a libp2p name; `None` unless the name holds an Ed25519 key itself, as those of labmesh do.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return None;
    }
    let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

/// What a mesh name and its optional key amount to on the wire.
///
/// A mesh without a key keeps strangers out by mistake only, since its name is all there is to know. A key is as good
/// as it is long: the tag and every heartbeat let anybody on the network test guesses.
#[derive(Clone)]
pub struct MeshKey {
    tag: [u8; 8],
    prefix: [u8; 32],
    preshared: Option<[u8; 32]>,
    /// The heartbeat that was found genuine last: most come by several ways.
    genuine: Arc<Mutex<Option<Beat>>>,
}

impl std::fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MeshKey").field(&self.tag_hex()).finish()
    }
}

impl MeshKey {
    /// From the mesh's name and its key, if it has one.
    pub fn new(name: &str, key: Option<&[u8]>) -> Self {
        let derive = |purpose: &str| -> [u8; 32] {
            let mut hash = Sha256::new();
            // Lengths in front, so that no two (purpose, name, key) read the same.
            for part in [Some(purpose.as_bytes()), Some(name.as_bytes()), key].into_iter().flatten() {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            hash.finalize().into()
        };
        let mut tag = [0; 8];
        tag.copy_from_slice(&derive("labmesh tag")[..8]);
        let preshared = key.map(|_| derive("labmesh pnet"));
        Self { tag, prefix: derive("labmesh signature"), preshared, genuine: Arc::default() }
    }

    /// What tells the packets of this mesh from those of another.
    pub fn tag(&self) -> [u8; 8] {
        self.tag
    }

    /// The tag as 16 hex digits, for TXT records and topic names.
    pub fn tag_hex(&self) -> String {
        self.tag.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// What every signature of this mesh begins with and every control connection is bound to.
    pub fn prefix(&self) -> &[u8; 32] {
        &self.prefix
    }

    /// libp2p's pre-shared key, if the mesh has a key.
    pub fn preshared(&self) -> Option<[u8; 32]> {
        self.preshared
    }

    /// Whether the node that the heartbeat names signed it, for this mesh.
    pub fn verify_beat(&self, beat: &Beat) -> bool {
        // A whole value is there whatever happened to a thread that held the lock.
        let last = || self.genuine.lock().unwrap_or_else(PoisonError::into_inner);
        if *last() == Some(*beat) {
            return true;
        }
        let genuine = verify(beat.epoch.node, &self.beat_bytes(beat), &beat.signature);
        if genuine {
            *last() = Some(*beat);
        }
        genuine
    }

    /// Whether the heartbeat inside a message, if there is one, is genuine.
    pub fn verify_message(&self, message: &mut Message) -> bool {
        beat_in(message).is_none_or(|beat| self.verify_beat(beat))
    }

    fn beat_bytes(&self, beat: &Beat) -> Vec<u8> {
        [self.prefix.as_slice(), beat.signed_bytes().as_ref()].concat()
    }
}

/// The heartbeat that a message carries on behalf of a master.
fn beat_in(message: &mut Message) -> Option<&mut Beat> {
    match message {
        Message::Beat(beat) => Some(beat),
        Message::Answer(beat) | Message::Welcome { beat, .. } => beat.as_mut(),
        _ => None,
    }
}

fn lock(state_dir: &Path) -> Result<File, IdentityError> {
    let path = state_dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(IdentityError::file(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(IdentityError::InUse(state_dir.to_owned())),
        Err(error) => Err(IdentityError::File { path, error: error.into() }),
    }
}

fn load_or_create_key(path: &Path) -> Result<ed25519::Keypair, IdentityError> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keypair = ed25519::Keypair::generate();
            write_atomically(path, &keypair.to_bytes()).map_err(IdentityError::file(path))?;
            return Ok(keypair);
        }
        Err(error) => return Err(IdentityError::File { path: path.to_owned(), error }),
    };
    let keypair = ed25519::Keypair::try_from_bytes(&mut bytes);
    let keypair = keypair.map_err(|_| IdentityError::DamagedKey(path.to_owned()))?;
    let mode = fs::metadata(path).map_err(IdentityError::file(path))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "others could read this node's key; now only its owner can");
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(IdentityError::file(path))?;
    }
    Ok(keypair)
}

fn load_epoch(path: &Path) -> Result<Epoch, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => parse_epoch(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Epoch::default()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        Err(error) => return Err(IdentityError::File { path: path.to_owned(), error }),
    }
    .ok_or_else(|| IdentityError::DamagedEpoch(path.to_owned()))
}

/// The line end proves that nothing is missing.
fn parse_epoch(text: &str) -> Option<Epoch> {
    let (term, node) = text.strip_suffix('\n')?.split_once(' ')?;
    Some(Epoch { term: term.parse().ok()?, node: node.parse().ok()? })
}

/// The epoch on disk. Writers take turns, and a late one with a lower epoch finds its work done.
#[derive(Debug)]
struct StoredEpoch {
    file: PathBuf,
    epoch: Epoch,
}

impl StoredEpoch {
    fn raise(&mut self, epoch: Epoch) -> io::Result<()> {
        if epoch > self.epoch {
            write_atomically(&self.file, format!("{} {}\n", epoch.term, epoch.node).as_bytes())?;
            self.epoch = epoch;
        }
        Ok(())
    }
}

/// Replaces a file such that a power cut leaves the old content or the new.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;
    use tokio::sync::mpsc;

    use super::*;

    fn beat(node: NodeId) -> Beat {
        Beat {
            epoch: Epoch { term: 7, node },
            seq: 1,
            members: 3,
            solo: false,
            control_port: 6970,
            roster: 2,
            catalogue: 3,
            signature: Signature::default(),
        }
    }

    #[test]
    fn a_node_keeps_its_identity_over_restarts() {
        let dir = tempdir().unwrap();
        let state = dir.path().join("deep/state");
        let first = Identity::load_or_create(&state).unwrap();
        let id = first.node_id();
        assert_eq!(first.epoch(), Epoch::default());
        drop(first);
        assert_eq!(Identity::load_or_create(&state).unwrap().node_id(), id);
        let mode = fs::metadata(state.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn two_nodes_cannot_share_a_state_folder() {
        let dir = tempdir().unwrap();
        let _first = Identity::load_or_create(dir.path()).unwrap();
        let error = Identity::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("in use by another labmesh"), "{error}");
    }

    #[test]
    fn damaged_files_are_refused_with_advice() {
        #[track_caller]
        fn check(file: &str, content: &[u8]) {
            let dir = tempdir().unwrap();
            drop(Identity::load_or_create(dir.path()).unwrap());
            fs::write(dir.path().join(file), content).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains("damaged") && error.contains("delete it"), "{error}");
        }
        check(KEY_FILE, b"");
        check(KEY_FILE, &[1; 63]);
        // The right length, but the public half is not that of the secret half.
        check(KEY_FILE, &[1; 64]);
        let node = NodeId([0xab; 32]);
        let good = format!("17 {node}\n");
        assert_eq!(parse_epoch(&good), Some(Epoch { term: 17, node }));
        for end in 0..good.len() {
            check(EPOCH_FILE, &good.as_bytes()[..end]);
        }
        for bad in ["17\n", "-1 NODE\n", "99999999999999999999 NODE\n", "x NODE\n", "1 NODE\n2 NODE\n", "1 NODE0\n"] {
            check(EPOCH_FILE, bad.replace("NODE", &node.to_string()).as_bytes());
        }
        check(EPOCH_FILE, &[0xff, b'\n']);
    }

    #[test]
    fn a_key_that_others_could_read_is_closed() {
        let dir = tempdir().unwrap();
        drop(Identity::load_or_create(dir.path()).unwrap());
        let key = dir.path().join(KEY_FILE);
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        drop(Identity::load_or_create(dir.path()).unwrap());
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn epochs_are_on_disk_before_they_are_reported_and_never_go_back() {
        let dir = tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let (events, mut inbox) = mpsc::channel(4);
        let highest = Epoch { term: 5, node: NodeId([2; 32]) };
        for epoch in [highest, Epoch { term: 3, ..highest }, Epoch { node: NodeId([1; 32]), ..highest }] {
            identity.persist_epoch(epoch, events.clone());
            let event = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await.unwrap();
            assert!(matches!(event, Some(Event::Input(Input::Persisted { epoch: e })) if e == epoch));
            assert_eq!(fs::read_to_string(dir.path().join(EPOCH_FILE)).unwrap(), format!("5 {}\n", highest.node));
        }
        drop(identity);
        assert_eq!(Identity::load_or_create(dir.path()).unwrap().epoch(), highest);
    }

    #[test]
    fn a_heartbeat_is_genuine_only_in_its_mesh_and_unchanged() {
        let dir = tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let mesh = MeshKey::new("lab", Some(b"secret"));
        let mut good = beat(identity.node_id());
        assert!(!mesh.verify_beat(&good), "unsigned");
        identity.sign_beat(&mesh, &mut good);
        assert!(mesh.verify_beat(&good));
        for other in [MeshKey::new("lab", None), MeshKey::new("lab", Some(b"Secret")), MeshKey::new("lab2", None)] {
            assert!(!other.verify_beat(&good), "{other:?}");
        }
        for changed in [
            Beat { seq: 2, ..good },
            Beat { members: 30, ..good },
            Beat { solo: true, ..good },
            Beat { epoch: Epoch { term: 8, ..good.epoch }, ..good },
            Beat { epoch: Epoch { node: NodeId([9; 32]), ..good.epoch }, ..good },
            Beat { control_port: 1, ..good },
        ] {
            assert!(!mesh.verify_beat(&changed), "{changed:?}");
        }
    }

    #[test]
    fn only_our_own_heartbeats_are_signed_again() {
        let dir = tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let mesh = MeshKey::new("lab", None);
        let mut own = Message::Welcome { beat: Some(beat(identity.node_id())), master: None };
        identity.sign_message(&mesh, &mut own);
        assert!(mesh.verify_message(&mut own));
        let mut relayed = Message::Answer(Some(beat(NodeId([3; 32]))));
        identity.sign_message(&mesh, &mut relayed);
        assert!(!mesh.verify_message(&mut relayed));
        assert!(mesh.verify_message(&mut Message::HoldingsWanted));
    }

    #[test]
    fn node_ids_and_peer_ids_are_the_same_thing() {
        let keypair = ed25519::Keypair::generate();
        let node = NodeId(keypair.public().to_bytes());
        let peer = PeerId::from_public_key(&identity::PublicKey::from(keypair.public()));
        assert_eq!(peer_id(node), Some(peer));
        assert_eq!(node_id(&peer), Some(node));
        assert_eq!(node_id(&PeerId::random()), None);
    }

    #[test]
    fn mesh_names_and_keys_do_not_run_together() {
        let tags = [("ab", Some("c")), ("a", Some("bc")), ("abc", None), ("abc", Some(""))]
            .map(|(name, key)| MeshKey::new(name, key.map(str::as_bytes)).tag_hex());
        for (n, tag) in tags.iter().enumerate() {
            assert_eq!(tag.len(), 16);
            assert!(!tags[..n].contains(tag));
        }
    }
}
