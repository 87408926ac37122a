//! Tables in the layout that scripts have parsed since 3.5: two header lines, one blank between columns, no frame.

use unicode_width::UnicodeWidthStr;

/// Rows under titles.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(titles: &[&'static str]) -> Self {
        Self { titles: titles.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| one_line(&cell)).collect();
        debug_assert_eq!(cells.len(), self.titles.len(), "a row has one cell per title");
        self.rows.push(cells);
    }

    /// The text of the table; without titles and rule when `bare`.
    pub(super) fn render(&self, bare: bool) -> String {
        let columns: Vec<_> = (0..self.titles.len()).map(|index| self.layout(index)).collect();
        let mut text = String::new();
        if !bare {
            push_line(
                &mut text,
                self.titles.iter().zip(&columns).map(|(title, c)| (title.to_string(), c.width)),
            );
            let rule = columns.iter().map(|c| c.width).sum::<usize>() + columns.len().saturating_sub(1);
            text.push_str(&"-".repeat(rule));
            text.push('\n');
        }
        for row in &self.rows {
            push_line(&mut text, row.iter().zip(&columns).map(|(cell, c)| (c.align(cell), c.width)));
        }
        text
    }

    fn layout(&self, index: usize) -> Column {
        let cells = || self.rows.iter().map(move |row| row[index].as_str());
        let before_point = cells().filter_map(integer_part).map(str::len).max().unwrap_or(0);
        let mut column = Column { before_point, width: self.titles[index].width() };
        column.width = cells().map(|cell| column.align(cell).width()).fold(column.width, usize::max);
        column
    }
}

struct Column {
    /// Digits (and sign) of the widest number before its decimal point.
    before_point: usize,
    width: usize,
}

impl Column {
    /// Numbers share a decimal point; everything else starts at the left.
    fn align(&self, cell: &str) -> String {
        let indent = integer_part(cell).map_or(0, |integer| self.before_point - integer.len());
        format!("{}{cell}", " ".repeat(indent))
    }
}

/// What stands before the decimal point, when the cell is a number.
fn integer_part(cell: &str) -> Option<&str> {
    let (integer, fraction) = cell.split_once('.').unwrap_or((cell, "0"));
    let digits = integer.strip_prefix('-').unwrap_or(integer);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (is_number(digits) && is_number(fraction)).then_some(integer)
}

fn push_line(text: &mut String, cells: impl Iterator<Item = (String, usize)>) {
    let start = text.len();
    for (index, (cell, width)) in cells.enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(&cell);
        text.push_str(&" ".repeat(width - cell.width()));
    }
    let kept = text[start..].trim_end_matches(' ').len();
    text.truncate(start + kept);
    text.push('\n');
}

/// One row is one line, whatever a name contains; nor may it drive the terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            escaped.into_iter().flatten().chain((!c.is_control()).then_some(c))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(titles: &[&'static str], rows: &[&[&str]]) -> String {
        let mut table = Table::new(titles);
        for row in rows {
            table.row(row.iter().map(|cell| cell.to_string()));
        }
        table.render(false)
    }

    #[test]
    fn image_lists_look_as_they_always_did() {
        let text = table(
            &["Id", "OSF", "Version", "Path", "Tags"],
            &[
                &["1", "1", "2012-03-05-000", "1-image.tgz", "2012-03-05-000, default"],
                &["12", "1", "2012-03-06-000", "12-image-new.tgz", "2012-03-06-000, head"],
            ],
        );
        let expected = "\
Id OSF Version        Path             Tags
--------------------------------------------------------------
 1 1   2012-03-05-000 1-image.tgz      2012-03-05-000, default
12 1   2012-03-06-000 12-image-new.tgz 2012-03-06-000, head
";
        assert_eq!(text, expected);
    }

    #[test]
    fn numbers_share_a_point_and_the_block_starts_at_the_left() {
        let text = table(
            &["Id", "Name", "RAM", "Overlay", "UserHD"],
            &[&["1", "osf1", "256", "yes", "-"], &["4", "myOSF", "1024", "no", "2147483648"]],
        );
        let expected = "\
Id Name  RAM  Overlay UserHD
--------------------------------
1  osf1   256 yes     -
4  myOSF 1024 no      2147483648
";
        assert_eq!(text, expected);
        let mixed = table(&["Value"], &[&["-0.5"], &["16172.48"], &["7"], &["1.2.3"], &[".5"], &["-"]]);
        assert_eq!(mixed, "Value\n--------\n   -0.5\n16172.48\n    7\n1.2.3\n.5\n-\n");
    }

    #[test]
    fn a_trailing_blank_of_a_title_shows_as_one_more_blank() {
        let text = table(
            &["Id", "Name", "HTTP Requests ", "Auth attempts"],
            &[&["1", "qvd-test3", "168", "84"], &["2", "qvd-test4", "275", "122"]],
        );
        let expected = "\
Id Name      HTTP Requests  Auth attempts
-----------------------------------------
1  qvd-test3 168             84
2  qvd-test4 275            122
";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_empty_list_has_exactly_its_two_header_lines() {
        assert_eq!(table(&["Id", "Login"], &[]), "Id Login\n--------\n");
        assert_eq!(Table::new(&["Id", "Login"]).render(true), "");
    }

    #[test]
    fn width_is_that_of_the_display_and_a_row_is_one_line() {
        let text = table(&["Id", "Name", "X"], &[&["1", "日本", "x"], &["2", "a\nb\u{1b}[2J", "y"]]);
        assert_eq!(
            text,
            "Id Name          X\n------------------\n1  日本          x\n2  a\\nb\\u{1b}[2J y\n"
        );
    }
}
