//! Small models that are the same on every machine: no trained file has to be kept, and other
//! software's answers about them can be (`tests/golden/peers`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use clip::{
    ClipConfig, Encoder, Result,
    folder::{self, ModelFolder},
    image::{self, Limits, PixelBatch, RgbImage},
    text::Tokenizer,
    weights::{self, Array, Weights},
};
use serde_json::{Value, json};

/// What the tokenizer is trained on.
const CAPTIONS: [&str; 6] = [
    "a photo of a red circle",
    "a photo of two blue squares on a green field",
    "there is a small yellow triangle in the picture",
    "it's a big red square, isn't it?",
    "the circle is 90% blue",
    "a picture with nothing but noise",
];

/// Texts whose rows are compared: empty, short, capitals, contractions, digits, other scripts, and
/// more than the context holds.
pub const TEXTS: [&str; 6] = [
    "",
    "a red circle",
    "Two BLUE  squares, on a   field!",
    "it's 90% noise; isn't it?",
    "Größe \u{65e5}\u{672c}\u{8a9e} \u{1f43b} cafe\u{301}",
    "a small yellow triangle in the picture and a small yellow triangle in the picture and a small \
     yellow triangle in the picture and a small yellow triangle in the picture",
];

/// Writes a model folder of the preset at `path`, which is made: a vocabulary learnt on a handful
/// of sentences, and weights that follow from `seed` by integer arithmetic alone.
///
/// The weights are not those of a new model: biases, norms and running statistics differ from
/// channel to channel, so that a part left out or swapped changes the embeddings.
pub fn write_model_folder(path: &Path, preset: &str, seed: u64) -> Result<ModelFolder> {
    let mut config = ClipConfig::preset(preset).expect("the name of a preset");
    let captions = CAPTIONS.iter().cycle().take(2 * CAPTIONS.len()).copied();
    let tokenizer = Tokenizer::train(captions, 640, config.text.context_length)?;
    config.text.vocab_size = tokenizer.vocab_size();
    let weights = weights(&config, seed);
    fs::create_dir_all(path)
        .map_err(|source| clip::Error::Write { path: path.to_owned(), source })?;
    folder::write(path, &config, &tokenizer, &weights)?;
    ModelFolder::open(path)
}

fn weights(config: &ClipConfig, seed: u64) -> Weights {
    let array = |(name, shape): (String, Vec<usize>)| {
        let mut random = SplitMix::new(seed, &name);
        let (center, reach) = spread(&name, &shape);
        let count = shape.iter().product();
        let values = (0..count).map(|_| center + reach * random.symmetric()).collect();
        (name, Array { shape, values })
    };
    weights::expected(config).into_iter().map(array).collect()
}

/// Middle and greatest distance from it of a parameter's values.
fn spread(name: &str, shape: &[usize]) -> (f32, f32) {
    let ends = |suffix: &str| name.ends_with(suffix);
    let norm =
        ["bn1", "bn2", "bn3", "downsample.1", "ln_1", "ln_2", "ln_pre", "ln_post", "ln_final"];
    let is_norm = norm.iter().any(|norm| name.contains(&format!("{norm}.")));
    match shape.len() {
        _ if name == "logit_scale" => (3.0, 0.0),
        _ if ends("running_mean") => (0.0, 0.5),
        _ if ends("running_var") => (1.0, 0.7),
        1 if is_norm && ends("weight") => (1.0, 0.5),
        1 => (0.0, 0.2),
        // Uniform with the variance 1 / fan-in.
        _ if ends("weight") && !name.contains("embedding") => {
            let fan_in: usize = shape[1..].iter().product();
            (0.0, (3.0 / fan_in as f32).sqrt())
        }
        _ if ends("in_proj_weight") => (0.0, (3.0 / shape[1] as f32).sqrt()),
        _ if name.contains("embedding") => (0.0, 0.5),
        // `proj` and `text_projection` are `[W, D]`.
        _ => (0.0, (3.0 / shape[0] as f32).sqrt()),
    }
}

/// Pictures at the towers' size, and one that must be resized first.
pub fn write_pictures(path: &Path) -> Result<Vec<PathBuf>> {
    let mut random = SplitMix::new(0, "pictures");
    let mut bytes = || (random.next() >> 32) as u8;
    let colors: [[u8; 3]; 4] = std::array::from_fn(|_| std::array::from_fn(|_| bytes()));
    let noise: Vec<[u8; 3]> = (0..32 * 32).map(|_| std::array::from_fn(|_| bytes())).collect();
    type Pixel<'a> = &'a dyn Fn(usize, usize) -> [u8; 3];
    let pictures: [(&str, usize, Pixel<'_>); 5] = [
        ("blocks", 32, &|x, y| colors[2 * (y / 16) + x / 16]),
        ("noise", 32, &|x, y| noise[32 * y + x]),
        ("gradient", 32, &|x, y| [(8 * x) as u8, (8 * y) as u8, 128]),
        ("checks", 32, &|x, y| [255 * ((x + y) % 2) as u8; 3]),
        ("resized", 80, &|x, y| [(3 * x) as u8, (3 * y) as u8, ((x * y) / 26) as u8]),
    ];
    let mut paths = Vec::new();
    for (name, side, pixel) in pictures {
        let bytes = (0..side * side).flat_map(|at| pixel(at % side, at / side)).collect();
        let picture = RgbImage::from_raw(side as u32, side as u32, bytes).expect("whole pixels");
        let path = path.join(format!("{name}.png"));
        clip::atomic_write::atomic_write(&path, &image::encode_png(&picture))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Our rows of the pictures and of the texts, with all that another program needs to make its own:
/// schema `roclip/embeddings/1`.
pub fn embeddings(
    encoder: &mut dyn Encoder,
    tokenizer: &Tokenizer,
    pictures: &[PathBuf],
    texts: &[&str],
) -> Result<Value> {
    let open = |path: &PathBuf| image::open(path, &Limits::default());
    let images = pictures.iter().map(open).collect::<Result<Vec<_>>>()?;
    let pixels = PixelBatch::of(&images, encoder.config());
    let image_rows = encoder.embed_images(&pixels)?;
    let tokens = tokenizer.encode(texts)?;
    let text_rows = encoder.embed_texts(&tokens)?;
    Ok(json!({
        "schema": "roclip/embeddings/1",
        "images": pictures.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "image_embeds": image_rows.rows().collect::<Vec<_>>(),
        "texts": texts,
        "input_ids": tokens.rows().collect::<Vec<_>>(),
        "text_embeds": text_rows.rows().collect::<Vec<_>>(),
    }))
}

/// Steele, Lea & Flood 2014; a stream per name.
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0..`limit`, as far as 2^64 is a multiple of it.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }

    /// Uniform in [-1, 1), a multiple of 2^-23, hence exact.
    fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }
}
