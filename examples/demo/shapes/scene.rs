//! What one picture shows, drawn at random: the common ground of picture and caption.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// Name of each shape, in the order of the classes.
pub(crate) const SHAPES: [&str; 6] = ["circle", "square", "triangle", "star", "cross", "ring"];
/// Name of each color and its base value, RGB on a scale of 0 to 1.
pub(crate) const COLORS: [(&str, [f32; 3]); 5] = [
    ("red", [0.86, 0.14, 0.14]),
    ("green", [0.15, 0.66, 0.22]),
    ("blue", [0.16, 0.29, 0.88]),
    ("yellow", [0.95, 0.86, 0.16]),
    ("purple", [0.56, 0.20, 0.72]),
];

/// Everything that a caption may name, and the places that it never names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scene {
    /// Index into [`SHAPES`].
    pub(crate) shape: usize,
    /// Index into [`COLORS`].
    pub(crate) color: usize,
    pub(crate) size: Size,
    pub(crate) position: Position,
    pub(crate) texture: Texture,
    pub(crate) tone: Tone,
    pub(crate) extra: Option<Extra>,
    /// One to three, all of one class.
    pub(crate) objects: Vec<Object>,
}

/// One shape; lengths in units of half the picture's side, origin in the middle, y downwards.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    pub(crate) x: f32,
    pub(crate) y: f32,
    /// Of the circle around the shape.
    pub(crate) radius: f32,
    /// Radians.
    pub(crate) turn: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Small,
    Medium,
    Big,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Top,
    Middle,
    Bottom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Texture {
    Plain,
    Striped,
    Dotted,
    Checkered,
    Gradient,
    Noisy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Dark,
    Pale,
    Gray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    Dot,
    Line,
    Frame,
    Shadow,
}

impl Size {
    const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Big];

    /// Radii, in units of half the picture's side.
    fn radii(self) -> std::ops::Range<f32> {
        match self {
            Self::Small => 0.32..0.38,
            Self::Medium => 0.45..0.52,
            Self::Big => 0.62..0.75,
        }
    }
}

impl Position {
    const ALL: [Self; 3] = [Self::Top, Self::Middle, Self::Bottom];
}

impl Texture {
    const ALL: [Self; 6] =
        [Self::Plain, Self::Striped, Self::Dotted, Self::Checkered, Self::Gradient, Self::Noisy];
}

impl Tone {
    const ALL: [Self; 3] = [Self::Dark, Self::Pale, Self::Gray];
}

impl Extra {
    const ALL: [Option<Self>; 5] =
        [None, Some(Self::Dot), Some(Self::Line), Some(Self::Frame), Some(Self::Shadow)];
}

/// One of `all`, each as likely as the others.
pub(crate) fn one_of<T: Copy>(rng: &mut ChaCha8Rng, all: &[T]) -> T {
    *all.choose(rng).expect("the list is not empty")
}

impl Scene {
    /// A picture of one of `shapes * colors` classes.
    pub(crate) fn draw(rng: &mut ChaCha8Rng, shapes: usize, colors: usize) -> Self {
        let shape = rng.random_range(0..shapes);
        let color = rng.random_range(0..colors);
        let size = one_of(rng, &Size::ALL);
        let position = one_of(rng, &Position::ALL);
        let count = match rng.random::<f32>() {
            ..0.6 => 1,
            ..0.8 => 2,
            _ => 3,
        };
        let objects = place(rng, count, size, position);
        Self {
            shape,
            color,
            size,
            position,
            texture: one_of(rng, &Texture::ALL),
            tone: one_of(rng, &Tone::ALL),
            extra: one_of(rng, &Extra::ALL),
            objects,
        }
    }
}

/// `count` objects beside each other in the upper, middle or lower part of the picture.
fn place(rng: &mut ChaCha8Rng, count: usize, size: Size, position: Position) -> Vec<Object> {
    let radius_max = [1.0, 0.40, 0.31][count - 1];
    let radius = rng.random_range(size.radii()).min(radius_max);
    let room = 1.0 - radius; // how far a centre may go from the middle
    let y = match position {
        Position::Top => -room * rng.random_range(0.65..1.0),
        Position::Middle => room * rng.random_range(-0.2..0.2),
        Position::Bottom => room * rng.random_range(0.65..1.0),
    };
    let first = -((count - 1) as f32) / 2.0;
    let pitch = 2.15 * radius;
    let spare = (room + first * pitch).max(0.0); // the row as a whole may move this far
    let shift = rng.random_range(-1.0..=1.0) * spare;
    (0..count)
        .map(|index| {
            let jitter = if count == 1 { 0.0 } else { rng.random_range(-0.12..0.12) };
            Object {
                x: (first + index as f32) * pitch + shift,
                y: (y + jitter).clamp(-room, room),
                radius,
                turn: rng.random_range(-15f32..=15.0).to_radians(),
            }
        })
        .collect()
}
