//! How many rows a pool holds: a share of the data, but never so few that it is a slice of the last
//! batches or knows little of what the data show.

use crate::error::{Error, Result};

/// Share of the data unless told otherwise (RoCLIP: 2%).
const SHARE: f64 = 0.02;
/// Rows below which a pool holds too few concepts, however small the data are.
const ROWS_MIN: usize = 1000;
/// Batches below which a pool is a slice of the last ones.
const BATCHES_MIN: usize = 8;

/// Rows of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolSize {
    pub(super) rows: usize,
    /// Rows that a pool for these data should have at least.
    least: usize,
    /// The method's key that decides it.
    key: &'static str,
}

impl PoolSize {
    /// What `pool_rows` says, else what `pool_share` says, else the usual, of data with so many
    /// `pairs`; refuses less than a batch, and more than half of the data.
    pub(super) fn new(
        pool_rows: Option<usize>,
        pool_share: Option<f64>,
        pairs: usize,
        batch_size: usize,
    ) -> Result<Self> {
        let share = |share: f64| (share * pairs as f64).round() as usize;
        let least = (BATCHES_MIN * batch_size).max(ROWS_MIN).min(pairs / 2).max(batch_size);
        let (rows, key) = match (pool_rows, pool_share) {
            (Some(rows), _) => (rows, "pool_rows"),
            (None, Some(of_pairs)) => (share(of_pairs), "pool_share"),
            (None, None) => (share(SHARE).max(least), "pool_share"),
        };
        if rows < batch_size {
            return Err(Error::SmallPool { key, rows: pairs, capacity: rows, batch_size });
        }
        if rows > pairs.div_ceil(2) {
            return Err(Error::LargePool { key, rows: pairs, capacity: rows });
        }
        Ok(Self { rows, least, key })
    }

    /// What the user of `method` may not have meant.
    pub(super) fn warning(&self, method: &str) -> Option<String> {
        let Self { rows, least, key } = self;
        (rows < least).then(|| {
            format!(
                "`method.{method}.{key}` makes a pool of {rows} rows: below {least} it is a slice of \
                 the last batches, or holds little of what the data show"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_that_make_no_sense_are_refused() {
        let check = |rows, share, pairs, expected: Result<usize, &str>| match (
            PoolSize::new(rows, share, pairs, 64),
            expected,
        ) {
            (Ok(found), Ok(expected)) => assert_eq!(found.rows, expected),
            (Err(error), Err(expected)) => {
                let line = error.to_string();
                assert!(
                    line.starts_with(&format!("the pool would hold {expected} rows")),
                    "{line}"
                );
            }
            (found, _) => panic!("{found:?}"),
        };
        check(None, None, 1_000_000, Ok(20_000));
        check(None, None, 5_000, Ok(1_000));
        check(None, None, 1_500, Ok(750));
        check(None, None, 100, Err("64 of 100"));
        check(None, Some(0.1), 5_000, Ok(500));
        check(Some(300), Some(0.1), 5_000, Ok(300));
        check(None, Some(0.01), 5_000, Err("50 of 5000"));
        check(Some(50), None, 5_000, Err("50 of 5000"));
        check(Some(2_501), None, 5_000, Err("2501 of 5000"));
    }

    #[test]
    fn fewer_rows_than_usual_are_told() -> Result<()> {
        let warning = |rows, share| -> Result<Option<String>> {
            Ok(PoolSize::new(rows, share, 5_000, 2)?.warning("roclip"))
        };
        let line = warning(Some(999), None)?.expect("too few");
        let start = "`method.roclip.pool_rows` makes a pool of 999 rows: below 1000 ";
        assert!(line.starts_with(start), "{line}");
        assert!(warning(None, Some(0.1))?.expect("too few").contains("pool_share` makes"));
        assert_eq!([warning(Some(1_000), None)?, warning(None, None)?], [None, None]);
        Ok(())
    }
}
