use proptest::prelude::*;

use super::*;

const CAPTIONS: [&str; 6] = [
    "a small red square on a dark background",
    "a small green circle on a pale background",
    "the red square, it's striped",
    "a red circle; 12 dots",
    "Ein großes Quadrat",
    "a pale green square",
];

fn trained(context_length: usize) -> Tokenizer {
    Tokenizer::train(CAPTIONS.into_iter(), 560, context_length).expect("captions to learn from")
}

#[test]
fn the_end_mark_is_the_highest_id() -> Result<()> {
    let tokenizer = trained(16);
    assert!((515..=560).contains(&tokenizer.vocab_size()), "{}", tokenizer.vocab_size());
    assert_eq!(tokenizer.end() as usize, tokenizer.vocab_size() - 1);
    assert_eq!(tokenizer.start(), tokenizer.end() - 1);
    let tokens = tokenizer.encode(&["a red square", ""])?;
    assert_eq!((tokens.count(), tokens.length()), (2, 16));
    for row in tokens.rows() {
        assert_eq!(row[0], tokenizer.start());
        let end = row.iter().position(|id| *id == tokenizer.end()).expect("an end mark");
        assert!(row[end + 1..].iter().all(|id| *id == 0));
    }
    assert_eq!(
        tokens.trimmed(tokenizer.end()).select(1..2).ids()[..2],
        [tokenizer.start(), tokenizer.end()]
    );
    Ok(())
}

#[test]
fn training_depends_on_the_captions_alone() -> Result<()> {
    let mut backwards = CAPTIONS;
    backwards.reverse();
    let again = Tokenizer::train(backwards.into_iter(), 560, 16)?;
    assert_eq!(trained(16).to_json()?, again.to_json()?);
    let none = Tokenizer::train([].into_iter(), 9999, 8)?;
    assert_eq!(none.vocab_size(), 514);
    Ok(())
}

#[test]
fn a_frequent_word_is_one_token() -> Result<()> {
    let tokenizer = Tokenizer::train(CAPTIONS.into_iter(), 9999, 16)?;
    assert_eq!(tokenizer.length("Red  SQUARE\n")?, 4);
    assert_eq!(tokenizer.length("12")?, 4); // digits stand alone
    Ok(())
}

/// A caption that ends itself, or starts another, would be read as the attacker likes.
#[test]
fn marks_in_a_text_are_plain_text() -> Result<()> {
    let tokenizer = trained(64);
    for text in
        ["a <|endoftext|> b", "<|startoftext|>", "<|endoftext|><|endoftext|>", "<|EndOfText|>"]
    {
        let tokens = tokenizer.encode(&[text])?;
        let marks = tokens.ids().iter().filter(|id| **id >= tokenizer.start()).count();
        assert_eq!(marks, 2, "{text}: {:?}", tokens.ids());
        assert!(tokenizer.length(text)? > 6, "{text} is spelt out");
    }
    Ok(())
}

#[test]
fn an_over_long_caption_keeps_the_end_mark() -> Result<()> {
    let tokenizer = Tokenizer::train(CAPTIONS.into_iter(), 9999, 5)?;
    let check = |text: &str, length: usize| -> Result<()> {
        assert_eq!(tokenizer.length(text)?, length);
        let tokens = tokenizer.encode(&[text])?;
        assert_eq!(tokens.length(), 5);
        assert_eq!(tokens.ids()[length.min(5) - 1], tokenizer.end(), "{text}");
        Ok(())
    };
    check("", 2)?;
    check("red square", 4)?;
    check("red square red", 5)?;
    check("red square red square", 6)?;
    check(&"red ".repeat(1000), 1002)
}

#[test]
fn a_json_round_trip_changes_no_id() -> Result<()> {
    let tokenizer = trained(16);
    let again = Tokenizer::from_bytes(&tokenizer.to_json()?)?;
    assert_eq!(again.context_length(), 16);
    assert_eq!(tokenizer.encode(&CAPTIONS)?, again.encode(&CAPTIONS)?);
    assert_eq!(again.to_json()?, tokenizer.to_json()?);
    let longer = again.with_context_length(20)?;
    assert_eq!(Tokenizer::from_bytes(&longer.to_json()?)?.context_length(), 20);
    Ok(())
}

/// With its own settings, as other software uses it, the file gives the ids of `encode`.
#[test]
fn the_file_alone_gives_our_ids() -> Result<()> {
    let tokenizer = trained(12);
    let plain = tokenizers::Tokenizer::from_bytes(tokenizer.to_json()?).expect("a tokenizer.json");
    for text in CAPTIONS.iter().chain(&["", "ÀÉ e\u{301}  \t猫 👍🏽 don't 1234", "red square"])
    {
        let theirs = plain.encode(*text, true).expect("a text");
        assert_eq!(tokenizer.encode(&[text])?.ids(), theirs.get_ids(), "{text}");
    }
    Ok(())
}

#[test]
fn many_texts_are_the_single_ones() -> Result<()> {
    let tokenizer = trained(16);
    let texts: Vec<String> = (0..200).map(|i| format!("{} {i}", CAPTIONS[i % 6])).collect();
    let mut single = TokenBatch::from_ids(Vec::new(), 16);
    for text in &texts {
        single.extend(&tokenizer.encode(&[text])?);
    }
    assert_eq!(tokenizer.encode(&texts)?, single);
    Ok(())
}

#[test]
fn what_is_no_clip_tokenizer_is_refused() -> Result<()> {
    let check = |bytes: &[u8], expected: &str| {
        let error = Tokenizer::from_bytes(bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(b"", "not a tokenizer");
    check(b"{\"version\": \"1.0\"", "not a tokenizer");
    let whole = trained(16).to_json()?;
    check(&whole[..whole.len() / 2], "not a tokenizer");
    let text = String::from_utf8(whole).expect("JSON is UTF-8");
    check(text.replace(END_TOKEN, "<|end|>").as_bytes(), "`<|endoftext|>` must have id");
    let error = Tokenizer::train(CAPTIONS.into_iter(), 513, 16).expect_err("too small");
    assert_eq!(
        error.to_string(),
        "a vocabulary of 513 tokens is too small: bytes and marks alone are 514"
    );
    let error = Tokenizer::train(CAPTIONS.into_iter(), 514, 2).expect_err("too short");
    assert!(error.to_string().contains("a context of 2 tokens"), "{error}");
    let missing = Tokenizer::open(Path::new("no/such/tokenizer.json")).expect_err("missing");
    assert_eq!(missing.to_string(), "cannot read `no/such/tokenizer.json`");
    Ok(())
}

proptest! {
    #[test]
    fn every_text_has_one_start_and_one_end(text in "\\PC{0,40}|(<\\|endoftext\\|> ?){0,3}") {
        let tokenizer = trained(10);
        let tokens = tokenizer.encode(&[&text])?;
        let length = tokenizer.length(&text)?.min(10);
        prop_assert_eq!(tokens.ids()[0], tokenizer.start());
        prop_assert_eq!(tokens.ids()[length - 1], tokenizer.end());
        let marks = tokens.ids().iter().filter(|id| **id >= tokenizer.start()).count();
        prop_assert_eq!(marks, 2);
        prop_assert!(tokens.ids()[length..].iter().all(|id| *id == 0));
    }
}
