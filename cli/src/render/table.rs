//! Tables of left-aligned columns, two spaces apart, with nothing behind the last one: easy on the eye and on `awk`.

use std::fmt::Write as _;

/// A colour that stresses what a word says already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// On the way, or not known.
    Waiting,
    /// Needs a look.
    Bad,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Waiting => "33",
            Self::Bad => "31",
        }
    }
}

/// The content of one field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// Without colour. Line breaks and other controls become spaces: a cell is one line, whoever wrote its text.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        let text = if text.chars().any(char::is_control) {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        } else {
            text
        };
        Self { text, tone: None }
    }

    /// With colour.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { tone: Some(tone), ..Self::plain(text) }
    }
}

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[Cell; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table with this heading.
    pub(crate) fn new(heading: [&str; COLUMNS]) -> Self {
        Self { rows: vec![heading.map(Cell::plain)] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, row: [Cell; COLUMNS]) {
        self.rows.push(row);
    }

    /// The whole table.
    pub(crate) fn render(&self, colour: bool) -> String {
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or_default()
        });
        let mut text = String::new();
        for row in &self.rows {
            let last = row.iter().rposition(|cell| !cell.text.is_empty());
            for (column, cell) in row.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
                match cell.tone.filter(|_| colour) {
                    Some(tone) => {
                        let _ = write!(text, "\u{1b}[{}m{}\u{1b}[0m", tone.code(), cell.text);
                    }
                    None => text.push_str(&cell.text),
                }
                if Some(column) != last {
                    let gap = widths[column] - cell.text.chars().count() + 2;
                    text.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_stands_behind_the_last() {
        let mut table = Table::new(["NAME", "PHASE", "NOTE"]);
        table.row([Cell::plain("a-long-name"), Cell::toned("Running", Tone::Good), Cell::plain("")]);
        table.row([Cell::plain("b"), Cell::plain("x"), Cell::plain("two\nlines")]);
        insta::assert_snapshot!(table.render(false), @r"
        NAME         PHASE    NOTE
        a-long-name  Running
        b            x        two lines
        ");
        assert!(table.render(false).lines().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn colour_does_not_move_the_columns() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::toned("ok", Tone::Good), Cell::plain("x")]);
        let coloured = table.render(true);
        assert!(coloured.contains("\u{1b}[32mok\u{1b}[0m  x"), "{coloured:?}");
    }
}
