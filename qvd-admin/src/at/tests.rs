use jiff::Zoned;

use super::parse;

fn monday_night() -> Zoned {
    "2013-08-05T23:34:27[UTC]".parse().unwrap()
}

#[test]
fn the_fifty_examples_of_the_manual() {
    let now = monday_night();
    for (text, expected) in EXAMPLES {
        let got = parse(text, &now).map(|t| t.to_string());
        assert_eq!(got.as_deref(), Ok(format!("{expected}:00Z").as_str()), "{text}");
    }
}

#[test]
fn a_text_outside_the_language_is_refused_with_its_text() {
    let now = monday_night();
    for text in INVALID {
        assert!(parse(text, &now).is_err(), "'{text}' was taken for {:?}", parse(text, &now));
    }
    assert_eq!(parse("foo", &now).unwrap_err().to_string(), "invalid datetime specification 'foo'");
}

#[test]
fn utc_counts_in_utc_whatever_the_zone() {
    let madrid: Zoned = "2013-08-05T23:34:00[Europe/Madrid]".parse().unwrap();
    let at = parse("17:00 UTC", &madrid).unwrap();
    assert_eq!(at.to_string(), "2013-08-06T17:00:00Z");
    let local = parse("17:00", &madrid).unwrap();
    assert_eq!(local.to_string(), "2013-08-06T15:00:00Z");
}

#[test]
fn hours_are_elapsed_time_and_days_are_calendar_days_across_a_change_of_the_clocks() {
    let before: Zoned = "2013-10-26T12:00:00[Europe/Madrid]".parse().unwrap();
    assert_eq!(parse("now + 1 day", &before).unwrap().to_string(), "2013-10-27T11:00:00Z");
    assert_eq!(parse("now + 24 hours", &before).unwrap().to_string(), "2013-10-27T10:00:00Z");
}

#[test]
fn exact_forms_beyond_the_old_language() {
    let madrid: Zoned = "2013-08-05T23:34:00[Europe/Madrid]".parse().unwrap();
    for (text, expected) in [
        ("2013-08-10T12:00:00Z", "2013-08-10T12:00:00Z"),
        ("2013-08-10T12:00:00+02:00", "2013-08-10T10:00:00Z"),
        ("2013-08-10 12:00", "2013-08-10T10:00:00Z"),
        ("2013-08-10 12:00:30", "2013-08-10T10:00:30Z"),
    ] {
        assert_eq!(parse(text, &madrid).unwrap().to_string(), expected, "{text}");
    }
}

#[test]
fn february_29_needs_a_leap_year() {
    let leap: Zoned = "2015-12-01T00:00:00[UTC]".parse().unwrap();
    assert_eq!(parse("Feb 29", &leap).unwrap().to_string(), "2016-02-29T00:00:00Z");
    let eve: Zoned = "2016-02-29T10:00:00[UTC]".parse().unwrap();
    assert_eq!(parse("next year", &eve).unwrap().to_string(), "2017-03-01T10:00:00Z");
}

#[test]
fn amounts_beyond_the_calendar_are_refused_not_wrapped() {
    let now = monday_night();
    for text in ["now + 99999999999999999999 days", "now + 9223372036854775807 years", "now - 40000 years"] {
        assert!(parse(text, &now).is_err(), "{text}");
    }
}

const EXAMPLES: [(&str, &str); 50] = [
    ("now", "2013-08-05T23:34"),
    ("today", "2013-08-05T23:34"),
    ("tomorrow", "2013-08-06T23:34"),
    ("midnight", "2013-08-06T00:00"),
    ("noon", "2013-08-06T12:00"),
    ("teatime", "2013-08-06T16:00"),
    ("23:34", "2013-08-06T23:34"),
    ("23:35", "2013-08-05T23:35"),
    ("2335", "2013-08-05T23:35"),
    ("0930", "2013-08-06T09:30"),
    ("9am", "2013-08-06T09:00"),
    ("9 pm", "2013-08-06T21:00"),
    ("12am", "2013-08-06T00:00"),
    ("11:45 PM", "2013-08-05T23:45"),
    ("10h30", "2013-08-06T10:30"),
    ("10.30", "2013-08-06T10:30"),
    ("now + 1 hour", "2013-08-06T00:34"),
    ("now + 90 minutes", "2013-08-06T01:04"),
    ("now+2days", "2013-08-07T23:34"),
    ("now + 5 mins", "2013-08-05T23:39"),
    ("now - 1 day", "2013-08-04T23:34"),
    ("now + 1 month", "2013-09-05T23:34"),
    ("tomorrow + 2 hours", "2013-08-07T01:34"),
    ("monday", "2013-08-12T23:34"),
    ("NEXT SAT", "2013-08-10T23:34"),
    ("friday", "2013-08-09T23:34"),
    ("tue", "2013-08-06T23:34"),
    ("8:00 monday", "2013-08-12T08:00"),
    ("midnight sunday", "2013-08-11T00:00"),
    ("next week", "2013-08-12T23:34"),
    ("next month", "2013-09-05T23:34"),
    ("next hour", "2013-08-06T00:34"),
    ("next week + 3 days", "2013-08-15T23:34"),
    ("noon next week", "2013-08-12T12:00"),
    ("Aug 5", "2013-08-05T23:34"),
    ("Aug 4", "2014-08-04T23:34"),
    ("Dec 25, 2013", "2013-12-25T23:34"),
    ("25 december 2014", "2014-12-25T23:34"),
    ("08/10/2013", "2013-08-10T23:34"),
    ("080513", "2013-08-05T23:34"),
    ("10.08.13", "2013-08-10T23:34"),
    ("13-08-10", "2013-08-10T23:34"),
    ("teatime 2013-08-10", "2013-08-10T16:00"),
    ("10am Jul 31", "2014-07-31T10:00"),
    ("4pm + 3 days", "2013-08-09T16:00"),
    ("1am tomorrow", "2013-08-06T01:00"),
    ("5 pm friday + 1 week", "2013-08-16T17:00"),
    ("31.01.2014 + 1 month", "2014-03-03T23:34"),
    ("70-01-01", "1970-01-01T23:34"),
    ("17:00 UTC", "2013-08-06T17:00"),
];

const INVALID: &[&str] = &[
    "foo",
    "13pm",
    "24:00",
    "25:00",
    "31.02.2014",
    "Feb 29",
    "+ 3 days",
    "in 3 days",
    "now + 5",
    "tomorrow noon",
    "today noon",
    "",
    " ",
    "2560",
    "10:60",
    "930",
    "next",
    "monthly",
    "now + 3 fortnights",
    "now now",
];
