//! Tables and values for people.

use serde_json::Value;

/// A column: its head, and the function that makes its cells.
pub type Column<'a> = (&'a str, &'a dyn Fn(&Value) -> Cell);

/// Content of a cell.
pub enum Cell {
    /// A text, aligned left.
    Text(String),
    /// A number, aligned right.
    Number(String),
}

/// Returns a cell with a text, or - where there is none.
pub fn text(value: &Value) -> Cell {
    Cell::Text(plain(value))
}

/// Returns a cell with a number, or - where there is none.
pub fn number(value: &Value) -> Cell {
    Cell::Number(plain(value))
}

/// Returns a cell with a size in bytes.
pub fn size(value: &Value) -> Cell {
    Cell::Number(value.as_u64().map_or_else(|| plain(value), bytes))
}

/// Returns a cell with a time in milliseconds, to the second.
pub fn time(value: &Value) -> Cell {
    Cell::Number(value.as_u64().map_or_else(|| plain(value), duration))
}

/// Formats bytes like 1.5 MiB.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut at) = (count as f64, 0);
    while amount >= 1024.0 && at + 1 < units.len() {
        amount /= 1024.0;
        at += 1;
    }
    let unit = units.get(at).copied().unwrap_or_default();
    if at == 0 { format!("{count} {unit}") } else { format!("{amount:.1} {unit}") }
}

/// Formats milliseconds like 2h 5m 1s.
pub fn duration(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(ms / 1000)).to_string()
}

/// Returns a value as a text that is safe for a terminal.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => harmless(text),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Escapes the control characters of a text.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Formats rows below a head, as wide as they need to be.
pub fn table(columns: &[Column<'_>], items: &[Value]) -> String {
    if items.is_empty() {
        return "none\n".to_owned();
    }
    let rows: Vec<Vec<Cell>> =
        items.iter().map(|item| columns.iter().map(|(_, cell)| cell(item)).collect()).collect();
    let wide = |cell: &Cell| match cell {
        Cell::Text(text) | Cell::Number(text) => text.chars().count(),
    };
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, (head, _))| {
            let most = rows.iter().filter_map(|row| row.get(at)).map(wide).max().unwrap_or(0);
            most.max(head.len())
        })
        .collect();
    let mut out = String::new();
    let to_the_right = |at: usize| matches!(rows.first().and_then(|row| row.get(at)), Some(Cell::Number(_)));
    let head: Vec<String> = columns
        .iter()
        .zip(&widths)
        .enumerate()
        .map(
            |(at, ((head, _), width))| {
                if to_the_right(at) { format!("{head:>width$}") } else { format!("{head:<width$}") }
            },
        )
        .collect();
    let mut line = |cells: Vec<String>| {
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    };
    line(head);
    for row in &rows {
        line(
            row.iter()
                .zip(&widths)
                .map(|(cell, width)| match cell {
                    Cell::Text(text) => format!("{text:<width$}"),
                    Cell::Number(text) => format!("{text:>width$}"),
                })
                .collect(),
        );
    }
    out
}

/// Names and values, one pair a line.
#[derive(Default)]
pub struct Sheet(Vec<(&'static str, String)>);

impl Sheet {
    pub fn line(&mut self, name: &'static str, cell: Cell) {
        match cell {
            Cell::Text(text) | Cell::Number(text) => self.0.push((name, text)),
        }
    }

    pub fn say(&mut self, name: &'static str, text: &str) {
        self.0.push((name, text.to_owned()));
    }

    pub fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.0.iter().map(|(name, text)| format!("{name:<width$}  {text}\n")).collect()
    }
}
