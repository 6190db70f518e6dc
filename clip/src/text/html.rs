//! HTML character references, as Python's `html.unescape` and ftfy read them.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

/// Greatest characters of a name, without its semicolon.
const NAME_MAX: usize = 32;
/// Greatest characters of what ftfy takes for a reference, without `&`, `#` and semicolon.
const WHOLE_MAX: usize = 24;

/// What the bytes 0x80 to 0x9f mean in Windows-1252; the five that it leaves open stay themselves.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Name, with its semicolon if it needs one → characters.
static NAMES: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
    let lines = include_str!("../../assets/html_entities.txt").lines();
    let character = |code| u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
    let entry = |line: &'static str| {
        let (name, codes) = line.split_once(' ')?;
        Some((name, codes.split(' ').map(character).collect::<Option<String>>()?))
    };
    lines.map(|line| entry(line).expect("scripts/tokenizer/assets.py writes such lines")).collect()
});

/// The character that a control character U+0080 to U+009F was meant to be: what Windows-1252 has
/// at this byte. Any other character is returned as it is.
pub(super) fn from_windows_1252(c: char) -> char {
    match c {
        '\u{80}'..='\u{9f}' => WINDOWS_1252[c as usize - 0x80],
        c => c,
    }
}

/// Python's `html.unescape`: by the HTML Standard, so that a name may lack its semicolon and may be
/// the start of a longer word; numbers of characters that nobody wants become nothing.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    replace(text, |rest| match rest.strip_prefix('#') {
        Some(rest) => {
            let (character, digits) = number(rest)?;
            let semicolon = usize::from(rest[digits..].starts_with(';'));
            Some((
                Cow::Owned(character.map(String::from).unwrap_or_default()),
                1 + digits + semicolon,
            ))
        }
        None => {
            let is_name =
                |c: char| !matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
            let name = prefix(rest, NAME_MAX, is_name);
            let whole = rest.get(..=name.len()).filter(|whole| whole.ends_with(';'));
            let longest_first = name.char_indices().map(|(at, c)| &name[..at + c.len_utf8()]).rev();
            let known = |name: &str| Some((Cow::Borrowed(NAMES.get(name)?.as_str()), name.len()));
            whole.into_iter().chain(longest_first).find_map(known)
        }
    })
}

/// ftfy's `unescape_html`: only what ends in a semicolon. A name in capitals stands for the capital
/// letter, unless [`unescape`] would read it otherwise.
pub(super) fn unescape_whole(text: &str) -> Cow<'_, str> {
    replace(text, |rest| {
        let sign = usize::from(rest.starts_with('#'));
        let name = prefix(&rest[sign..], WHOLE_MAX, |c| c.is_ascii_alphanumeric());
        let end = sign + name.len();
        if name.is_empty() || !rest[end..].starts_with(';') {
            return None;
        }
        if sign == 1 {
            let (character, digits) = number(name)?;
            let whole = digits == name.len() && character != Some(';');
            let text = character.map(String::from).unwrap_or_default();
            return whole.then_some((Cow::Owned(text), end + 1));
        }
        let named = &rest[..=end];
        if let Some(text) = NAMES.get(named) {
            return Some((Cow::Borrowed(text.as_str()), end + 1));
        }
        let is_capital = named.to_ascii_uppercase() == named;
        let small = NAMES.get(named.to_ascii_lowercase().as_str()).filter(|_| is_capital)?;
        let escaped = format!("&{named}");
        (unescape(&escaped) == escaped).then(|| (Cow::Owned(small.to_uppercase()), end + 1))
    })
}

/// `text` with what `read` makes of what follows each `&`, and how many bytes of it are used up.
fn replace<'a>(
    text: &'a str,
    read: impl Fn(&str) -> Option<(Cow<'static, str>, usize)>,
) -> Cow<'a, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        rest = after;
        match read(after) {
            Some((characters, length)) => {
                out.push_str(&characters);
                rest = &after[length..];
            }
            None => out.push('&'),
        }
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character of `65…` or `x41…`, none for one that is left out, and the bytes that name it.
fn number(text: &str) -> Option<(Option<char>, usize)> {
    let (radix, mark) = if text.starts_with(['x', 'X']) { (16, 1) } else { (10, 0) };
    let digits = prefix(&text[mark..], usize::MAX, |c| c.is_digit(radix));
    if digits.is_empty() {
        return None;
    }
    let code = u32::from_str_radix(digits, radix).unwrap_or(u32::MAX); // too great for a character
    let character = match char::from_u32(code) {
        None | Some('\0') => Some(char::REPLACEMENT_CHARACTER),
        Some('\t' | '\n' | '\u{c}' | '\r') => char::from_u32(code),
        Some(c @ '\u{80}'..='\u{9f}') => Some(from_windows_1252(c)),
        Some(c) if c.is_control() || is_noncharacter(c) => None,
        character => character,
    };
    Some((character, mark + digits.len()))
}

fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || c as u32 & 0xfffe == 0xfffe
}

/// The first characters of `text` that are as asked, at most `max`.
fn prefix(text: &str, max: usize, is_asked: impl Fn(char) -> bool) -> &str {
    let end = text.char_indices().enumerate().find(|&(n, (_, c))| n == max || !is_asked(c));
    &text[..end.map_or(text.len(), |(_, (at, _))| at)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_python_reads_them() {
        let check = |text: &str, expected: &str| assert_eq!(unescape(text), expected, "{text}");
        check("no reference", "no reference");
        check("AT&amp;T &lt;b&gt;", "AT&T <b>");
        check("&amp;amp;", "&amp;");
        check("this&not that &notit; &notin;", "this¬ that ¬it; ∉");
        check("&#65;&#x42;&#X43 &#", "ABC &#");
        check("&#128;&#x95;&#x81;", "€•\u{81}");
        check("&#0;&#xd800;&#99999999999;", "\u{fffd}\u{fffd}\u{fffd}");
        check("a&#1;b&#xfffe;c&#x7f;d&#11;&#13;", "abcd\r");
        check("&NotEqualTilde; & &; &unknown; &ü;", "≂̸ & &; &unknown; &ü;");
        check("&Tab;&NewLine;", "\t\n");
    }

    #[test]
    fn ftfy_reads_what_ends_in_a_semicolon() {
        let check = |text: &str, expected: &str| {
            assert_eq!(unescape_whole(text), expected, "{text}");
        };
        check("&amp; &amp &ampx; this&not that", "& &amp &ampx; this&not that");
        check(
            "&ntilde; &Ntilde; &NTILDE; &nTILDE; BUNDESSTRA&SZLIG;E",
            "ñ Ñ Ñ &nTILDE; BUNDESSTRASSE",
        );
        check("&LTIMES; &#39; &#x2019; &#59; &#12ab;", "&LTIMES; ' ’ &#59; &#12ab;");
    }
}
