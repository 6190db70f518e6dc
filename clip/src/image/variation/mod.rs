//! How a picture is varied before it is trained on: plain data, which `trainer::augment` draws, and
//! what it does on the CPU. `ops::cuda` has the same for a batch on a GPU.

mod blur;
mod color;
mod crop;
#[cfg(test)]
mod golden;

use image::RgbImage;

pub use self::{blur::Blur, crop::Rectangle};

/// Crop, flip, then changes of color, then blur.
#[derive(Debug, Clone, PartialEq)]
pub struct Variation {
    /// What is shown at the size of the whole
    pub rectangle: Rectangle,
    /// Whether left and right are exchanged
    pub flip: bool,
    /// In this order
    pub changes: Vec<Change>,
    /// At the end
    pub blur: Option<Blur>,
}

/// A change of color, as torchvision's `adjust_*`; every value is kept within 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// All values times a factor
    Brightness(f32),
    /// The distance from the picture's mean brightness times a factor
    Contrast(f32),
    /// The distance from the gray of the same brightness times a factor: 0 makes it gray
    Saturation(f32),
    /// Turned by a share of the circle, -0.5 to 0.5
    Hue(f32),
}

impl Variation {
    /// A picture of `width` by `height` pixels as it is.
    pub fn none(width: u32, height: u32) -> Self {
        let (wide, high) = (width.into(), height.into());
        let rectangle = Rectangle { left: 0.0, top: 0.0, wide, high };
        Self { rectangle, flip: false, changes: Vec::new(), blur: None }
    }
}

/// Writes `[3, H, W]` values of 0 to 1. Panics if there is no room for exactly that.
pub(super) fn vary(image: &RgbImage, variation: &Variation, planes: &mut [f32]) {
    assert_eq!(planes.len(), image.as_raw().len(), "room for the picture");
    let Variation { rectangle, flip, changes, blur } = variation;
    crop::stretch(image, *rectangle, *flip, planes);
    for change in changes {
        match *change {
            Change::Brightness(factor) => color::brighten(planes, factor),
            Change::Contrast(factor) => color::contrast(planes, factor),
            Change::Saturation(factor) => color::towards_gray(planes, factor),
            Change::Hue(angle) => color::turn_hue(planes, angle),
        }
    }
    if let Some(blur) = blur {
        blur::blur(planes, image.width() as usize, *blur);
    }
}

/// Writes `[3, H, W]` values of 0 to 1: the picture as it is. Panics as [`vary`].
pub(super) fn split(image: &RgbImage, planes: &mut [f32]) {
    assert_eq!(planes.len(), image.as_raw().len(), "room for the picture");
    let count = (image.width() * image.height()) as usize;
    for (channel, plane) in planes.chunks_exact_mut(count).enumerate() {
        for (value, pixel) in plane.iter_mut().zip(image.as_raw().chunks_exact(3)) {
            *value = f32::from(pixel[channel]) / 255.0;
        }
    }
}
