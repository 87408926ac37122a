//! "Did you mean": the known name nearest to a mistyped one.

/// The candidate nearest to `typed`, if one is near enough to be what was meant. Between equally near
/// ones the first wins.
pub(super) fn nearest<'a>(typed: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (typed.len() / 6).clamp(1, 3);
    candidates
        .filter(|candidate| candidate.len().abs_diff(typed.len()) <= limit)
        .map(|candidate| (distance(&typed.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters to insert, remove, change or swap with their neighbour to come from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut before_last = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; width];
        for j in 1..width {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("abc", "ac", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["l7r.port", "l7r.use_ssl", "path.storage.images"];
        let suggest = |typed| nearest(typed, names.into_iter());
        assert_eq!(suggest("l7r.prot"), Some("l7r.port"));
        assert_eq!(suggest("L7R.Port"), Some("l7r.port"));
        assert_eq!(suggest("path.storage.imags"), Some("path.storage.images"));
        assert_eq!(suggest("myproperty"), None);
        assert_eq!(suggest(""), None);
    }
}
