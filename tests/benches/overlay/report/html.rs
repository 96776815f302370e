//! The report as a page of its own, charts included.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Figure, Measured, Report, table};
use crate::{peers::Peer, rows::Better};

const WIDTH: u32 = 460;
const BAR_HEIGHT: u32 = 28;
const HEADING_HEIGHT: u32 = 34;
/// Where the bars begin, and how long the longest is.
const BAR_START: i32 = 74;
const BAR_LENGTH: f64 = 300.0;
const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}\
    pre{overflow-x:auto;font-size:12px;line-height:1.3}.charts{display:flex;flex-wrap:wrap;gap:1em}";

/// The page.
pub fn page(report: &Report) -> Result<String> {
    let charts: Result<Vec<String>> = report.rows.iter().filter_map(|row| chart(row).transpose()).collect();
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>overlay: benchmark</title>\
         <style>{STYLE}</style></head>\n<body><h1>Benchmark</h1>\n<div class=\"charts\">\n{}\n</div>\n\
         <pre>{}</pre>\n</body></html>\n",
        charts?.join("\n"),
        escape(&table::text(report))
    ))
}

/// Bars of a row's first metric; none where nothing was steady.
fn chart(row: &Measured) -> Result<Option<String>> {
    let Some(figure) = row.figures.first().filter(|figure| !figure.medians.is_empty()) else {
        return Ok(None);
    };
    let mut svg = String::new();
    draw(&mut svg, row.title, figure).map_err(|e| anyhow!("cannot draw {}: {e}", row.id))?;
    Ok(Some(svg))
}

fn draw(svg: &mut String, title: &str, figure: &Figure) -> Result<(), Box<dyn std::error::Error>> {
    let height = HEADING_HEIGHT + BAR_HEIGHT * u32::try_from(figure.medians.len())?;
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    let font = ("sans-serif", 14).into_font().color(&BLACK);
    let better = match figure.metric.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
        Better::Neither => "for information",
    };
    let heading = format!("{title}: {}, {} ({better})", figure.metric.name, figure.metric.unit);
    root.draw(&Text::new(heading, (4, 8), font.clone()))?;
    let most = figure.medians.values().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut top = i32::try_from(HEADING_HEIGHT)?;
    for (&peer, &value) in &figure.medians {
        let end = BAR_START + (BAR_LENGTH * value / most) as i32;
        let bar = [(BAR_START, top), (end, top + 20)];
        root.draw(&Text::new(peer.name(), (4, top + 3), font.clone()))?;
        root.draw(&Rectangle::new(bar, colour(peer).filled()))?;
        root.draw(&Text::new(table::number(value), (end + 6, top + 3), font.clone()))?;
        top += i32::try_from(BAR_HEIGHT)?;
    }
    root.present()?;
    Ok(())
}

fn colour(peer: Peer) -> RGBColor {
    match peer {
        Peer::Bare => RGBColor(0x9a, 0x9a, 0x9a),
        Peer::Kernel => RGBColor(0x8f, 0xb0, 0x8c),
        Peer::Docker => RGBColor(0x6f, 0x9b, 0xc8),
        Peer::Overlay => RGBColor(0xd9, 0x7b, 0x29),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
