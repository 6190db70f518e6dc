//! Captions, labels, file names and answers of servers may hold what moves a terminal's cursor.

use std::fmt::Write as _;

/// `text` without characters that a terminal obeys: control characters, line breaks, and marks
/// that turn the direction of writing become `\n`, `\x1b`, `\u{202e}`. Ordinary text of any
/// language is unchanged.
///
/// ```
/// assert_eq!(terminal::escape("naïve\x1b[2J\n"), "naïve\\x1b[2J\\n");
/// ```
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, symbol| {
        match symbol {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            '\0'..='\x1f' | '\x7f'..='\u{9f}' => {
                let _ = write!(safe, "\\x{:02x}", u32::from(symbol)); // a String takes all
            }
            _ if is_obeyed(symbol) => {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(symbol));
            }
            _ => safe.push(symbol),
        }
        safe
    })
}

/// [`escape`] for each line; the line breaks stay and what follows one is moved right by `indent`
/// blanks, so that no line of a stranger can pass for one of ours.
pub fn escape_lines(text: &str, indent: usize) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(escape).collect();
    lines.join(&format!("\n{:indent$}", ""))
}

/// Line and paragraph separators, marks and overrides of direction, the byte order mark, tags.
fn is_obeyed(symbol: char) -> bool {
    matches!(symbol,
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_spelt_out() {
        let check = |text: &str, expected: &str| assert_eq!(escape(text), expected);
        check("a red square, 90% Größe 猫 👨‍👩‍👧", "a red square, 90% Größe 猫 👨‍👩‍👧");
        check("\x1b]0;owned\x07", "\\x1b]0;owned\\x07");
        check("a\r\n\tb\0", "a\\r\\n\\tb\\x00");
        check("\u{9b}31m\x7f", "\\x9b31m\\x7f");
        check("gnp.\u{202e}exe", "gnp.\\u{202e}exe");
        check("", "");
    }

    #[test]
    fn a_second_line_never_starts_at_the_border() {
        assert_eq!(escape_lines("a\nerror: b\r\nc\x1b\n", 2), "a\n  error: b\n  c\\x1b");
    }
}
