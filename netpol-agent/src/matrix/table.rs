// SPDX-License-Identifier: Apache-2.0
//! Renders the matrix for a terminal: a row for each source, a numbered column for each
//! destination.

use std::fmt;

use super::{Grid, Matrix};

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pods.is_empty() {
            return writeln!(f, "no pods that run, have an address and a network of their own");
        }
        writeln!(
            f,
            "A row is a source, a column the destination of that number. + allowed, . denied, - the pod itself or no address."
        )?;
        let mut grids = self.grids.iter().peekable();
        while let Some(grid) = grids.next() {
            let mut families = grid.family.name().to_owned();
            if let Some(other) = grids.next_if(|next| next.port == grid.port && next.cells == grid.cells) {
                families = format!("{families} and {}", other.family.name());
            }
            writeln!(f, "\n{} {families}", grid.port)?;
            self.write_grid(f, grid)?;
        }
        Ok(())
    }
}

impl Matrix {
    fn write_grid(&self, f: &mut fmt::Formatter<'_>, grid: &Grid) -> fmt::Result {
        let names: Vec<String> = self.pods.iter().map(ToString::to_string).collect();
        let digits = names.len().to_string().len();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        write!(f, "{:>digits$} {:width$}", "", "")?;
        for number in 1..=names.len() {
            write!(f, " {number:>digits$}")?;
        }
        writeln!(f)?;
        for (index, (name, row)) in names.iter().zip(&grid.cells).enumerate() {
            write!(f, "{:>digits$} {name:width$}", index + 1)?;
            for cell in row {
                let sign = match cell {
                    None => '-',
                    Some(true) => '+',
                    Some(false) => '.',
                };
                write!(f, " {sign:>digits$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
