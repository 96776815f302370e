//! `overlay store`: export, import.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, dry_run::DryRun, output::Output};
use crate::{
    api::client::Client,
    config::AccessSettings,
    store::{
        self, Rehearsal, Store, Target,
        transfer::{self, Document, Existing, Imported, TransferError},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write the cluster's state into a file
    #[command(after_help = "\
Examples:
  overlay store export cluster.json
  overlay store export --store sqlite:///var/lib/overlay/overlay.db > cluster.json")]
    Export(Export),
    /// Write an exported state into a store, with the agents on that store stopped
    #[command(after_help = "\
An import that was interrupted goes on when it is started again with the same file.

Examples:
  overlay store import --store sqlite:///var/lib/overlay/new.db cluster.json
  overlay store import --store sqlite:///var/lib/overlay/overlay.db --replace < cluster.json")]
    Import(Import),
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Read this store itself instead of asking the agent
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    access: AccessSettings,
    /// File to write; standard output if left out
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// Store to write; the agent's own if left out
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    access: AccessSettings,
    /// Replace what differs in a store that is not empty
    #[arg(long)]
    force: bool,
    /// Like --force, and delete what is not in the export
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    dry_run: DryRun,
    /// File to read; standard input if left out
    file: Option<PathBuf>,
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Export(export) => export.run(client).await,
            Self::Import(import) => import.run(client, out).await,
        }
    }
}

impl Export {
    async fn run(self, client: &Client) -> Result<(), CliError> {
        let document = match &self.store {
            Some(url) => {
                let target = Target { url: url.clone(), access: self.access.read()? };
                Document::export(open_existing(&target).await?.as_ref()).await?
            }
            None => {
                let exported = client.export().await?;
                if let Some(reason) = exported.stale {
                    eprintln!("overlay: this is what the agent last knew: {reason}");
                }
                exported.document
            }
        };
        match &self.file {
            Some(path) => write_whole(path, &document.text()).map_err(|source| file_error(path, source)),
            None => Ok(io::stdout().lock().write_all(document.text().as_bytes())?),
        }
    }
}

impl Import {
    async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let document = Document::parse(&self.read()?)?;
        let url = match &self.store {
            Some(url) => url.clone(),
            None => client.status().await?.store,
        };
        let target = Target { url, access: self.access.clone().read()? };
        let store =
            if self.dry_run.is_asked_for() { rehearsal(&target).await? } else { opened(&target).await? };
        let bar = progress_bar();
        let progress = |done: usize, total: usize| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let done = transfer::import(store.as_ref(), &document, self.existing(), progress).await;
        bar.finish_and_clear();
        let done = done?;
        out.print(&done, |_| sentence(&done))
    }

    fn existing(&self) -> Existing {
        match (self.replace, self.force) {
            (true, _) => Existing::Replace,
            (false, true) => Existing::Overwrite,
            (false, false) => Existing::Refuse,
        }
    }

    fn read(&self) -> Result<Vec<u8>, CliError> {
        match &self.file {
            Some(path) => fs::read(path).map_err(|source| file_error(path, source)),
            None => {
                let mut text = Vec::new();
                io::stdin().lock().read_to_end(&mut text)?;
                Ok(text)
            }
        }
    }
}

pub(super) fn sentence(done: &Imported) -> String {
    let Imported { written, unchanged, deleted, continued } = done;
    let continued = if *continued { "; an interrupted import was continued" } else { "" };
    format!("{written} keys written, {unchanged} unchanged, {deleted} deleted{continued}\n")
}

async fn opened(target: &Target) -> Result<Arc<dyn Store>, CliError> {
    Ok(store::open(target).await.map_err(TransferError::from)?)
}

/// A store that is only read is not made: a file under a misspelt name would be an empty cluster.
async fn open_existing(target: &Target) -> Result<Arc<dyn Store>, CliError> {
    match missing_file(target) {
        Some(path) => Err(file_error(path, io::Error::from(io::ErrorKind::NotFound))),
        None => opened(target).await,
    }
}

/// A store that takes everything and keeps nothing. A file that is not there would be made, empty.
async fn rehearsal(target: &Target) -> Result<Arc<dyn Store>, CliError> {
    Ok(Arc::new(match missing_file(target) {
        Some(_) => Rehearsal::of_nothing(&target.url),
        None => Rehearsal::before(&opened(target).await?),
    }))
}

/// The file of the embedded store, if it is not there.
fn missing_file(target: &Target) -> Option<&Path> {
    let path = Path::new(target.url.strip_prefix("sqlite://")?);
    (path.is_absolute() && !path.exists()).then_some(path)
}

/// All of the file or nothing: an export cut short would be a smaller cluster.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = fs::File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

fn file_error(path: &Path, source: io::Error) -> CliError {
    CliError::File { path: path.to_owned(), source }
}

/// On standard error, and only if that is a terminal.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} keys, {eta} to go");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
