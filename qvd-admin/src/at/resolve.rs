//! From meaning to a moment, seen from a given now.

use jiff::civil::{self, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan, Zoned};

use super::grammar::{Date, Period, Shift, Spec, Time};

/// The moment, or none when the calendar or the range of years has no such moment.
pub(super) fn resolve(spec: &Spec, now: &Zoned) -> Option<Timestamp> {
    let utc = spec.time.is_some_and(|time| time.utc);
    let zone = if utc { TimeZone::UTC } else { now.time_zone().clone() };
    let now = now.with_time_zone(zone.clone()).with().second(0).subsec_nanosecond(0).build().ok()?;

    let base = match (spec.date, spec.time) {
        (Some(date), None) => on_date(date, &now)?,
        (Some(date), Some(time)) => on_date(date, &now)?.date().to_datetime(clock(time)?),
        (None, Some(time)) => next_occurrence(clock(time)?, &now)?,
        (None, None) => return None,
    };
    match spec.shift {
        None => instant(base, &zone),
        Some(shift) => shifted(base, shift, &zone),
    }
}

/// The date, with the time of day of now.
fn on_date(date: Date, now: &Zoned) -> Option<DateTime> {
    let here = now.datetime();
    let full = |year, month, day| Some(civil::Date::new(year, month, day).ok()?.to_datetime(here.time()));
    match date {
        Date::Today => Some(here),
        Date::Tomorrow => here.checked_add(1.day()).ok(),
        Date::Weekday(wanted) => {
            let ahead = (wanted - here.weekday().to_monday_one_offset()).rem_euclid(7);
            here.checked_add(i64::from(if ahead == 0 { 7 } else { ahead }).days()).ok()
        }
        Date::MonthDay { month, day } => {
            let passed = (month, day) < (here.month(), here.day());
            full(here.year() + i16::from(passed), month, day)
        }
        Date::Full { year, month, day } => full(year, month, day),
        Date::Next(period) => {
            let moved = shifted(here, Shift { amount: 1, period }, now.time_zone())?;
            Some(moved.to_zoned(now.time_zone().clone()).datetime())
        }
    }
}

fn clock(time: Time) -> Option<civil::Time> {
    civil::Time::new(time.hour, time.minute, 0, 0).ok()
}

/// Strictly after now's minute.
fn next_occurrence(time: civil::Time, now: &Zoned) -> Option<DateTime> {
    let today = now.date().to_datetime(time);
    if time > now.time() { Some(today) } else { today.checked_add(1.day()).ok() }
}

/// Minutes and hours are elapsed time, also across a change of the clocks; days and longer move the calendar.
fn shifted(base: DateTime, shift: Shift, zone: &TimeZone) -> Option<Timestamp> {
    let Shift { amount, period } = shift;
    let calendar = |span: Result<Span, jiff::Error>| instant(base.checked_add(span.ok()?).ok()?, zone);
    match period {
        Period::Minute => instant(base, zone)?.checked_add(Span::new().try_minutes(amount).ok()?).ok(),
        Period::Hour => instant(base, zone)?.checked_add(Span::new().try_hours(amount).ok()?).ok(),
        Period::Day => calendar(Span::new().try_days(amount)),
        Period::Week => calendar(Span::new().try_weeks(amount)),
        Period::Month => instant(months_on(base, amount)?, zone),
        Period::Year => instant(months_on(base, amount.checked_mul(12)?)?, zone),
    }
}

/// A day that the target month does not have spills over into the next: 31 January + 1 month is 3 March.
fn months_on(base: DateTime, months: i64) -> Option<DateTime> {
    let first = base.with().day(1).build().ok()?;
    let month = first.checked_add(Span::new().try_months(months).ok()?).ok()?;
    month.checked_add(i64::from(base.day() - 1).days()).ok()
}

fn instant(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    Some(local.to_zoned(zone.clone()).ok()?.timestamp())
}
