//! Tables that fit a terminal: where it is narrow, the columns that matter least are left out.
//!
//! Rule: widths are known before the first row, so that rows can be printed as they come. Not here: what is in them.

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    head: &'static str,
    width: usize,
    right: bool,
    /// The column with the lowest number goes first.
    weight: u8,
}

impl Column {
    /// Numbers.
    pub fn right(head: &'static str, width: usize, weight: u8) -> Self {
        Self { head, width: width.max(head.len()), right: true, weight }
    }

    /// Words.
    pub fn left(head: &'static str, width: usize, weight: u8) -> Self {
        Self { right: false, ..Self::right(head, width, weight) }
    }
}

/// A table of so many columns, some of which may be hidden.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(Column, bool)>,
}

impl Table {
    /// All columns.
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.iter().map(|column| (*column, true)).collect() }
    }

    /// Hides what does not fit; one column always stays.
    #[must_use]
    pub fn fit(mut self, width: usize) -> Self {
        let taken = |columns: &[(Column, bool)]| -> usize {
            columns.iter().filter(|(_, shown)| *shown).map(|(column, _)| column.width + 2).sum()
        };
        while taken(&self.columns) > width + 2 && self.columns.iter().filter(|(_, shown)| *shown).count() > 1 {
            let shown = self.columns.iter_mut().filter(|(_, shown)| *shown);
            if let Some(least) = shown.min_by_key(|(column, _)| column.weight) {
                least.1 = false;
            }
        }
        self
    }

    /// The first line.
    pub fn head(&self) -> String {
        self.line(&self.columns.iter().map(|(column, _)| column.head.to_owned()).collect::<Vec<_>>())
    }

    /// A line with a cell for every column, the hidden ones too.
    pub fn line(&self, cells: &[String]) -> String {
        let shown = self.columns.iter().zip(cells).filter(|((_, shown), _)| *shown);
        let cells = shown.map(|((column, _), cell)| {
            let width = column.width;
            if column.right { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_table_leaves_out_what_matters_least() {
        let table = Table::new(&[Column::left("name", 8, 9), Column::right("one", 5, 1), Column::right("two", 5, 5)]);
        let cells = ["a", "1", "2"].map(str::to_owned);
        assert_eq!(table.clone().fit(80).line(&cells), "a             1      2");
        assert_eq!(table.clone().fit(22).head(), "name        one    two");
        assert_eq!(table.clone().fit(21).line(&cells), "a             2");
        assert_eq!(table.fit(1).line(&cells), "a");
    }
}
