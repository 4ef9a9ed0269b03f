//! Whose the files are that this node makes in image folders.
//!
//! Rule: every image, torrent and sum is given to the configured owner and group with the configured permissions before
//! it has its name, so that nobody sees it otherwise. Not here: the names.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{Gid, Uid, fchown};

/// Permissions where nothing else is said: everybody may read, as a share of images wants it.
pub const MODE: u32 = 0o644;

/// Owner, group and permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    owner: Option<Uid>,
    group: Option<Gid>,
    mode: u32,
}

impl Default for Ownership {
    fn default() -> Self {
        Self { owner: None, group: None, mode: MODE }
    }
}

impl Ownership {
    /// Looks names up; `None` is whoever the node runs as.
    ///
    /// # Errors
    /// If there is no such user or group.
    pub fn new(owner: Option<&str>, group: Option<&str>, mode: u32) -> anyhow::Result<Self> {
        let owner = owner.map(|owner| id_of(owner, "user", Path::new("/etc/passwd"))).transpose()?.map(Uid::from_raw);
        Ok(Self { owner, group: group.map(group_id).transpose()?, mode })
    }

    /// Gives the file away.
    ///
    /// # Errors
    /// If the system refuses: only root may give files to others.
    pub fn give(&self, file: &File) -> io::Result<()> {
        if self.owner.is_some() || self.group.is_some() {
            fchown(file, self.owner, self.group)?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

/// A group by number, or by name in `/etc/group`.
///
/// # Errors
/// If there is none.
pub fn group_id(group: &str) -> anyhow::Result<Gid> {
    id_of(group, "group", Path::new("/etc/group")).map(Gid::from_raw)
}

/// `name:x:number:...`, the line of `passwd(5)` and `group(5)`.
fn id_of(name: &str, what: &str, table: &Path) -> anyhow::Result<u32> {
    let named = || {
        let text = std::fs::read_to_string(table).ok()?;
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(2)?.parse().ok()
    };
    let id: Option<u32> = name.parse().ok().or_else(named);
    // The last number means "leave it" to the system.
    id.filter(|id| *id != u32::MAX).with_context(|| format!("no {what} {name:?} in {}", table.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_and_others_refused() {
        assert_eq!(group_id("7").unwrap(), Gid::from_raw(7));
        assert_eq!(group_id("root").unwrap(), Gid::ROOT);
        for bad in ["no such group", "", "4294967295", "-1"] {
            assert!(group_id(bad).is_err(), "{bad}");
        }
        assert_eq!(Ownership::new(Some("root"), None, 0o640).unwrap().owner, Some(Uid::ROOT));
        let error = Ownership::new(Some("nobody here"), None, 0o640).unwrap_err().to_string();
        assert!(error.contains("no user \"nobody here\" in /etc/passwd"), "{error}");
    }

    #[test]
    fn permissions_are_set_whatever_the_umask() {
        let file = tempfile::NamedTempFile::new().unwrap();
        Ownership::new(None, None, 0o664).unwrap().give(file.as_file()).unwrap();
        assert_eq!(file.path().metadata().unwrap().permissions().mode() & 0o7777, 0o664);
    }
}
