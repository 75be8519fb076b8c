//! How answers are printed: aligned tables for people, JSON and YAML for programs.
//!
//! Tables have no borders; titles are bold and headers dim, on a terminal only and never when `NO_COLOR` is set.
//! On a terminal long cells wrap to its width, elsewhere every row stays on its line.

use crate::cli::Format;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Whether there is someone to enjoy colours, and a width to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    terminal: bool,
    colour: bool,
}

impl Style {
    /// For a file or a pipe.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { terminal: false, colour: false };

    /// As standard output and the environment ask for (https://no-color.org).
    pub(crate) fn detect() -> Self {
        let terminal = io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self { terminal, colour: terminal && !refused }
    }

    /// Of what went well.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Of what went wrong.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Of titles.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Of what matters less.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// An answer that could not be printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("cannot write the answer: {0}")]
    Io(#[from] io::Error),
    #[error("cannot write the answer as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the answer as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// Prints an answer to standard output; `tables` renders it for people.
pub(crate) fn print<T: Serialize>(
    answer: &T,
    format: Format,
    tables: impl FnOnce(&T, Style) -> String,
) -> Result<(), OutputError> {
    let text = match format {
        Format::Table => tables(answer, Style::detect()),
        Format::Json => serde_json::to_string_pretty(answer)? + "\n",
        Format::Yaml => serde_saphyr::to_string(answer)?,
    };
    write(&text)
}

/// Writes a text to standard output.
pub(crate) fn write(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads it has seen enough (`| head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// A table with a title. Without rows nothing is printed.
pub(crate) struct Listing {
    title: String,
    columns: usize,
    table: Table,
    style: Style,
}

impl Listing {
    /// `columns` are the headers; those that begin with `>` are aligned to the right.
    pub(crate) fn new(title: &str, columns: &[&str], style: Style) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if style.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        table.set_header(columns.iter().map(|name| {
            let cell = Cell::new(name.trim_start_matches('>'));
            if style.colour { cell.add_attribute(Attribute::Dim) } else { cell }
        }));
        for (at, name) in columns.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_padding((if at == 0 { 2 } else { 0 }, 2));
                if name.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { title: title.to_owned(), columns: columns.len(), table, style }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns, "a cell a column");
        self.table.add_row(cells);
    }

    /// A table without title, indented, with an empty line after it.
    pub(crate) fn rows(columns: &[&str], rows: Vec<Vec<String>>, style: Style) -> String {
        let mut listing = Self::new("", columns, style);
        for row in rows {
            listing.table.add_row(row);
        }
        let text = listing.render();
        text.lines()
            .skip(1)
            .map(|line| if line.is_empty() { "\n".to_owned() } else { format!(" {line}\n") })
            .collect()
    }

    /// The title and the table, with an empty line after it.
    pub(crate) fn render(self) -> String {
        if self.table.row_count() == 0 {
            return String::new();
        }
        let mut text = self.style.bold(&self.title) + "\n";
        for line in self.table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.push('\n');
        text
    }
}

/// The first few, one a line, and how many there are more.
pub(crate) fn lines(items: impl ExactSizeIterator<Item = String>, most: usize) -> String {
    shorten(items, most, "\n")
}

/// The first few with commas, and how many there are more.
pub(crate) fn list(items: impl ExactSizeIterator<Item = String>, most: usize) -> String {
    shorten(items, most, ", ")
}

fn shorten(items: impl ExactSizeIterator<Item = String>, most: usize, between: &str) -> String {
    let count = items.len();
    // One more that fits is better than "and 1 more".
    if count <= most + 1 {
        return items.collect::<Vec<_>>().join(between);
    }
    let mut shown: Vec<String> = items.take(most).collect();
    shown.push(format!("and {} more", count - most));
    shown.join(between)
}

/// A value, or a dash.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let mut listing = Listing::new("Pods", &["NAME", ">PORTS"], Style::PLAIN);
        listing.row(["shop/web".to_owned(), "3".to_owned()]);
        listing.row(["a".to_owned(), "12".to_owned()]);
        assert_eq!(listing.render(), "Pods\n  NAME      PORTS\n  shop/web      3\n  a            12\n\n");
    }

    #[test]
    fn an_empty_table_is_not_printed() {
        assert_eq!(Listing::new("Pods", &["NAME"], Style::PLAIN).render(), "");
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let items = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().into_iter();
        assert_eq!(list(items(4), 3), "0, 1, 2, 3");
        assert_eq!(list(items(5), 3), "0, 1, 2, and 2 more");
    }
}
