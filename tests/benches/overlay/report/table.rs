//! The report on a terminal.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

use super::{Absent, Figure, Measured, RIVALS, Report, gates::Judged};
use crate::peers::Peer;

/// Marks what comes of rounds of which none was steady.
const UNSTEADY: &str = "~";

/// The whole text.
pub fn text(report: &Report) -> String {
    let mut text = format!("{}\n{}\n", heading(report), rows(report));
    for Absent { scene, peer, reason } in &report.absent {
        let _ = writeln!(text, "{scene}: without {peer}: {reason}");
    }
    for judged in &report.gates {
        text += &gate(judged);
    }
    for cost in &report.programs {
        let _ = writeln!(
            text,
            "{}: {} {:.0} ns per run ({} runs)",
            cost.row, cost.program, cost.ns_per_run, cost.runs
        );
    }
    if report.rows.iter().any(|row| row.kept == 0) {
        let _ = writeln!(
            text,
            "{UNSTEADY}: no round was steady, so these are over all of them: take them as a direction"
        );
    }
    text += "same host: the bare peer, which has no containers, goes from host to host\n";
    text
}

fn gate(judged: &Judged) -> String {
    let Judged { what, value, gate, goal, at_most, verdict, steady } = judged;
    let bound = if *at_most { "≤" } else { "≥" };
    let mark = if *steady { "" } else { UNSTEADY };
    let value = number(*value);
    format!("{:6} {what} {mark}{value} (gate {bound} {gate}, goal {bound} {goal})\n", verdict.word())
}

fn heading(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "{} × {}, Linux {}, load {:.2} at the start; runs of {} s; ours ÷ theirs within rounds, with a 95 % interval",
        machine.cpus, machine.cpu, machine.kernel, machine.load, report.run_seconds
    )
}

fn rows(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    let peers = Peer::ALL.map(|peer| peer.name().to_owned());
    let ratios = RIVALS.map(|rival| format!("÷ {rival}"));
    let head = ["row".to_owned(), String::new()].into_iter().chain(peers).chain(ratios);
    table.set_header(head.chain(["rounds".to_owned()]));
    for row in &report.rows {
        for (number, figure) in row.figures.iter().enumerate() {
            table.add_row(line(row, figure, number == 0));
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn line(row: &Measured, figure: &Figure, first: bool) -> Vec<Cell> {
    let title = if first { row.title } else { "" };
    let what = format!("{}, {}", figure.metric.name, figure.metric.unit);
    let mark = if row.kept == 0 { UNSTEADY } else { "" };
    let median = |peer| figure.medians.get(&peer).map(|value| format!("{mark}{}", number(*value)));
    let medians = Peer::ALL.map(|peer| median(peer).unwrap_or_else(none));
    let ratios = RIVALS.map(|rival| {
        figure.ratios.get(&rival).map_or_else(none, |ratio| {
            format!("{mark}{:.2} [{:.2}–{:.2}]", ratio.median, ratio.low, ratio.high)
        })
    });
    let rounds = if first { rounds(row) } else { String::new() };
    let texts = [title.to_owned(), what].into_iter().chain(medians).chain(ratios).chain([rounds]);
    texts.map(Cell::new).collect()
}

fn rounds(row: &Measured) -> String {
    match row.dropped {
        0 => row.kept.to_string(),
        dropped => format!("{}, {dropped} dropped", row.kept),
    }
}

fn none() -> String {
    "–".to_owned()
}

/// Three figures that mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
