//! The one place that knows tables, JSON and colour.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, Table, presets::NOTHING};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::CliError;

/// Between two columns.
const GAP: u16 = 2;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs: the answers of the API
    Json,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    format: Format,
    style: Style,
}

impl Output {
    /// The standard output, with colour if a terminal shows it.
    pub(super) fn new(format: Format) -> Self {
        Self { format, style: Style { colour: wants_colour() } }
    }

    /// Prints an answer in the chosen format.
    pub(super) fn print(
        self,
        answer: &impl Serialize,
        human: impl FnOnce(Style) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Table => write(&human(self.style)),
            Format::Json => self.json(answer),
        }
    }

    /// Whether two answers look different. As JSON, all of them is shown.
    pub(super) fn shows_otherwise<T>(self, a: &T, b: &T, human: impl Fn(&T, Style) -> String) -> bool {
        self.format == Format::Json || human(a, self.style) != human(b, self.style)
    }

    /// Prints an answer as JSON in either format.
    pub(super) fn json(self, answer: &impl Serialize) -> Result<(), CliError> {
        write(&format!("{}\n", serde_json::to_string_pretty(answer).map_err(io::Error::from)?))
    }

    /// Whether a later result may take the place of an earlier one.
    pub(super) fn redraws(self) -> bool {
        self.format == Format::Table && is_terminal()
    }

    /// Prints a result in the place of whatever the terminal shows.
    pub(super) fn redraw(self, text: &str) -> Result<(), CliError> {
        const HOME: &str = "\x1b[H";
        const CLEAR_LINE: &str = "\x1b[K";
        const CLEAR_BELOW: &str = "\x1b[J";
        write(&format!("{HOME}{}{CLEAR_BELOW}", text.replace('\n', &format!("{CLEAR_LINE}\n"))))
    }

    /// How text is laid out there.
    pub(super) fn style(self) -> Style {
        self.style
    }

    /// Prints what the API has no answer for: programs have the exit code.
    pub(super) fn say(self, text: &str) -> Result<(), CliError> {
        match self.format {
            Format::Table => write(text),
            Format::Json => Ok(()),
        }
    }
}

fn write(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// See <https://no-color.org>.
fn wants_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal() && !refused
}

/// A terminal that understands more than text.
fn is_terminal() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    io::stdout().is_terminal() && !dumb
}

/// How text is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) colour: bool,
}

impl Style {
    /// Aligned columns without borders; only the header if there are no rows.
    pub(super) fn table<R: IntoIterator<Item: Into<Text>>>(
        self,
        header: impl IntoIterator<Item = impl Into<String>>,
        rows: impl IntoIterator<Item = R>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).force_no_tty();
        if self.colour {
            table.enforce_styling();
        }
        table.set_header(
            header.into_iter().map(|title| Cell::new(title.into()).add_attribute(Attribute::Bold)),
        );
        table.add_rows(
            rows.into_iter().map(|row| row.into_iter().map(|text| cell(&text.into())).collect::<Vec<_>>()),
        );
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// Lines `name: value`, the values aligned.
    pub(super) fn fields(self, fields: &[Field]) -> String {
        let width = 1 + fields.iter().map(|field| field.name.len()).max().unwrap_or_default();
        let line =
            |field: &Field| format!("{:width$} {}\n", format!("{}:", field.name), self.value(&field.value));
        fields.iter().map(line).collect()
    }

    fn value(self, value: &Text) -> String {
        let text = printable(&value.text);
        match value.tone {
            Tone::Good if self.colour => text.green().to_string(),
            Tone::Bad if self.colour => text.red().to_string(),
            _ => text,
        }
    }
}

/// Text, and whether it is good or bad news.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    text: String,
    tone: Tone,
}

#[derive(Clone, Copy, Debug, Default)]
enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl Text {
    /// All is well.
    pub(super) fn good(self) -> Self {
        Self { tone: Tone::Good, ..self }
    }

    /// Somebody should look at this.
    pub(super) fn bad(self) -> Self {
        Self { tone: Tone::Bad, ..self }
    }
}

fn cell(Text { text, tone }: &Text) -> Cell {
    let cell = Cell::new(printable(text));
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Bad => cell.fg(Color::Red),
    }
}

/// A line of [`Style::fields`].
#[derive(Clone, Debug)]
pub(super) struct Field {
    name: &'static str,
    value: Text,
}

/// A line of [`Style::fields`] in no colour.
pub(super) fn field(name: &'static str, value: &dyn Display) -> Field {
    Field { name, value: value.to_string().into() }
}

impl Field {
    /// All is well.
    pub(super) fn good(self) -> Self {
        Self { value: self.value.good(), ..self }
    }

    /// Somebody should look at this.
    pub(super) fn bad(self) -> Self {
        Self { value: self.value.bad(), ..self }
    }
}

/// Text that no terminal takes for a command and that stays on one line: labels and paths are free text.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

pub(super) fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

pub(super) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A length of time in its largest unit and the next: `42s`, `5m10s`, `3h20m`, `12d4h`.
pub(super) fn age(time: Duration) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let seconds = time.as_secs();
    let Some(largest) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".to_owned() };
    let (unit, letter) = UNITS[largest];
    let next = UNITS.get(largest + 1).map(|(next, letter)| (seconds % unit / next, letter));
    let rest = next.filter(|(count, _)| *count > 0).map(|(count, letter)| format!("{count}{letter}"));
    format!("{}{letter}{}", seconds / unit, rest.unwrap_or_default())
}
