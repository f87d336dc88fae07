// SPDX-License-Identifier: Apache-2.0
//! Renders the matrix as one page, without external resources or scripts.

use super::{Grid, Matrix};
use crate::model::ObjectKey;

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#656d76;--line:#d8dee4;--head:#f6f8fa;--yes:#2da44e;--no:#f3d3d1;--mark:#fff8c5}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--dim:#8b949e;--line:#30363d;--head:#161b22;--yes:#2ea043;--no:#4c2626;--mark:#3b3213}}
*{box-sizing:border-box}
body{margin:0;padding:1rem 1.25rem;background:var(--bg);color:var(--fg);font:14px/1.4 system-ui,sans-serif}
h1{font-size:1.25rem;margin:0 0 .25rem}h2{font-size:1rem;margin:1.5rem 0 .5rem}
p{margin:.25rem 0;color:var(--dim)}nav a{margin-right:.75rem;color:inherit}
.key{display:inline-block;width:1em;height:1em;vertical-align:-.15em;margin:0 .3em 0 .8em;border:1px solid var(--line)}
.scroll{overflow:auto;max-height:85vh;border:1px solid var(--line);width:fit-content;max-width:100%}
table{border-collapse:separate;border-spacing:0;font:12px/1 ui-monospace,monospace}
th{background:var(--head);font-weight:400;text-align:left;white-space:nowrap}
thead th{position:sticky;top:0;z-index:2;vertical-align:bottom;border-bottom:1px solid var(--line);padding:.4em 0}
thead th span{writing-mode:vertical-rl;transform:rotate(180deg);padding:0 .25em}
tbody th{position:sticky;left:0;z-index:1;border-right:1px solid var(--line);padding:.35em .6em}
thead th:first-child{left:0;z-index:3;border-right:1px solid var(--line);padding:.4em .6em;color:var(--dim)}
td{min-width:1.7em;height:1.7em;text-align:center;border-right:1px solid var(--line);border-bottom:1px solid var(--line)}
tbody th{border-bottom:1px solid var(--line)}
tr.new td,tr.new th{border-top:2px solid var(--dim)}td.new,th.new{border-left:2px solid var(--dim)}
.y{background:var(--yes);color:#fff}.n{background:var(--no)}
tbody tr:hover th{background:var(--mark)}tbody tr:hover td{box-shadow:inset 0 1px var(--dim),inset 0 -1px var(--dim)}
";

/// Renders the page.
pub(super) fn page(matrix: &Matrix) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Who reaches whom</title>\n<style>\n{STYLE}</style>\n<h1>Who reaches whom</h1>\n\
         <p>{} pods. A row is the source, a column the destination.\
         <span class=\"key y\"></span>+ allowed<span class=\"key n\"></span>denied<span class=\"key\"></span>the pod itself, or no address</p>\n<nav>",
        matrix.pods.len()
    );
    let sections: Vec<Section<'_>> = Section::all(matrix);
    for (index, section) in sections.iter().enumerate() {
        page += &format!(
            "<a href=\"#t{index}\">{}</a>",
            escaped(&section.title(&matrix.pods))
        );
    }
    page += "</nav>\n";
    for (index, section) in sections.iter().enumerate() {
        page += &format!(
            "<h2 id=\"t{index}\">{}</h2>\n",
            escaped(&section.title(&matrix.pods))
        );
        write_table(&mut page, &matrix.pods, section.grid);
    }
    page
}

/// A grid and the families that it applies to.
struct Section<'a> {
    grid: &'a Grid,
    families: String,
}

impl<'a> Section<'a> {
    fn all(matrix: &'a Matrix) -> Vec<Self> {
        let mut sections: Vec<Self> = Vec::new();
        for grid in &matrix.grids {
            match sections.last_mut() {
                Some(last) if last.grid.port == grid.port && last.grid.cells == grid.cells => {
                    last.families += " and ";
                    last.families += grid.family.name();
                }
                _ => sections.push(Self {
                    grid,
                    families: grid.family.name().to_owned(),
                }),
            }
        }
        sections
    }

    fn title(&self, pods: &[ObjectKey]) -> String {
        let cells = self.grid.cells.iter().flatten().flatten();
        let allowed = cells.clone().filter(|allowed| **allowed).count();
        let pairs = if pods.is_empty() { 0 } else { cells.count() };
        format!(
            "{} {} ({allowed} of {pairs} pairs allowed)",
            self.grid.port, self.families
        )
    }
}

fn write_table(page: &mut String, pods: &[ObjectKey], grid: &Grid) {
    let is_new = |index: usize| index > 0 && pods[index].namespace != pods[index - 1].namespace;
    *page += "<div class=\"scroll\"><table>\n<thead><tr><th>from \\ to</th>";
    for (index, pod) in pods.iter().enumerate() {
        let class = if is_new(index) { " class=\"new\"" } else { "" };
        *page += &format!(
            "<th scope=\"col\"{class}><span>{}</span></th>",
            escaped(&pod.to_string())
        );
    }
    *page += "</tr></thead>\n<tbody>\n";
    for (index, (pod, row)) in pods.iter().zip(&grid.cells).enumerate() {
        let class = if is_new(index) { " class=\"new\"" } else { "" };
        *page += &format!("<tr{class}><th scope=\"row\">{}</th>", escaped(&pod.to_string()));
        for (column, cell) in row.iter().enumerate() {
            let new = if is_new(column) { "new " } else { "" };
            *page += &match cell {
                None if new.is_empty() => "<td></td>".to_owned(),
                None => "<td class=\"new\"></td>".to_owned(),
                Some(true) => format!("<td class=\"{new}y\">+</td>"),
                Some(false) => format!("<td class=\"{new}n\"></td>"),
            };
        }
        *page += "</tr>\n";
    }
    *page += "</tbody></table></div>\n";
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{Family, Port};

    #[test]
    fn names_are_escaped_and_nothing_is_fetched() {
        let matrix = Matrix {
            revision: 1,
            pods: vec![ObjectKey::new("a", "<b>&\"x"), ObjectKey::new("b", "y")],
            grids: vec![Grid {
                port: Port::Icmp,
                family: Family::Ipv4,
                cells: vec![vec![None, Some(true)], vec![Some(false), None]],
            }],
        };
        let page = page(&matrix);
        assert!(page.contains("a/&lt;b&gt;&amp;&quot;x") && !page.contains("<b>"));
        assert!(page.contains("icmp IPv4 (1 of 2 pairs allowed)"));
        assert!(!page.contains("http") && !page.contains("src=") && !page.contains("url("));
    }
}
