//! The parameters of a model as named arrays, and the safetensors file that holds them.
//!
//! Inside roclip a parameter has OpenAI's name (`visual.conv1.weight`, `transformer.resblocks.0.…`,
//! see [`expected`]). A file may also use the names of Hugging Face's `CLIPModel` ([`hf`]), or put
//! the text tower under `text.`, as open_clip's `CustomTextCLIP` does: [`read`] understands all,
//! [`write()`] chooses the one that the ecosystem expects of the architecture.
//! Nothing here knows tensors of any framework.

pub mod hf;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorView},
};

use crate::{
    ClipConfig, Error, Result,
    atomic_write::atomic_write,
    config::{ImageTower, Resnet, TextTower, Vit},
};

/// Parameters by name; BatchNorm's running statistics are among them.
pub type Weights = BTreeMap<String, Array>;

/// A parameter's values, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many as the product of `shape`.
    pub values: Vec<f32>,
}

/// How a parameter of ours lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Same,
    /// Rows and columns exchanged.
    Transposed,
    /// The first axis cut into three parts, one per piece.
    Third,
}

/// One tensor of a file that is a parameter of ours or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) name: String,
    pub(crate) form: Form,
}

/// The tensors of a file that make up a parameter of ours.
type Names = fn(&str) -> Vec<Piece>;

/// Buffers that other software writes and that hold nothing that we need.
const IGNORED: [&str; 3] = ["num_batches_tracked", "position_ids", "attn_mask"];

/// Names and shapes of all parameters of an architecture, in our dialect: OpenAI's names
/// (the `state_dict` of its `model.py`), projections `[width, D]`.
pub fn expected(config: &ClipConfig) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = Shapes::default();
    match &config.image {
        ImageTower::Resnet(tower) => shapes.resnet(tower, config.dim),
        ImageTower::Vit(tower) => shapes.vit(tower, config.dim),
    }
    shapes.text(&config.text, config.dim);
    shapes.add("logit_scale", &[]);
    shapes.0
}

#[derive(Default)]
struct Shapes(BTreeMap<String, Vec<usize>>);

impl Shapes {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.insert(name.into(), shape.to_vec());
    }

    fn pair(&mut self, name: &str, weight: &[usize]) {
        self.add(format!("{name}.weight"), weight);
        self.add(format!("{name}.bias"), &weight[..1]);
    }

    fn batch_norm(&mut self, name: &str, channels: usize) {
        self.pair(name, &[channels]);
        self.add(format!("{name}.running_mean"), &[channels]);
        self.add(format!("{name}.running_var"), &[channels]);
    }

    fn transformer(&mut self, prefix: &str, layers: usize, width: usize) {
        for layer in 0..layers {
            let block = format!("{prefix}.resblocks.{layer}");
            self.pair(&format!("{block}.ln_1"), &[width]);
            self.add(format!("{block}.attn.in_proj_weight"), &[3 * width, width]);
            self.add(format!("{block}.attn.in_proj_bias"), &[3 * width]);
            self.pair(&format!("{block}.attn.out_proj"), &[width, width]);
            self.pair(&format!("{block}.ln_2"), &[width]);
            self.pair(&format!("{block}.mlp.c_fc"), &[4 * width, width]);
            self.pair(&format!("{block}.mlp.c_proj"), &[width, 4 * width]);
        }
    }

    fn text(&mut self, tower: &TextTower, dim: usize) {
        self.add("token_embedding.weight", &[tower.vocab_size, tower.width]);
        self.add("positional_embedding", &[tower.context_length, tower.width]);
        self.transformer("transformer", tower.layers, tower.width);
        self.pair("ln_final", &[tower.width]);
        self.add("text_projection", &[tower.width, dim]);
    }

    fn vit(&mut self, tower: &Vit, dim: usize) {
        let (width, patch) = (tower.width, tower.patch_size);
        self.add("visual.conv1.weight", &[width, 3, patch, patch]);
        self.add("visual.class_embedding", &[width]);
        self.add("visual.positional_embedding", &[tower.patches() + 1, width]);
        self.pair("visual.ln_pre", &[width]);
        self.transformer("visual.transformer", tower.layers, width);
        self.pair("visual.ln_post", &[width]);
        self.add("visual.proj", &[width, dim]);
    }

    fn resnet(&mut self, tower: &Resnet, dim: usize) {
        let (width, half) = (tower.width, tower.width / 2);
        for (conv, (from, to)) in [(3, half), (half, half), (half, width)].into_iter().enumerate() {
            self.add(format!("visual.conv{}.weight", conv + 1), &[to, from, 3, 3]);
            self.batch_norm(&format!("visual.bn{}", conv + 1), to);
        }
        let mut from = width;
        for (stage, layers) in tower.layers.into_iter().enumerate() {
            let planes = width << stage;
            for layer in 0..layers {
                let block = format!("visual.layer{}.{layer}", stage + 1);
                self.bottleneck(&block, from, planes, layer == 0);
                from = 4 * planes;
            }
        }
        let channels = tower.channels();
        let positions = tower.grid().pow(2) + 1;
        self.add("visual.attnpool.positional_embedding", &[positions, channels]);
        for projection in ["q_proj", "k_proj", "v_proj"] {
            self.pair(&format!("visual.attnpool.{projection}"), &[channels, channels]);
        }
        self.pair("visual.attnpool.c_proj", &[dim, channels]);
    }

    /// The first block of a stage changes the channels, so its shortcut is a convolution.
    fn bottleneck(&mut self, block: &str, from: usize, planes: usize, first: bool) {
        self.add(format!("{block}.conv1.weight"), &[planes, from, 1, 1]);
        self.batch_norm(&format!("{block}.bn1"), planes);
        self.add(format!("{block}.conv2.weight"), &[planes, planes, 3, 3]);
        self.batch_norm(&format!("{block}.bn2"), planes);
        self.add(format!("{block}.conv3.weight"), &[4 * planes, planes, 1, 1]);
        self.batch_norm(&format!("{block}.bn3"), 4 * planes);
        if first {
            self.add(format!("{block}.downsample.0.weight"), &[4 * planes, from, 1, 1]);
            self.batch_norm(&format!("{block}.downsample.1"), 4 * planes);
        }
    }
}

/// Refuses weights that are not exactly those of the architecture, or not finite.
pub fn check(weights: &Weights, config: &ClipConfig) -> Result<()> {
    let expected = expected(config);
    for (name, shape) in &expected {
        let array = weights.get(name).ok_or_else(|| refuse(name, "is missing"))?;
        if array.shape != *shape || array.values.len() != shape.iter().product::<usize>() {
            let problem = format!("has shape {:?}, expected {shape:?}", array.shape);
            return Err(refuse(name, problem));
        }
        if let Some(index) = array.values.iter().position(|value| !value.is_finite()) {
            let problem = format!("value {index} is {}, not a number", array.values[index]);
            return Err(refuse(name, problem));
        }
    }
    match weights.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(refuse(name, "does not belong to this architecture")),
        None => Ok(()),
    }
}

/// Reads a safetensors file of any dialect (f32, f16 or bf16) into our dialect, and checks
/// that it holds exactly the parameters of the architecture, all finite.
///
/// A parameter that is missing, too many, misshapen or of another type is named as in the file.
pub fn read(path: &Path, config: &ClipConfig) -> Result<Weights> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::File {
        path: path.to_owned(),
        problem: format!("not a whole safetensors file: {error}"),
    })?;
    let dialect = dialect_of(file.names());
    let mut used = HashSet::new();
    let mut weights = Weights::new();
    for (name, shape) in expected(config) {
        let mut values = Vec::new(); // the file, not the configuration, says how much memory
        for piece in dialect(&name) {
            let view = file.tensor(&piece.name).map_err(|_| {
                refuse(&piece.name, format!("is missing from `{}`", path.display()))
            })?;
            values.extend(decode(&piece, &view, &shape)?);
            used.insert(piece.name);
        }
        weights.insert(name, Array { shape, values });
    }
    let ignored = |name: &str| IGNORED.iter().any(|suffix| name.ends_with(suffix));
    let mut rest: Vec<_> =
        file.names().into_iter().filter(|name| !used.contains(*name) && !ignored(name)).collect();
    rest.sort_unstable();
    match rest.first() {
        Some(name) => Err(refuse(name, "does not belong to the architecture of the folder")),
        None => Ok(weights),
    }
}

/// Writes a safetensors file, atomically: Hugging Face's names for a ViT, so that
/// `transformers.CLIPModel` loads it, OpenAI's for a ModifiedResNet, so that open_clip does.
pub fn write(path: &Path, weights: &Weights, config: &ClipConfig) -> Result<()> {
    let dialect = match config.image {
        ImageTower::Vit(_) => hf::pieces,
        ImageTower::Resnet(_) => same,
    };
    write_in(dialect, path, weights, config)
}

/// [`write()`] under OpenAI's names for either architecture, as open_clip loads them.
pub fn write_open_clip(path: &Path, weights: &Weights, config: &ClipConfig) -> Result<()> {
    write_in(same, path, weights, config)
}

fn write_in(dialect: Names, path: &Path, weights: &Weights, config: &ClipConfig) -> Result<()> {
    check(weights, config)?;
    let mut pieces = Vec::new();
    for (name, array) in weights {
        pieces.extend(encode(array, dialect(name)));
    }
    let mut views = Vec::with_capacity(pieces.len());
    for (name, shape, bytes) in &pieces {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes)
            .map_err(|error| refuse(name, error.to_string()))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]); // transformers asks
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| Error::File {
        path: path.to_owned(),
        problem: format!("cannot be made: {error}"),
    })?;
    atomic_write(path, &bytes)
}

/// The logit scale alone, without reading the rest; a file cut short is refused all the same.
pub fn read_logit_scale(path: &Path) -> Result<f32> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let refuse_file = |problem: String| Error::File { path: path.to_owned(), problem };
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut header_length = [0; 8];
    let mut header = Vec::new();
    let read = file.read_exact(&mut header_length).and_then(|()| {
        file.by_ref().take(u64::from_le_bytes(header_length).min(length)).read_to_end(&mut header)
    });
    read.map_err(|error| refuse_file(format!("not a whole safetensors file: {error}")))?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| refuse_file(format!("not a whole safetensors file: {error}")))?;
    let start = 8 + header.len() as u64;
    if length - start != metadata.data_len() as u64 {
        let (found, expected) = (length - start, metadata.data_len());
        let problem = format!("{found} bytes of values, expected {expected}");
        return Err(refuse_file(format!("not a whole safetensors file: {problem}")));
    }
    let name = "logit_scale";
    let info = metadata.info(name).ok_or_else(|| refuse(name, "is missing"))?;
    let (from, to) = info.data_offsets;
    let mut bytes = vec![0; to - from];
    file.seek(SeekFrom::Start(start + from as u64)).map_err(failed)?;
    file.read_exact(&mut bytes).map_err(failed)?;
    let view = TensorView::new(info.dtype, info.shape.clone(), &bytes)
        .map_err(|error| refuse(name, error.to_string()))?;
    let piece = Piece { name: name.to_owned(), form: Form::Same };
    Ok(decode(&piece, &view, &[])?[0])
}

fn refuse(name: &str, problem: impl Into<String>) -> Error {
    Error::Parameter { name: name.to_owned(), problem: problem.into() }
}

fn same(name: &str) -> Vec<Piece> {
    vec![Piece { name: name.to_owned(), form: Form::Same }]
}

/// open_clip's `CustomTextCLIP`.
fn custom_text(name: &str) -> Vec<Piece> {
    match name == "logit_scale" || name.starts_with("visual.") {
        true => same(name),
        false => same(&format!("text.{name}")),
    }
}

fn dialect_of(names: Vec<&str>) -> Names {
    let any = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    match (any("vision_model."), any("text.")) {
        (true, _) => hf::pieces,
        (false, true) => custom_text,
        (false, false) => same,
    }
}

/// Values of one piece in our order; `shape` is the whole parameter's, in our dialect.
fn decode(piece: &Piece, view: &TensorView<'_>, shape: &[usize]) -> Result<Vec<f32>> {
    let expected = shape_of(piece.form, shape);
    if view.shape() != expected {
        let problem = format!("has shape {:?}, expected {expected:?}", view.shape());
        return Err(refuse(&piece.name, problem));
    }
    let bytes = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::F16 => {
            bytes.as_chunks().0.iter().map(|&bytes| half_value(u16::from_le_bytes(bytes))).collect()
        }
        Dtype::BF16 => {
            let wide = |&bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
            bytes.as_chunks().0.iter().map(wide).collect()
        }
        other => {
            let problem = format!("has type {other}, expected F32, F16 or BF16");
            return Err(refuse(&piece.name, problem));
        }
    };
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let problem = format!("value {index} is {}, not a number", values[index]);
        return Err(refuse(&piece.name, problem));
    }
    Ok(match piece.form {
        Form::Same | Form::Third => values,
        Form::Transposed => transposed(&values, expected[0]),
    })
}

/// A parameter as the tensors of a file: name, shape, little-endian bytes.
fn encode(array: &Array, pieces: Vec<Piece>) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let part = array.values.len() / pieces.len();
    let parts = array.values.chunks(part.max(1));
    let encoded = pieces.into_iter().zip(parts).map(|(piece, values)| {
        let values = match piece.form {
            Form::Same | Form::Third => Cow::Borrowed(values),
            Form::Transposed => Cow::Owned(transposed(values, array.shape[0])),
        };
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (piece.name, shape_of(piece.form, &array.shape), bytes)
    });
    encoded.collect()
}

fn shape_of(form: Form, ours: &[usize]) -> Vec<usize> {
    let mut shape = ours.to_vec();
    match form {
        Form::Same => {}
        Form::Transposed => shape.reverse(),
        Form::Third => shape[0] /= 3,
    }
    shape
}

/// `[rows, columns]` -> `[columns, rows]`.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

/// IEEE 754 binary16.
fn half_value(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    match (exponent, bits & 0x3ff) {
        (0, _) => sign * fraction * 2f32.powi(-24),
        (0x1f, 0) => sign * f32::INFINITY,
        (0x1f, _) => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests;
