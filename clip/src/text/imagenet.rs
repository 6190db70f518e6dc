//! The 80 prompt templates with which CLIP was evaluated on ImageNet (OpenAI,
//! `notebooks/Prompt_Engineering_for_ImageNet.ipynb`), out of their grammar.

use super::PromptTemplate;

/// The 80 templates, all distinct; `a` and `an` are not told apart, as in the original.
///
/// To average over them is the ensemble of CLIP, section 3.1.4.
pub fn imagenet_templates() -> Vec<PromptTemplate> {
    let texts = FORMS.iter().flat_map(|(form, determiners, words)| {
        determiners.iter().flat_map(move |determiner| {
            words.iter().map(move |word| form.replace("DET", determiner).replace("WORD", word))
        })
    });
    texts.map(|text| text.parse().expect("each form has one place")).collect()
}

/// A form, what stands for DET, and what for WORD.
type Form = (&'static str, &'static [&'static str], &'static [&'static str]);

const BOTH: &[&str] = &["a", "the"];
const FORMS: [Form; 8] = [
    (
        "a WORD photo of DET {}.",
        BOTH,
        &[
            "bad",
            "low resolution",
            "cropped",
            "bright",
            "dark",
            "close-up",
            "black and white",
            "pixelated",
            "jpeg corrupted",
            "blurry",
            "good",
        ],
    ),
    (
        "a photo of DET WORD {}.",
        BOTH,
        &["hard to see", "clean", "dirty", "cool", "weird", "large", "small", "nice"],
    ),
    ("a photo of DET {}.", &["a", "the", "many", "one", "my"], &[""]),
    (
        "a WORD of DET {}.",
        BOTH,
        &[
            "sculpture",
            "rendering",
            "painting",
            "drawing",
            "doodle",
            "sketch",
            "tattoo",
            "rendition",
        ],
    ),
    ("WORD of DET {}.", BOTH, &["graffiti", "art"]),
    ("itap of DET {}.", &["a", "the", "my"], &[""]),
    ("DET WORD {}.", BOTH, &["embroidered", "plastic", "origami", "toy", "cartoon", "plushie"]),
    ("DET {} in a video game.", BOTH, &[""]),
];

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// SHA-256 of the sorted lines of `OPENAI_IMAGENET_TEMPLATES` of open_clip_torch 3.3.0, `{}` for
    /// the class.
    const OPEN_CLIP: &str = "c89d6b0384c1265efec0aa4f22caf3c28f6ebb320015e6914cbfa60726e55c3c";

    #[test]
    fn the_eighty_of_open_clip() {
        let mut lines: Vec<String> =
            imagenet_templates().iter().map(|template| format!("{template}\n")).collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 80);
        for known in ["a photo of the hard to see {}.\n", "itap of my {}.\n"] {
            assert!(lines.iter().any(|line| line == known), "{known}");
        }
        let digest = Sha256::digest(lines.concat());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, OPEN_CLIP);
    }
}
