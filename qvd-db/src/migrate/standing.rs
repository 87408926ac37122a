//! How the schema that a database holds stands to the one that a program knows. Pure.

use crate::error::Error;

/// A migration's number and the checksum of its text.
pub(super) type Applied = (i64, Vec<u8>);

/// How a database's schema stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There are no tables.
    Empty,
    Current,
    /// What is applied is the beginning of ours.
    Behind {
        has: i64,
        wants: i64,
    },
    /// Ours is the beginning of what is applied.
    Ahead {
        has: i64,
        wants: i64,
        /// The oldest version whose programs can work with it.
        floor: i64,
    },
    /// The two part somewhere.
    Foreign {
        has: i64,
        wants: i64,
    },
}

impl Standing {
    /// Compares what is applied with what is wanted. The floor is that of the database; it counts when it is ahead.
    pub(super) fn of(applied: &[Applied], wanted: &[Applied], floor: i64) -> Self {
        let last = |steps: &[Applied]| steps.last().map(|(version, _)| *version).unwrap_or_default();
        let (has, wants) = (last(applied), last(wanted));
        if applied == wanted {
            Self::Current
        } else if wanted.starts_with(applied) {
            Self::Behind { has, wants }
        } else if applied.starts_with(wanted) {
            Self::Ahead { has, wants, floor }
        } else {
            Self::Foreign { has, wants }
        }
    }

    /// Whether a program can work with the tables.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] when it cannot.
    pub(super) fn usable(self) -> Result<(), Error> {
        let reason = match self {
            Self::Current => return Ok(()),
            Self::Ahead { wants, floor, .. } if floor <= wants => return Ok(()),
            Self::Empty => "the database has no QVD tables (make them with 'qvd db deploy')".to_owned(),
            Self::Behind { has, wants } => format!(
                "the database holds schema {has}, this program needs {wants} (bring it up to date with 'qvd db \
                 deploy', which says whether nodes must be stopped for that)"
            ),
            Self::Ahead { has, wants, floor } => format!(
                "the database holds schema {has}, for programs that know {floor} or a newer one; this program knows \
                 {wants} (install the version that the rest of the site has)"
            ),
            Self::Foreign { has, wants } => format!(
                "the database holds schema {has} as another program has it, this program needs {wants} (install the \
                 same version everywhere)"
            ),
        };
        Err(Error::Schema { reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(versions: &[i64]) -> Vec<Applied> {
        versions.iter().map(|version| (*version, vec![0])).collect()
    }

    #[test]
    fn a_schema_is_ours_older_newer_or_foreign() {
        let ours = steps(&[1, 2, 3]);
        assert_eq!(Standing::of(&ours, &ours, 1), Standing::Current);
        assert_eq!(Standing::of(&steps(&[1, 2]), &ours, 1), Standing::Behind { has: 2, wants: 3 });
        assert_eq!(Standing::of(&[], &ours, 0), Standing::Behind { has: 0, wants: 3 });
        let newer = Standing::of(&steps(&[1, 2, 3, 4]), &ours, 2);
        assert_eq!(newer, Standing::Ahead { has: 4, wants: 3, floor: 2 });
        let mut changed = steps(&[1, 2, 3, 4]);
        changed[1].1 = vec![1];
        for foreign in [&changed[..], &changed[..3], &steps(&[1, 3]), &steps(&[7])] {
            assert!(matches!(Standing::of(foreign, &ours, 1), Standing::Foreign { .. }), "{foreign:?}");
        }
    }

    #[test]
    fn the_floor_says_who_can_work_with_a_newer_schema() {
        for (floor, usable) in [(1, true), (3, true), (4, false), (5, false)] {
            let standing = Standing::Ahead { has: 5, wants: 3, floor };
            assert_eq!(standing.usable().is_ok(), usable, "floor {floor}");
        }
        let refused = Standing::Ahead { has: 5, wants: 3, floor: 4 }.usable().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the database holds schema 5, for programs that know 4 or a newer one; this program knows 3 (install the \
             version that the rest of the site has)"
        );
    }
}
