//! Versions that nobody gave: the day and a number.

use std::collections::HashSet;

/// Today by the local calendar.
pub(super) fn today() -> String {
    jiff::Zoned::now().date().to_string()
}

/// The first of `<day>-000` … `<day>-999` that is not taken.
pub(super) fn first_free(day: &str, taken: &HashSet<String>) -> Option<String> {
    (0..1000).map(|number| format!("{day}-{number:03}")).find(|version| !taken.contains(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_at_zero_and_gaps_are_filled() {
        let day = "2013-08-05";
        let taken = |numbers: &[u32]| numbers.iter().map(|n| format!("{day}-{n:03}")).collect::<HashSet<_>>();
        assert_eq!(first_free(day, &taken(&[])).unwrap(), "2013-08-05-000");
        assert_eq!(first_free(day, &taken(&[0, 1, 3])).unwrap(), "2013-08-05-002");
        assert_eq!(first_free(day, &taken(&(0..1000).collect::<Vec<_>>())), None);
    }

    #[test]
    fn today_is_written_as_year_month_day() {
        let today = today();
        assert_eq!((today.len(), today.matches('-').count()), (10, 2), "{today}");
    }
}
