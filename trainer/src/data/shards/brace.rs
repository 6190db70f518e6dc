//! `train-{000..012}.tar` stands for thirteen names, as in a shell.

/// Names that one pattern may stand for.
const NAMES_MAX: u64 = 1 << 20;

/// All names of a pattern with ranges in braces; the last range changes first. A number that begins
/// with 0 sets the width of its range.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, range)) = rest.split_once('{') {
        let (range, after) = range.split_once('}').ok_or("the brace `{` is not closed")?;
        let numbers = numbers(range)?;
        if (names.len() as u64).saturating_mul(numbers.count) > NAMES_MAX {
            return Err(format!("its ranges are of more than {NAMES_MAX} shards"));
        }
        let longer = |name: &String| {
            let name = format!("{name}{before}");
            numbers.texts().map(move |number| format!("{name}{number}"))
        };
        names = names.iter().flat_map(longer).collect();
        rest = after;
    }
    Ok(names.into_iter().map(|name| name + rest).collect())
}

/// `FIRST..LAST`, both included.
struct Numbers {
    first: u64,
    count: u64,
    width: usize,
}

impl Numbers {
    fn texts(&self) -> impl Iterator<Item = String> + use<> {
        let Self { first, count, width } = *self;
        (0..count).map(move |number| format!("{:0width$}", first + number))
    }
}

fn numbers(range: &str) -> Result<Numbers, String> {
    let malformed =
        || format!("`{{{range}}}` is no range of numbers, expected one like `{{000..012}}`");
    let (first, last) = range.split_once("..").ok_or_else(malformed)?;
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten().ok_or_else(malformed)
    };
    let padded = |text: &str| if text.starts_with('0') { text.len() } else { 0 };
    let width = padded(first).max(padded(last));
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(format!("the range `{{{range}}}` is empty"));
    }
    Ok(Numbers { first, count: (last - first).saturating_add(1), width })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_at_the_end_of_numbers_are_counted() {
        let last = u64::MAX;
        assert_eq!(expand(&format!("{{{last}..{last}}}")), Ok(vec![last.to_string()]));
        assert!(expand(&format!("{{0..1}}-{{0..{}}}", u64::MAX / 2)).is_err());
    }

    #[test]
    fn expands_as_a_shell_does() {
        let check = |pattern: &str, expected: &[&str]| {
            assert_eq!(expand(pattern).expect(pattern), expected);
        };
        check("a.tar", &["a.tar"]);
        check("a-{8..11}.tar", &["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]);
        check("a-{098..100}", &["a-098", "a-099", "a-100"]);
        check("a-{8..010}", &["a-008", "a-009", "a-010"]);
        check("{0..1}/a-{3..3}{0..1}", &["0/a-30", "0/a-31", "1/a-30", "1/a-31"]);
    }

    #[test]
    fn refuses_what_is_no_range() {
        let check = |pattern: &str, expected: &str| {
            let problem = expand(pattern).expect_err(pattern);
            assert!(problem.starts_with(expected), "{problem}");
        };
        check("a-{5..3}.tar", "the range `{5..3}` is empty");
        check("a-{0..3.tar", "the brace `{` is not closed");
        for range in ["", "1", "..", "1..", "a..b", "-1..2", "0..3..2", "0..99999999999999999999"] {
            check(&format!("a-{{{range}}}"), &format!("`{{{range}}}` is no range of numbers"));
        }
        let many = "its ranges are of more than 1048576 shards";
        check("{0..1048576}", many);
        check("{0..1023}{0..1024}", many);
        check("{0..18446744073709551615}", many);
    }
}
