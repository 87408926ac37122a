//! From text to meaning: every reading that the grammar allows, dates before times.

/// What a text says, before it is known what time it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) time: Option<Time>,
    pub(super) date: Option<Date>,
    pub(super) shift: Option<Shift>,
}

/// A time of day; the hour is already that of a 24-hour clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) hour: i8,
    pub(super) minute: i8,
    pub(super) utc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Date {
    /// `today` and `now`.
    Today,
    Tomorrow,
    /// 1 is Monday.
    Weekday(i8),
    MonthDay {
        month: i8,
        day: i8,
    },
    Full {
        year: i16,
        month: i8,
        day: i8,
    },
    Next(Period),
}

/// `+ 3 days`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shift {
    pub(super) amount: i64,
    pub(super) period: Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Period {
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// All complete readings of a text, the preferred one first.
pub(super) fn readings(text: &str) -> impl Iterator<Item = Spec> + use<> {
    let tokens = tokenize(text);
    let alternatives: [fn(&mut Reader<'_>) -> Option<Spec>; 3] = [
        |r| Some(Spec { time: None, date: Some(r.date()?), shift: None }),
        |r| {
            let time = r.time()?;
            r.space()?;
            Some(Spec { time: Some(time), date: Some(r.date()?), shift: None })
        },
        |r| Some(Spec { time: Some(r.time()?), date: None, shift: None }),
    ];
    alternatives.into_iter().filter_map(move |base| {
        let mut reader = Reader { rest: &tokens };
        reader.blank();
        let mut spec = base(&mut reader)?;
        spec.shift = reader.attempt(|r| {
            r.blank();
            r.shift()
        });
        reader.blank();
        reader.rest.is_empty().then_some(spec)
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Digits(String),
    /// Letters, in lower case.
    Word(String),
    Sign(char),
    Space,
}

fn tokenize(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match (tokens.last_mut(), c) {
            (Some(Token::Digits(run)), '0'..='9') => run.push(c),
            (Some(Token::Word(run)), 'a'..='z') => run.push(c),
            (_, '0'..='9') => tokens.push(Token::Digits(c.to_string())),
            (_, 'a'..='z') => tokens.push(Token::Word(c.to_string())),
            (Some(Token::Space), c) if c.is_whitespace() => {}
            (_, c) if c.is_whitespace() => tokens.push(Token::Space),
            (_, c) => tokens.push(Token::Sign(c)),
        }
    }
    tokens
}

struct Reader<'a> {
    rest: &'a [Token],
}

impl<'a> Reader<'a> {
    /// Runs a rule and takes nothing when it fails.
    fn attempt<T>(&mut self, rule: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.rest;
        let result = rule(self);
        if result.is_none() {
            self.rest = before;
        }
        result
    }

    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn blank(&mut self) {
        if self.rest.first() == Some(&Token::Space) {
            self.next();
        }
    }

    fn space(&mut self) -> Option<()> {
        matches!(self.next()?, Token::Space).then_some(())
    }

    fn sign(&mut self, wanted: char) -> Option<()> {
        matches!(self.next()?, Token::Sign(c) if *c == wanted).then_some(())
    }

    fn word(&mut self) -> Option<&'a str> {
        match self.next()? {
            Token::Word(word) => Some(word),
            Token::Digits(_) | Token::Sign(_) | Token::Space => None,
        }
    }

    fn keyword(&mut self, wanted: &str) -> Option<()> {
        (self.word()? == wanted).then_some(())
    }

    fn digits(&mut self) -> Option<&'a str> {
        match self.next()? {
            Token::Digits(digits) => Some(digits),
            Token::Word(_) | Token::Sign(_) | Token::Space => None,
        }
    }

    /// One or two digits.
    fn small(&mut self) -> Option<i8> {
        small(self.digits()?)
    }

    fn year(&mut self) -> Option<i16> {
        year(self.digits()?)
    }

    fn time(&mut self) -> Option<Time> {
        let (hour, minute) = self
            .attempt(Self::named_time)
            .or_else(|| self.attempt(Self::four_digits))
            .or_else(|| self.attempt(Self::clock))?;
        let utc = self
            .attempt(|r| {
                r.blank();
                r.keyword("utc")
            })
            .is_some();
        Some(Time { hour, minute, utc })
    }

    fn named_time(&mut self) -> Option<(i8, i8)> {
        match self.word()? {
            "midnight" => Some((0, 0)),
            "noon" => Some((12, 0)),
            "teatime" => Some((16, 0)),
            _ => None,
        }
    }

    fn four_digits(&mut self) -> Option<(i8, i8)> {
        let digits = self.digits().filter(|d| d.len() == 4)?;
        on_the_clock(small(&digits[..2])?, small(&digits[2..])?)
    }

    fn clock(&mut self) -> Option<(i8, i8)> {
        let hour = self.small()?;
        let minute = self
            .attempt(|r| {
                match r.next()? {
                    Token::Sign(':' | '\'' | ',' | '.') => {}
                    Token::Word(h) if h == "h" => {}
                    Token::Word(_) | Token::Digits(_) | Token::Sign(_) | Token::Space => return None,
                }
                r.digits().filter(|d| d.len() == 2).and_then(small)
            })
            .unwrap_or(0);
        let half = self.attempt(|r| {
            r.blank();
            match r.word()? {
                "am" => Some(0),
                "pm" => Some(12),
                _ => None,
            }
        });
        match half {
            None => on_the_clock(hour, minute),
            Some(_) if hour > 12 => None,
            Some(half) => on_the_clock(hour % 12 + half, minute),
        }
    }

    fn date(&mut self) -> Option<Date> {
        [
            Self::month_then_day,
            Self::day_then_month,
            Self::weekday,
            Self::relative_day,
            Self::dotted,
            Self::iso,
            Self::slashed,
            Self::packed,
            Self::next_period,
        ]
        .into_iter()
        .find_map(|rule| self.attempt(rule))
    }

    fn month_then_day(&mut self) -> Option<Date> {
        let month = month(self.word()?)?;
        self.blank();
        let day = self.small()?;
        let year = self
            .attempt(|r| {
                r.blank();
                r.sign(',')?;
                r.blank();
                r.year()
            })
            .or_else(|| self.trailing_year());
        Some(calendar(year, month, day))
    }

    fn day_then_month(&mut self) -> Option<Date> {
        let day = self.small()?;
        self.space()?;
        let month = month(self.word()?)?;
        let year = self.trailing_year();
        Some(calendar(year, month, day))
    }

    fn trailing_year(&mut self) -> Option<i16> {
        self.attempt(|r| {
            r.space()?;
            r.year()
        })
    }

    fn weekday(&mut self) -> Option<Date> {
        self.attempt(|r| {
            r.keyword("next")?;
            r.space()
        });
        let day = position(self.word()?, &WEEKDAYS)?;
        Some(Date::Weekday(day))
    }

    fn relative_day(&mut self) -> Option<Date> {
        match self.word()? {
            "today" | "now" => Some(Date::Today),
            "tomorrow" => Some(Date::Tomorrow),
            _ => None,
        }
    }

    fn dotted(&mut self) -> Option<Date> {
        let day = self.small()?;
        self.sign('.')?;
        let month = self.small()?;
        self.sign('.')?;
        Some(Date::Full { year: self.year()?, month, day })
    }

    fn iso(&mut self) -> Option<Date> {
        let year = self.year()?;
        self.sign('-')?;
        let month = self.small()?;
        self.sign('-')?;
        Some(Date::Full { year, month, day: self.small()? })
    }

    fn slashed(&mut self) -> Option<Date> {
        let month = self.small()?;
        self.sign('/')?;
        let day = self.small()?;
        self.sign('/')?;
        Some(Date::Full { year: self.year()?, month, day })
    }

    /// `MDDyy`, `MMDDyy`, `MDDyyyy`, `MMDDyyyy`: the length says which.
    fn packed(&mut self) -> Option<Date> {
        let digits = self.digits()?;
        let month_digits = match digits.len() {
            5 | 7 => 1,
            6 | 8 => 2,
            _ => return None,
        };
        let (month, rest) = digits.split_at(month_digits);
        let (day, rest) = rest.split_at(2);
        Some(Date::Full { year: year(rest)?, month: small(month)?, day: small(day)? })
    }

    fn next_period(&mut self) -> Option<Date> {
        self.keyword("next")?;
        self.space()?;
        Some(Date::Next(period(self.word()?)?))
    }

    fn shift(&mut self) -> Option<Shift> {
        let direction = match self.next()? {
            Token::Sign('+') => 1,
            Token::Sign('-') => -1,
            Token::Sign(_) | Token::Word(_) | Token::Digits(_) | Token::Space => return None,
        };
        self.blank();
        let amount: i64 = self.digits()?.parse().ok()?;
        self.blank();
        let word = self.word()?;
        let period = period(word).or_else(|| period(word.strip_suffix('s')?))?;
        Some(Shift { amount: direction * amount, period })
    }
}

fn small(digits: &str) -> Option<i8> {
    (digits.len() <= 2).then(|| digits.parse().ok()).flatten()
}

fn year(digits: &str) -> Option<i16> {
    let value: i16 = digits.parse().ok()?;
    match (digits.len(), value) {
        (2, 0..=69) => Some(2000 + value),
        (2, _) => Some(1900 + value),
        (4, _) => Some(value),
        _ => None,
    }
}

fn calendar(year: Option<i16>, month: i8, day: i8) -> Date {
    match year {
        Some(year) => Date::Full { year, month, day },
        None => Date::MonthDay { month, day },
    }
}

fn on_the_clock(hour: i8, minute: i8) -> Option<(i8, i8)> {
    (hour <= 23 && minute <= 59).then_some((hour, minute))
}

fn period(word: &str) -> Option<Period> {
    match word {
        "minute" | "min" => Some(Period::Minute),
        "hour" => Some(Period::Hour),
        "day" => Some(Period::Day),
        "week" => Some(Period::Week),
        "month" => Some(Period::Month),
        "year" => Some(Period::Year),
        _ => None,
    }
}

fn month(word: &str) -> Option<i8> {
    position(word, &MONTHS)
}

/// Place in a list of English names, from 1; the full name or its first three letters.
fn position(word: &str, names: &[&str]) -> Option<i8> {
    let index = names.iter().position(|name| word == *name || word == &name[..3])?;
    i8::try_from(index + 1).ok()
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
