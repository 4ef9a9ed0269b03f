//! A table for a terminal.
//!
//! Rule: no line is longer than the width, whatever is in it; columns give up width first, then the last of them go.

/// A table that fits its width: columns that may shrink do so first, then the last columns are left out.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row; control characters in names become `?`.
    pub fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.into_iter().map(super::printable).collect());
    }

    /// The lines, none of them longer than `width`; `flexible` columns may be cut.
    pub fn fit(&self, width: usize, flexible: &[usize]) -> String {
        /// A column that is cut further says nothing: then the last one goes.
        const LEAST: usize = 16;
        /// Between columns.
        const GAP: usize = 2;
        let columns = self.rows.iter().map(Vec::len).min().unwrap_or(0);
        let longest = |n: usize| self.rows.iter().map(|row| console::measure_text_width(&row[n])).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..columns).map(longest).collect();
        let gaps = |columns: usize| GAP * columns.saturating_sub(1);
        let least = |n: usize, w: usize| if flexible.contains(&n) { w.min(LEAST) } else { w };
        while widths.len() > 1
            && widths.iter().enumerate().map(|(n, w)| least(n, *w)).sum::<usize>() + gaps(widths.len()) > width
        {
            widths.pop();
        }
        while let Some(over) = (widths.iter().sum::<usize>() + gaps(widths.len())).checked_sub(width).filter(|o| *o > 0)
        {
            // The widest gives, so that two long ones end alike.
            match (0..widths.len()).filter(|n| flexible.contains(n) && widths[*n] > LEAST).max_by_key(|n| widths[*n]) {
                Some(n) => widths[n] = LEAST.max(widths[n] - over.min(widths[n].div_ceil(8))),
                None => widths = vec![width],
            }
        }
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = widths
                .iter()
                .zip(row)
                .map(|(width, cell)| console::pad_str(cell, *width, console::Alignment::Left, Some("~")).into_owned())
                .collect();
            cells.join(&" ".repeat(GAP)).trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}
