//! Pictures find their captions among all captions, captions their pictures among all pictures.
//!
//! A picture has as many captions as rows name it; it counts by the best of them, once. A text that
//! several pictures have is one caption: it is embedded once, asks once, and each of these pictures
//! is right (Karpathy and Fei-Fei 2015, section 4.2, with equal texts told apart by nobody).

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use clip::{Rate, UnitRows};
use rayon::prelude::*;
use serde::Serialize;

use crate::Result;

/// Cosines that are in memory at one time: 16 MiB.
const COSINES: usize = if cfg!(test) { 64 } else { 4 << 20 };

/// Recall at 1, 5 and 10 in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retrieval {
    /// Pictures that ask, and are found.
    pub images: usize,
    /// Distinct texts that ask, and are found.
    pub captions: usize,
    /// Pictures whose nearest text is one of theirs.
    pub image_to_text_r1: Rate,
    /// Pictures with one of their texts among the nearest five.
    pub image_to_text_r5: Rate,
    /// Pictures with one of their texts among the nearest ten.
    pub image_to_text_r10: Rate,
    /// Texts whose nearest picture is one of theirs.
    pub text_to_image_r1: Rate,
    /// Texts with one of their pictures among the nearest five.
    pub text_to_image_r5: Rate,
    /// Texts with one of their pictures among the nearest ten.
    pub text_to_image_r10: Rate,
}

/// Which picture has which text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pairs {
    /// Distinct, in the order of their first appearance.
    pub(super) texts: Vec<String>,
    /// Texts of each picture, ascending.
    of_images: Vec<Vec<u32>>,
    /// Pictures of each text, ascending.
    of_texts: Vec<Vec<u32>>,
}

impl Pairs {
    /// `pairs`: picture, below `images`, and text of each row.
    pub(super) fn of<'a>(images: usize, pairs: impl Iterator<Item = (usize, &'a str)>) -> Self {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let (mut texts, mut of_texts) = (Vec::new(), Vec::<Vec<u32>>::new());
        let mut of_images = vec![Vec::new(); images];
        for (image, text) in pairs {
            let number = *numbers.entry(text).or_insert_with(|| {
                texts.push(text.to_owned());
                of_texts.push(Vec::new());
                texts.len() as u32 - 1
            });
            of_images[image].push(number);
            of_texts[number as usize].push(image as u32);
        }
        for list in of_images.iter_mut().chain(&mut of_texts) {
            list.sort_unstable();
            list.dedup();
        }
        Self { texts, of_images, of_texts }
    }
}

/// `images`: `[N, D]`, `texts`: `[M, D]`, as `pairs` numbers them.
pub(super) fn retrieval(images: &UnitRows, texts: &UnitRows, pairs: &Pairs) -> Result<Retrieval> {
    let by_image = best_ranks(images, texts, &pairs.of_images)?;
    let by_text = best_ranks(texts, images, &pairs.of_texts)?;
    let within = |ranks: &[usize], k| Rate::of(ranks.iter().map(|&rank| rank < k));
    Ok(Retrieval {
        images: by_image.len(),
        captions: by_text.len(),
        image_to_text_r1: within(&by_image, 1),
        image_to_text_r5: within(&by_image, 5),
        image_to_text_r10: within(&by_image, 10),
        text_to_image_r1: within(&by_text, 1),
        text_to_image_r5: within(&by_text, 5),
        text_to_image_r10: within(&by_text, 10),
    })
}

/// For each query how many keys are nearer than the nearest of its own, of which there is at least
/// one; of equally near keys the first is nearer. Some queries at one time, with all keys.
fn best_ranks(queries: &UnitRows, keys: &UnitRows, own: &[Vec<u32>]) -> Result<Vec<usize>> {
    let (count, dim) = (keys.count(), keys.dim());
    let transposed = Tensor::from_slice(keys.values(), (count, dim), &Device::Cpu)?.t()?;
    let size = (COSINES / count.max(1)).max(1);
    let mut ranks = Vec::with_capacity(own.len());
    for (queries, own) in queries.values().chunks(size * dim).zip(own.chunks(size)) {
        let queries = Tensor::from_slice(queries, (own.len(), dim), &Device::Cpu)?;
        let cosines = queries.matmul(&transposed)?.flatten_all()?.to_vec1::<f32>()?;
        let rows = cosines.par_chunks_exact(count).zip(own);
        ranks.par_extend(rows.map(|(cosines, own)| rank_of_best(cosines, own)));
    }
    Ok(ranks)
}

fn rank_of_best(cosines: &[f32], own: &[u32]) -> usize {
    let mut best = own[0] as usize;
    for &key in &own[1..] {
        if cosines[key as usize] > cosines[best] {
            best = key as usize;
        }
    }
    let (before, after) = cosines.split_at(best);
    let own = cosines[best];
    let not_farther = before.iter().filter(|&&cosine| cosine >= own).count();
    not_farther + after.iter().filter(|&&cosine| cosine > own).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::golden;

    #[test]
    fn a_text_of_several_pictures_is_one_caption() {
        let rows = [(0, "a"), (1, "b"), (0, "c"), (2, "a"), (0, "a")];
        let pairs = Pairs::of(3, rows.into_iter());
        assert_eq!(pairs.texts, ["a", "b", "c"]);
        assert_eq!(pairs.of_images, [vec![0, 2], vec![1], vec![0]]);
        assert_eq!(pairs.of_texts, [vec![0, 2], vec![1], vec![0]]);
    }

    #[test]
    fn a_collapsed_model_finds_what_comes_first() -> Result<()> {
        let same = |count| UnitRows::normalize([0.6, 0.8].repeat(count), 2);
        let texts: Vec<String> = (0..20).map(|text| text.to_string()).collect();
        let pairs = Pairs::of(20, texts.iter().map(String::as_str).enumerate());
        let found = retrieval(&same(20), &same(20), &pairs)?;
        assert_eq!(found.image_to_text_r1, Rate { hits: 1, trials: 20 });
        assert_eq!(found.text_to_image_r10, Rate { hits: 10, trials: 20 });
        Ok(())
    }

    #[test]
    fn as_plain_python_finds() -> Result<()> {
        let golden = golden::open("rates.json");
        let golden = &golden["retrieval"];
        let rows = golden["rows"].as_array().expect("rows").iter();
        let rows = rows.map(|row| (golden::index(&row[0]), row[1].as_str().expect("a text")));
        let (images, texts) = (golden::rows(&golden["images"]), golden::rows(&golden["texts"]));
        let pairs = Pairs::of(images.count(), rows);
        assert_eq!(golden["distinct_texts"], serde_json::json!(pairs.texts));
        let by_image = best_ranks(&images, &texts, &pairs.of_images)?;
        let by_text = best_ranks(&texts, &images, &pairs.of_texts)?;
        assert_eq!(by_image, golden::indexes(&golden["image_ranks"]));
        assert_eq!(by_text, golden::indexes(&golden["text_ranks"]));
        let found = serde_json::to_value(retrieval(&images, &texts, &pairs)?).expect("counts");
        for (key, hits) in golden["hits"].as_object().expect("counts") {
            let trials = found[key]["trials"].as_f64().expect("a count");
            let value = found[key]["value"].as_f64().expect("a share");
            assert_eq!((value * trials).round(), hits.as_f64().expect("a count"), "{key}");
        }
        Ok(())
    }
}
