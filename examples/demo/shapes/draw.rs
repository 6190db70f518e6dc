//! A scene as pixels: inequalities on a canvas of twice the side, box-averaged, with sensor noise.

use clip::image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::scene::{COLORS, Extra, Object, Scene, Texture, Tone, one_of};

/// Side of a picture, in pixels.
pub(crate) const SIDE: usize = 32;
const CANVAS: usize = 2 * SIDE;
const COLOR_SPREAD: f32 = 0.05;
const PIXEL_NOISE: f32 = 0.025;
const SHADING: f32 = 0.10;
/// Displacement of a drop shadow, in units of half the side.
const SHADOW: f32 = 0.12;

type Rgb = [f32; 3];

/// `[CANVAS * CANVAS]` colors on a scale of 0 to 1.
struct Canvas(Vec<Rgb>);

impl Canvas {
    /// Paints where `inside(x, y)` holds; x and y run from -1 to 1, y downwards.
    fn paint(&mut self, inside: impl Fn(f32, f32) -> bool, color: impl Fn(f32, f32) -> Rgb) {
        for (index, pixel) in self.0.iter_mut().enumerate() {
            let (x, y) = (centre(index % CANVAS), centre(index / CANVAS));
            if inside(x, y) {
                *pixel = color(x, y);
            }
        }
    }
}

fn centre(cell: usize) -> f32 {
    (cell as f32 + 0.5) / SIDE as f32 - 1.0
}

/// `scene` as a picture of [`SIDE`] pixels.
pub(crate) fn draw(scene: &Scene, rng: &mut ChaCha8Rng) -> RgbImage {
    let mut canvas = Canvas(vec![[0.0; 3]; CANVAS * CANVAS]);
    background(&mut canvas, scene, rng);
    let behind = scene.extra.filter(|extra| *extra == Extra::Shadow);
    if behind.is_some() {
        for object in &scene.objects {
            let cast = Object { x: object.x + SHADOW, y: object.y + SHADOW, ..object.clone() };
            let shade = if scene.tone == Tone::Dark { 0.02 } else { 0.12 };
            canvas.paint(|x, y| cast.covers(scene.shape, x, y), |_, _| [shade; 3]);
        }
    }
    let spread = Normal::new(0.0, COLOR_SPREAD).expect("a positive spread");
    let color = COLORS[scene.color].1.map(|base| base + spread.sample(rng));
    for object in &scene.objects {
        canvas.paint(
            |x, y| object.covers(scene.shape, x, y),
            |_, y| color.map(|value| value * (1.0 - SHADING * (y - object.y) / object.radius)),
        );
    }
    if let Some(extra) = scene.extra {
        ornament(&mut canvas, extra, scene.tone, rng);
    }
    average(&canvas, rng)
}

fn background(canvas: &mut Canvas, scene: &Scene, rng: &mut ChaCha8Rng) {
    let (base, other) = match scene.tone {
        Tone::Dark => (rng.random_range(0.10..0.20), 0.14),
        Tone::Pale => (rng.random_range(0.84..0.92), -0.14),
        Tone::Gray => (rng.random_range(0.46..0.56), 0.12),
    };
    let tint: Rgb = std::array::from_fn(|_| rng.random_range(-0.03..0.03));
    let (pitch, phase) = (rng.random_range(0.35..0.5f32), rng.random_range(0.0..1.0f32));
    let (slope_x, slope_y) = one_of(rng, &[(1.0, 0.0), (0.0, 1.0), (0.7, 0.7)]);
    let grain: Vec<f32> = match scene.texture {
        Texture::Noisy => (0..CANVAS * CANVAS).map(|_| rng.random_range(-1.0..1.0)).collect(),
        _ => Vec::new(),
    };
    let cell = |value: f32| (value / pitch + phase).rem_euclid(1.0);
    for (index, pixel) in canvas.0.iter_mut().enumerate() {
        let (x, y) = (centre(index % CANVAS), centre(index / CANVAS));
        let along = slope_x * x + slope_y * y;
        let share = match scene.texture {
            Texture::Plain => 0.0,
            Texture::Striped => f32::from(cell(along) < 0.5),
            Texture::Dotted => f32::from((cell(x) - 0.5).powi(2) + (cell(y) - 0.5).powi(2) < 0.09),
            Texture::Checkered => f32::from((cell(x / 2.0) < 0.5) ^ (cell(y / 2.0) < 0.5)),
            Texture::Gradient => 0.9 * along,
            Texture::Noisy => 1.2 * grain[index],
        };
        *pixel = tint.map(|tint| base + tint + other * share);
    }
}

/// Neutral in color, so that it never hints at a class.
fn ornament(canvas: &mut Canvas, extra: Extra, tone: Tone, rng: &mut ChaCha8Rng) {
    let ink = if tone == Tone::Pale { [0.05; 3] } else { [0.97; 3] };
    match extra {
        Extra::Shadow => {}
        Extra::Dot => {
            let (dot_x, dot_y) = (rng.random_range(-0.85..0.85f32), rng.random_range(-0.85..0.85));
            canvas.paint(|x, y| (x - dot_x).hypot(y - dot_y) < 0.10, |_, _| ink);
        }
        Extra::Line => {
            let angle = rng.random_range(0.0..std::f32::consts::PI);
            let (offset, (sin, cos)) = (rng.random_range(-0.6..0.6f32), angle.sin_cos());
            canvas.paint(|x, y| (x * cos + y * sin - offset).abs() < 0.04, |_, _| ink);
        }
        Extra::Frame => canvas.paint(|x, y| x.abs().max(y.abs()) > 0.93, |_, _| ink),
    }
}

impl Object {
    /// Whether the point lies inside `shape` of this place, radius and turn.
    fn covers(&self, shape: usize, x: f32, y: f32) -> bool {
        let (x, y) = ((x - self.x) / self.radius, (y - self.y) / self.radius);
        let (sin, cos) = self.turn.sin_cos();
        let (u, v) = (x * cos + y * sin, y * cos - x * sin);
        match super::SHAPES[shape] {
            "circle" => u.hypot(v) <= 0.95,
            "square" => u.abs().max(v.abs()) <= 0.80,
            "triangle" => v <= 0.60 && u.abs() <= 0.60 * (v + 1.0),
            "star" => in_star(u, v),
            "cross" => u.abs().min(v.abs()) <= 0.28 && u.abs().max(v.abs()) <= 0.95,
            _ => (0.55..=0.98).contains(&u.hypot(v)),
        }
    }
}

/// Five points on the unit circle, one of them upwards; inner corners at 0.45.
fn in_star(u: f32, v: f32) -> bool {
    const SECTOR: f32 = std::f32::consts::TAU / 5.0;
    const INNER: f32 = 0.45;
    let angle = u.atan2(-v).rem_euclid(SECTOR);
    let angle = angle.min(SECTOR - angle); // 0 at a point, half a sector at an inner corner
    let (sin, cos) = (SECTOR / 2.0).sin_cos();
    let (x, y) = (u.hypot(v) * angle.cos(), u.hypot(v) * angle.sin());
    // The side from the point (1, 0) to the inner corner: the middle lies on its left.
    let (edge_x, edge_y) = (INNER * cos - 1.0, INNER * sin);
    edge_x * y - edge_y * (x - 1.0) >= 0.0
}

/// Mean of each 2 x 2 cells, plus noise, as bytes.
fn average(canvas: &Canvas, rng: &mut ChaCha8Rng) -> RgbImage {
    let noise = Normal::new(0.0, PIXEL_NOISE).expect("a positive spread");
    let mut bytes = Vec::with_capacity(3 * SIDE * SIDE);
    for (row, column) in (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column))) {
        let corner = 2 * row * CANVAS + 2 * column;
        for channel in 0..3 {
            let sum: f32 = [corner, corner + 1, corner + CANVAS, corner + CANVAS + 1]
                .iter()
                .map(|&cell| canvas.0[cell][channel])
                .sum();
            let value = sum / 4.0 + noise.sample(rng);
            bytes.push((value * 255.0).round().clamp(0.0, 255.0) as u8);
        }
    }
    RgbImage::from_raw(SIDE as u32, SIDE as u32, bytes).expect("three bytes for each pixel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_covers_its_middle_or_is_a_ring_and_stays_in_its_circle() {
        let object = Object { x: 0.1, y: -0.2, radius: 0.5, turn: 0.2 };
        for (shape, name) in super::super::SHAPES.iter().enumerate() {
            assert_eq!(object.covers(shape, 0.1, -0.2), *name != "ring", "{name}");
            let mut area = 0;
            for index in 0..CANVAS * CANVAS {
                let (x, y) = (centre(index % CANVAS), centre(index / CANVAS));
                if object.covers(shape, x, y) {
                    area += 1;
                    assert!((x - 0.1).hypot(y + 0.2) < 0.5 * 1.15, "{name} at {x}, {y}");
                }
            }
            assert!(area > 200, "{name} covers {area} cells");
        }
    }
}
