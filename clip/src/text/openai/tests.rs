use std::{fs, path::Path};

use crate::{
    Result,
    text::{Cleaning, END_TOKEN, START_TOKEN, Tokenizer},
};

const CLEANINGS: [Cleaning; 2] = [Cleaning::OpenAi, Cleaning::HuggingFace];

/// Ids up to and with the end mark.
fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(&[text])?.trimmed(tokenizer.end()).ids().to_vec())
}

#[test]
fn the_sizes_are_openais() -> Result<()> {
    for cleaning in CLEANINGS {
        let tokenizer = Tokenizer::openai(cleaning)?;
        assert_eq!((tokenizer.start(), tokenizer.end()), (49406, 49407));
        assert_eq!((tokenizer.vocab_size(), tokenizer.context_length()), (49408, 77));
        assert_eq!(Cleaning::of_name(cleaning.name()), Some(cleaning));
        assert_eq!(
            ids(&tokenizer, "A photo of a dog!")?,
            [49406, 320, 1125, 539, 320, 1929, 256, 49407]
        );
        let long = tokenizer.encode(&["word ".repeat(100)])?;
        assert_eq!((long.length(), long.ids()[76]), (77, 49407));
    }
    Ok(())
}

/// What transformers and open_clip make of the same texts; `scripts/tokenizer/check.py --golden`
/// wrote it down.
#[test]
fn transformers_and_open_clip_give_the_same_ids() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer/ids.json");
    let text = fs::read_to_string(path).expect("a golden file");
    let golden: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let [openai, hugging_face] = CLEANINGS.map(Tokenizer::openai);
    let (openai, hugging_face) = (openai?, hugging_face?);
    let cases = golden["cases"].as_array().expect("a list");
    assert!(cases.len() >= 300, "{} texts", cases.len());
    let mut apart = 0;
    for case in cases {
        let text = case["text"].as_str().expect("a text");
        let open_clip = &case["open_clip"];
        assert_eq!(serde_json::json!(ids(&openai, text)?), *open_clip, "{text:?}");
        // Written down where it differs; a mark's name is a mark there and plain text here.
        let transformers = case.get("transformers").unwrap_or(open_clip);
        let ours = serde_json::json!(ids(&hugging_face, text)?);
        let names_mark = text.contains(START_TOKEN) || text.contains(END_TOKEN);
        assert_eq!(ours == *transformers, !names_mark, "{text:?}: {ours}, {transformers}");
        apart += usize::from(transformers != open_clip);
    }
    assert!(apart > 10, "the cleanings differ on {apart} texts only");
    Ok(())
}

#[test]
fn a_file_keeps_the_cleaning() -> Result<()> {
    for cleaning in CLEANINGS {
        let tokenizer = Tokenizer::openai(cleaning)?.with_context_length(20)?;
        let file = tokenizer.to_json()?;
        let again = Tokenizer::from_bytes(&file)?;
        assert_eq!(again.to_json()?, file);
        assert_eq!(again.context_length(), 20);
        let entities = "&rarr; &amp;amp;lt; caf&eacute; ΣΑΣ";
        assert_eq!(ids(&again, entities)?, ids(&tokenizer, entities)?);
    }
    let [openai, hugging_face] = CLEANINGS.map(Tokenizer::openai);
    assert_ne!(ids(&openai?, "caf&eacute;")?, ids(&hugging_face?, "caf&eacute;")?);
    Ok(())
}

/// What a file can say of the cleaning suffices for most captions.
#[test]
fn other_software_reads_the_file_alike() -> Result<()> {
    for cleaning in CLEANINGS {
        let tokenizer = Tokenizer::openai(cleaning)?;
        let file = tokenizer.to_json()?;
        let plain = tokenizers::Tokenizer::from_bytes(file).expect("a tokenizer.json");
        for text in [
            "a photo of a dog, isn't it?",
            "  “curly” ‘quotes’ ﬁsh & AT&amp;T &amp;amp; &lt;b&gt; &nbsp;x&#39;s",
            "CAFE\u{301} 日本語 👍🏽 1234",
            &"word ".repeat(100),
        ] {
            let theirs = plain.encode(text, true).expect("a text");
            assert_eq!(tokenizer.encode(&[text])?.ids(), theirs.get_ids(), "{cleaning:?}: {text}");
        }
    }
    Ok(())
}
