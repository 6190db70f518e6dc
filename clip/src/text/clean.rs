//! OpenAI's cleaning of a caption: ftfy's repair, HTML unescaped twice, white space, lower case.

use tokenizers::normalizer::NormalizedString;

use super::html;

/// What ftfy writes out: ligatures and digraphs of Latin letters.
pub(super) const LIGATURES: [(char, &str); 22] = [
    ('Ĳ', "IJ"),
    ('ĳ', "ij"),
    ('ŉ', "ʼn"),
    ('Ǳ', "DZ"),
    ('ǲ', "Dz"),
    ('ǳ', "dz"),
    ('Ǆ', "DŽ"),
    ('ǅ', "Dž"),
    ('ǆ', "dž"),
    ('Ǉ', "LJ"),
    ('ǈ', "Lj"),
    ('ǉ', "lj"),
    ('Ǌ', "NJ"),
    ('ǋ', "Nj"),
    ('ǌ', "nj"),
    ('ﬀ', "ff"),
    ('ﬁ', "fi"),
    ('ﬂ', "fl"),
    ('ﬃ', "ffi"),
    ('ﬄ', "ffl"),
    ('ﬅ', "ſt"),
    ('ﬆ', "st"),
];

/// The text whose words OpenAI's tokenizer spells. Unlike there, text that was once decoded with a
/// wrong encoding stays so.
pub(super) fn clean(text: &str) -> String {
    let text = repair(text);
    let text = html::unescape(&text);
    let text = html::unescape(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// `ftfy.fix_text` 6 as far as it changes words, without its repair of wrongly decoded text and of
/// terminals' escapes.
fn repair(text: &str) -> String {
    let mut may_be_html = false;
    let line = |line: &str| {
        may_be_html |= line.contains('<'); // then what is escaped may be meant so
        repair_line(line, !may_be_html)
    };
    text.split_inclusive('\n').map(line).collect()
}

/// Rounds after which a text that still changes is as good as it gets: each takes one of the levels
/// off that an ampersand was escaped by.
const ROUNDS_MAX: usize = 32;

/// Repairs until nothing changes: what was escaped may be escaped again, or a ligature.
fn repair_line(line: &str, unescape: bool) -> String {
    let mut line = line.to_owned();
    for _ in 0..ROUNDS_MAX {
        let unescaped = if unescape { html::unescape_whole(&line) } else { line.as_str().into() };
        let next = compose(unescaped.chars().fold(String::new(), push_repaired));
        if next == line {
            break;
        }
        line = next;
    }
    line
}

/// Appends `c`, or what should stand there.
fn push_repaired(mut text: String, c: char) -> String {
    match html::from_windows_1252(c) {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => text.push('\''),
        '\u{201c}'..='\u{201f}' => text.push('"'),
        // Full and half width.
        '\u{3000}' => text.push(' '),
        '\u{ff01}'..='\u{ffef}' => {
            text.push_str(NormalizedString::from(c.to_string()).nfkc().get())
        }
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => {}
        '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => {}
        c => match LIGATURES.iter().find(|(ligature, _)| *ligature == c) {
            Some((_, letters)) => text.push_str(letters),
            None => text.push(c),
        },
    }
    text
}

/// Normal form C.
fn compose(text: String) -> String {
    if text.is_ascii() { text } else { NormalizedString::from(text).nfc().get().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_cleaned_as_openai_cleans_it() {
        let check = |text: &str, expected: &str| assert_eq!(clean(text), expected, "{text}");
        check("  A  PHOTO\t of\n a dog ", "a photo of a dog");
        check("AT&amp;T &lt;b&gt;bold&lt;/b&gt;", "at&t <b>bold</b>");
        check("&amp;amp;amp;amp;lt; any number of times", "< any number of times");
        check("<i> &amp;amp;lt; twice", "<i> &lt; twice");
        check("&ldquo;curly&rdquo; ‘quotes’…", "\"curly\" 'quotes'…");
        check("<i> &ldquo;", "<i> “");
        check("one &ldquo;\n<i> &ldquo;\n&ldquo;", "one \" <i> “ “");
        check("ﬁsh and ﬂower ŉ", "fish and flower 'n");
        check("ＦＵＬＬ　ｗｉｄｔｈ ｶﾞ", "full width ガ");
        check("zero\u{200b}width \u{feff}mark\u{7}\u{85}", "zero\u{200b}width mark…");
        check("E\u{301} e&#769;", "é é");
        check("ΣΑΣ İ", "σας i\u{307}");
    }
}
