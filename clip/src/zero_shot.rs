//! Labels turned into captions; an image goes to the nearest (CLIP, section 3.1).

use crate::{
    Encoder, Result, UnitRows,
    embedding::cosine,
    text::{PromptTemplate, TextError, Tokenizer},
};

/// Captions that the text tower sees at once.
const CAPTIONS_PER_BATCH: usize = 256;

/// `[L, D]`: for each label the unit mean of the embeddings of all its filled templates (CLIP,
/// section 3.1.4). Refuses an empty list of labels or of templates.
pub fn label_rows(
    encoder: &mut dyn Encoder,
    tokenizer: &Tokenizer,
    labels: &[String],
    templates: &[PromptTemplate],
) -> Result<UnitRows> {
    if labels.is_empty() {
        return Err(TextError::Nothing("labels").into());
    }
    if templates.is_empty() {
        return Err(TextError::Nothing("templates").into());
    }
    // Whole labels per batch, so that memory does not grow with their number.
    let labels_per_batch = CAPTIONS_PER_BATCH.div_ceil(templates.len());
    let mut rows: Option<UnitRows> = None;
    for labels in labels.chunks(labels_per_batch) {
        let captions: Vec<String> = labels
            .iter()
            .flat_map(|label| templates.iter().map(|template| template.fill(label)))
            .collect();
        let captions = caption_rows(encoder, tokenizer, &captions)?;
        let dim = captions.dim();
        for label in captions.values().chunks_exact(templates.len() * dim) {
            let row = UnitRows::normalize(label.to_vec(), dim);
            let row = if templates.len() == 1 { row } else { row.ensemble() };
            match &mut rows {
                Some(rows) => rows.extend(&row),
                None => rows = Some(row),
            }
        }
    }
    Ok(rows.expect("there is at least one label"))
}

/// `[B, D]` rows of captions, embedded in batches. Refuses an empty list.
pub fn caption_rows(
    encoder: &mut dyn Encoder,
    tokenizer: &Tokenizer,
    captions: &[String],
) -> Result<UnitRows> {
    if captions.is_empty() {
        return Err(TextError::Nothing("captions").into());
    }
    let mut rows: Option<UnitRows> = None;
    for captions in captions.chunks(CAPTIONS_PER_BATCH) {
        let tokens = tokenizer.encode(captions)?.trimmed(tokenizer.end());
        let batch = encoder.embed_texts(&tokens)?;
        match &mut rows {
            Some(rows) => rows.extend(&batch),
            None => rows = Some(batch),
        }
    }
    Ok(rows.expect("there is at least one caption"))
}

/// `[L]` softmax of `exp(logit_scale) * cosine`: one image's score of each label, sum 1.
///
/// `image_row`: `[D]`, unit; `labels`: `[L, D]`; `logit_scale`: the *logarithm* of the factor.
pub fn scores(image_row: &[f32], labels: &UnitRows, logit_scale: f32) -> Vec<f32> {
    let scale = f64::from(logit_scale).exp();
    let logits: Vec<f64> =
        labels.rows().map(|label| scale * f64::from(cosine(image_row, label))).collect();
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

/// The label nearest to an image, the first of equals. Panics without labels.
pub fn best(image_row: &[f32], labels: &UnitRows) -> usize {
    let cosines: Vec<f32> = labels.rows().map(|label| cosine(image_row, label)).collect();
    ranked(&cosines, 1).first().expect("there is at least one label").0
}

/// The `top_k` highest scores with their labels, best first, equals in the order of the labels.
pub fn ranked(scores: &[f32], top_k: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1)); // stable
    order.truncate(top_k);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClipConfig, image::PixelBatch, text::TokenBatch};

    /// Turns a caption into the histogram of its ids modulo D; remembers the largest batch.
    struct Histogram {
        config: ClipConfig,
        largest: usize,
    }

    impl Encoder for Histogram {
        fn config(&self) -> &ClipConfig {
            &self.config
        }

        fn embed_images(&mut self, _: &PixelBatch) -> Result<UnitRows> {
            unreachable!("labels are texts")
        }

        fn embed_texts(&mut self, tokens: &TokenBatch) -> Result<UnitRows> {
            self.largest = self.largest.max(tokens.count());
            let dim = self.config.dim;
            let mut values = vec![0.0; tokens.count() * dim];
            for (row, ids) in values.chunks_mut(dim).zip(tokens.rows()) {
                ids.iter().filter(|id| **id > 0).for_each(|id| row[*id as usize % dim] += 1.0);
            }
            Ok(UnitRows::normalize(values, dim))
        }

        fn logit_scale(&self) -> f32 {
            0.0
        }
    }

    fn parts() -> (Histogram, Tokenizer) {
        let config = ClipConfig::preset("rn-micro").expect("a preset");
        let tokenizer = Tokenizer::train(["a b c"].into_iter(), 600, 16).expect("a tokenizer");
        (Histogram { config, largest: 0 }, tokenizer)
    }

    fn templates(texts: &[&str]) -> Vec<PromptTemplate> {
        texts.iter().map(|text| text.parse().expect("one place")).collect()
    }

    #[test]
    fn each_label_is_the_ensemble_of_its_captions() -> Result<()> {
        let (mut encoder, tokenizer) = parts();
        let labels: Vec<String> = (0..300).map(|label| format!("l{label}")).collect();
        let templates = templates(&["a {}", "{} b", "see {} c"]);
        let rows = label_rows(&mut encoder, &tokenizer, &labels, &templates)?;
        assert_eq!((rows.count(), rows.dim()), (300, 128));
        assert!(encoder.largest <= CAPTIONS_PER_BATCH);
        for (label, row) in labels.iter().zip(rows.rows()).step_by(37) {
            let captions: Vec<String> = templates.iter().map(|t| t.fill(label)).collect();
            let alone = encoder.embed_texts(&tokenizer.encode(&captions)?)?.ensemble();
            assert!((cosine(row, alone.row(0)) - 1.0).abs() < 1e-6, "{label}");
        }
        Ok(())
    }

    #[test]
    fn nothing_to_choose_from_is_refused() {
        let (mut encoder, tokenizer) = parts();
        let check = |encoder: &mut Histogram, labels: &[String], texts: &[&str], expected: &str| {
            let rows = label_rows(encoder, &tokenizer, labels, &templates(texts));
            assert_eq!(rows.expect_err(expected).to_string(), expected);
        };
        check(&mut encoder, &[], &["{}"], "there are no labels");
        check(&mut encoder, &["cat".into()], &[], "there are no templates");
    }

    #[test]
    fn scores_are_a_softmax_at_the_scale() {
        let labels = UnitRows::normalize(vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0], 2);
        let check = |logit_scale: f32, expected: [f32; 3]| {
            let found = scores(&[1.0, 0.0], &labels, logit_scale);
            let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close && (found.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{found:?}");
        };
        check(0.0, [0.665_240_96, 0.244_728_47, 0.090_030_57]);
        check(100f32.ln(), [1.0, 0.0, 0.0]);
        check(-50.0, [1.0 / 3.0; 3]);
        assert_eq!(best(&[0.0, 1.0], &labels), 1);
        assert_eq!(best(&[0.0, 0.0], &labels), 0); // the first of equals
    }

    #[test]
    fn ranked_is_best_first_and_stable() {
        let scores = [0.1, 0.5, 0.1, 0.3];
        assert_eq!(ranked(&scores, 3), [(1, 0.5), (3, 0.3), (0, 0.1)]);
        assert_eq!(ranked(&scores, 99).len(), 4);
        assert!(ranked(&scores, 0).is_empty());
    }
}
