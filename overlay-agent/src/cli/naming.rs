//! What is attached to a network is called by a name, aliases and labels.

use clap::Args;

use super::labels::Labels;
use crate::model::Name;

/// What something attached is called.
#[derive(Debug, Args)]
pub(super) struct Naming {
    /// Its name [default: that of its namespace, if that has one, or one made from the id]
    #[arg(long)]
    pub(super) name: Option<Name>,
    /// Another name, which others in the network may have too; may be given several times
    #[arg(long = "alias", value_name = "NAME")]
    pub(super) aliases: Vec<Name>,
    #[command(flatten)]
    pub(super) labels: Labels,
}
