//! The report: a table for people, JSON for scripts.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use crate::{kinds::StoreChoice, measure::Figures};

/// A figure, how it is read, and the most that it may be.
type Row = (&'static str, &'static str, fn(&Figures) -> f64, Option<f64>);

const ROWS: [Row; 10] = [
    ("cold resync", "s", |f| f.cold_resync_s, Some(3.0)),
    ("cold resync, worst", "s", |f| f.cold_resync_worst_s, Some(3.0)),
    ("all agents, four at a time", "s", |f| f.all_started_s, None),
    ("resident memory, largest", "MB", |f| f.resident_mb, Some(150.0)),
    ("maps in the kernel", "MB", |f| f.maps_mb, None),
    ("attach visible, p50", "ms", |f| f.visible_p50_ms, Some(50.0)),
    ("attach visible, p99", "ms", |f| f.visible_p99_ms, Some(500.0)),
    ("attach visible, worst", "ms", |f| f.visible_worst_ms, None),
    ("idle agent, mean", "% CPU", |f| f.idle_percent, Some(1.0)),
    ("idle agent, worst", "% CPU", |f| f.idle_worst_percent, Some(1.0)),
];

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    agents: u8,
    endpoints: u32,
    stores: Vec<OfStore>,
}

#[derive(Debug, Serialize)]
struct OfStore {
    store: String,
    #[serde(flatten)]
    figures: Figures,
}

impl Report {
    /// One without figures.
    pub fn new(agents: u8, endpoints: u32) -> Self {
        Self { agents, endpoints, stores: Vec::new() }
    }

    /// Adds what came out with one store.
    pub fn add(&mut self, store: &StoreChoice, figures: Figures) {
        self.stores.push(OfStore { store: store.to_string(), figures });
    }

    /// The whole as JSON.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Writes it to a directory; the file's path.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("control.json");
        let json = self.json()?;
        let written = fs::create_dir_all(dir).and_then(|()| fs::write(&path, json));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} agents, {} endpoints", self.agents, self.endpoints)?;
        let mut table = Table::new();
        table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
        let stores = self.stores.iter().map(|of| of.store.clone());
        table.set_header(["", ""].map(str::to_owned).into_iter().chain(stores).chain(["at most".to_owned()]));
        for (what, unit, read, bound) in ROWS {
            let cells = self.stores.iter().map(|of| cell(read(&of.figures), bound));
            let bound = bound.map_or_else(String::new, |bound| bound.to_string());
            table.add_row([Cell::new(what), Cell::new(unit)].into_iter().chain(cells).chain([right(bound)]));
        }
        write!(f, "{table}")
    }
}

fn cell(value: f64, bound: Option<f64>) -> Cell {
    let missed = bound.is_some_and(|bound| value > bound);
    right(format!("{value:.2}{}", if missed { " !" } else { "" }))
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
