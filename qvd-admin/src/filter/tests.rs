use super::*;

struct Image {
    id: i64,
    path: &'static str,
    tags: Vec<(&'static str, bool)>,
    flavour: Option<&'static str>,
    properties: Vec<(&'static str, &'static str)>,
}

impl Fields for Image {
    fn keys() -> &'static Keys {
        &DI_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        match key {
            "id" => Value::Integer(self.id),
            "path" => Value::text(Some(self.path)),
            "osf" => Value::text(self.flavour),
            "tag" => Value::AnyOf(self.tags.iter().map(|(tag, _)| Value::text(Some(tag))).collect()),
            "fixed" => Value::AnyOf(self.tags.iter().map(|(_, fixed)| Value::Flag(*fixed)).collect()),
            _ => Value::Null,
        }
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.properties.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
}

fn image() -> Image {
    Image {
        id: 17,
        path: "17-a,b*%_.img",
        tags: vec![("2013-08-05-000", true), ("head", false)],
        flavour: None,
        properties: vec![("room", "12"), ("empty", "")],
    }
}

fn accepts(text: &str) -> bool {
    Filter::parse(text, &DI_KEYS).unwrap().matches(&image())
}

#[test]
fn terms_join_by_and_and_repeat_without_losing_any() {
    assert!(accepts("id=17,tag=head"));
    assert!(!accepts("id=17,tag=default"));
    assert!(accepts("tag=head,tag=2013*"), "each term may be met by another tag");
    assert!(!accepts("id=17,id=18"));
    let both = Filter::parse("id=17", &DI_KEYS).unwrap().and(Filter::parse("tag=nope", &DI_KEYS).unwrap());
    assert!(!both.matches(&image()));
}

#[test]
fn wildcards_match_like_sql_and_percent_is_a_plain_character() {
    for (filter, expected) in [
        ("tag=h*", true),
        ("tag=h??d", true),
        ("tag=h?d", false),
        ("tag=*", true),
        ("tag=**d", true),
        ("tag=HEAD", false),
        ("tag= head", false),
        ("path=17-a\\,b\\*%_.img", true),
        ("path=17%", false),
        ("path=17-a\\,*_.img", true),
        ("path=*img*.img", false),
        ("id=1?", true),
        ("id=*7", true),
        ("id=2*", false),
    ] {
        assert_eq!(accepts(filter), expected, "{filter}");
    }
}

#[test]
fn an_escape_stands_for_the_character_and_any_other_backslash_for_itself() {
    let row = Image { path: "a\\b\\", ..image() };
    for (filter, expected) in
        [("path=a\\b\\", true), ("path=a\\\\b\\\\", true), ("path=a?b?", true), ("path=a\\?b\\", false)]
    {
        let filter = Filter::parse(filter, &DI_KEYS).unwrap();
        assert_eq!(filter.matches(&row), expected, "{filter:?}");
    }
}

#[test]
fn empty_values_never_widen_a_selection() {
    assert!(!accepts("tag="), "an unset shell variable must select nothing");
    assert!(!accepts("id="));
    assert!(!accepts("fixed="));
    assert!(!accepts("path="));
    assert!(accepts("property.empty="));
    assert!(!accepts("property.absent="));
    assert!(Filter::parse("", &DI_KEYS).unwrap().is_all());
    assert!(!Filter::parse("id=*", &DI_KEYS).unwrap().is_all(), "a condition that all meet is still one");
}

#[test]
fn nothing_matches_null() {
    assert!(!accepts("osf=*"));
    assert!(!accepts("osf="));
}

#[test]
fn flags_take_every_old_spelling() {
    for yes in ["1", "t", "TRUE", "yes", "y", "On"] {
        assert!(accepts(&format!("fixed={yes}")), "{yes}");
    }
    for no in ["0", "F", "false", "no", "n", "OFF"] {
        assert!(accepts(&format!("fixed={no}")), "one of the tags is not fixed: {no}");
    }
}

#[test]
fn properties_are_found_by_name_and_pattern() {
    assert!(accepts("property.room=1?,property.empty=*"));
    assert!(!accepts("property.room=13"));
    assert!(Filter::parse("property.a=b", &DI_KEYS).unwrap().asks_for_properties());
    assert!(!Filter::parse("id=1", &DI_KEYS).unwrap().asks_for_properties());
}

#[test]
fn what_is_no_filter_says_why() {
    for (text, message) in [
        ("head", "Syntax error: undefined value for key: 'head'"),
        ("id=1,", "Syntax error: undefined value for key: ''"),
        ("id=x", "invalid value 'x' for filter key 'id': integer expected"),
        ("fixed=maybe", "invalid value 'maybe' for filter key 'fixed': boolean expected"),
        (
            "colour=red",
            "unknown filter key 'colour' for di (valid keys: id, osf_id, osf, path, version, format, tag, fixed, property.KEY)",
        ),
    ] {
        assert_eq!(Filter::parse(text, &DI_KEYS).unwrap_err().to_string(), message);
    }
    assert!(
        Filter::parse("id=1,id=1=2", &DI_KEYS).is_err(),
        "split at the first =, then '1=2' is no integer"
    );
}

#[test]
fn no_key_or_alias_is_declared_twice() {
    for keys in [&HOST_KEYS, &OSF_KEYS, &DI_KEYS, &USER_KEYS, &VM_KEYS] {
        let mut names: Vec<_> = keys.names().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{}", keys.object);
    }
}

#[test]
fn a_pattern_that_would_explode_in_a_backtracking_matcher_ends() {
    let text = "a".repeat(5_000);
    assert!(
        !pattern::Pattern::parse(&"a*".repeat(200)).matches(&format!("{text}b{text}c").replace('a', "b"))
    );
    assert!(!pattern::Pattern::parse(&format!("{}b", "*a".repeat(200))).matches(&text));
}
