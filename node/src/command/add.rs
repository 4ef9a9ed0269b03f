//! `labmesh add`: a file into the cache, offered to the mesh.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Steps, interrupted};
use crate::cli::{Context, UnnamedNodeArgs};
use crate::io::cache::{self, Placement};
use crate::io::socket::{Answer, Request, unexpected};
use crate::view::{self, Exit, Failure};

/// Puts an image into the cache and offers it to the mesh. Without one of the flags below it is copied.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// The image
    file: PathBuf,
    /// Its name in the mesh, NAME.img or FOLDER/NAME.img, instead of the file's
    #[arg(id = "image_name", long = "name", value_name = "NAME")]
    name: Option<String>,
    /// Move the file into the cache
    #[arg(long = "move", group = "how")]
    move_it: bool,
    /// Copy the file into the cache (the default)
    #[arg(long, group = "how")]
    copy: bool,
    /// Leave the file where it is and put a symbolic link into the cache
    #[arg(long, group = "how")]
    in_place: bool,
    /// The node that is run if none runs here.
    #[command(flatten)]
    node: UnnamedNodeArgs,
}

impl Add {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let file = std::path::absolute(&self.file).with_context(|| format!("bad path {}", self.file.display()))?;
        // Said before a node is started for nothing. Whatever else is wrong with the file, the node finds.
        if let Err(error) = std::fs::symlink_metadata(&file)
            && error.kind() == std::io::ErrorKind::NotFound
        {
            return Err(Failure::new(Exit::NoSuchImage, format!("cannot read {}: {error}", file.display())).into());
        }
        let placement = match (self.move_it, self.in_place) {
            (true, _) => Placement::Move,
            (_, true) => Placement::InPlace,
            _ => Placement::Copy,
        };
        let request = Request::Add(cache::Add { file, name: self.name, placement });
        let (mut client, own) = context.node_or_own(&self.node.0).await?;
        let title = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut steps = Steps::of(context.out, title);
        let answer = tokio::select! {
            answer = client.ask(&request, &[], |step| steps.show(step)) => Some(answer),
            () = interrupted() => None,
        };
        steps.clear();
        drop(client);
        let alone = own.is_some();
        if let Some(own) = own {
            own.end().await?;
        }
        let Some(answer) = answer else { anyhow::bail!("given up; nothing was added") };
        show(context.out, answer?, alone)
    }
}

fn show(out: crate::progress::Out, answer: Answer, alone: bool) -> anyhow::Result<()> {
    let Answer::Added { name, info_hash, size, piece_length, path, offered_as } = answer else {
        return Err(unexpected(&answer).into());
    };
    out.json(&serde_json::json!({
        "event": "added", "image": name, "info_hash": info_hash, "size": size, "piece_length": piece_length,
        "path": path, "offered_as": offered_as,
    }))?;
    if let Some(other) = offered_as {
        let words =
            format!("{name} is in the cache, but its content is offered already as {other}: {path} is of no use");
        return Ok(out.say(&words)?);
    }
    let when = if alone { "is offered as soon as a node runs here (labmesh run)" } else { "is offered to the mesh" };
    Ok(out.say(&format!("{name} ({}) {when}", view::size(size)))?)
}
