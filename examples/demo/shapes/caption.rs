//! A scene as a caption: lower case, no punctuation, always true of the picture.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::scene::{COLORS, Extra, Position, SHAPES, Scene, Size, Texture, Tone, one_of};

const PICTURE: &[&str] = &["picture", "photo", "image"];
const SMALL: &[&str] = &["small", "little", "tiny"];
const MEDIUM: &[&str] = &["medium", "normal", "moderate"];
const BIG: &[&str] = &["big", "large", "huge"];
const PLACE: &[&str] = &["near", "at", "by"];
const MIDDLE: &[&str] = &["middle", "center"];
const BEHIND: &[&str] = &["on", "against"];
const BACKGROUND: &[&str] = &["background", "backdrop"];

/// Words that may stand for each other in these captions.
pub(crate) const THESAURUS: [&[&str]; 8] =
    [PICTURE, SMALL, MEDIUM, BIG, PLACE, MIDDLE, BEHIND, BACKGROUND];

const SIZE_NAMED: f64 = 0.40;
const POSITION_NAMED: f64 = 0.30;
const BACKGROUND_NAMED: f64 = 0.35;
const TONE_NAMED: f64 = 0.50;
const BACKGROUND_FIRST: f64 = 0.15;
const EXTRA_NAMED: f64 = 0.35;

/// One of the many captions of `scene`; shape and color are always named.
pub(crate) fn caption(scene: &Scene, rng: &mut ChaCha8Rng) -> String {
    let plural = scene.objects.len() > 1;
    let mut subject = Vec::new();
    if rng.random_bool(SIZE_NAMED) {
        subject.push(one_of(rng, size_words(scene.size)).to_owned());
    }
    subject.push(COLORS[scene.color].0.to_owned());
    subject.push(if plural { plural_of(SHAPES[scene.shape]) } else { SHAPES[scene.shape].into() });
    let subject = format!("{} {}", determiner(scene.objects.len(), rng), subject.join(" "));
    let framed = match rng.random_range(0..6) {
        0 => format!("a {} of {subject}", one_of(rng, PICTURE)),
        1 => format!("this {} shows {subject}", one_of(rng, PICTURE)),
        2 => format!("there {} {subject}", if plural { "are" } else { "is" }),
        _ => subject,
    };
    let behind = rng.random_bool(BACKGROUND_NAMED).then(|| background_words(scene, rng));
    let first = behind.is_some() && rng.random_bool(BACKGROUND_FIRST);
    let mut tail = Vec::new();
    if rng.random_bool(POSITION_NAMED) {
        tail.push(position_words(scene.position, rng));
    }
    tail.extend(behind.clone().filter(|_| !first));
    if let Some(extra) = scene.extra.filter(|_| rng.random_bool(EXTRA_NAMED)) {
        tail.push(extra_words(extra).to_owned());
    }
    if tail.len() > 1 && rng.random_bool(0.5) {
        tail.reverse();
    }
    let head = behind.filter(|_| first);
    let parts: Vec<_> = head.into_iter().chain([framed]).chain(tail).collect();
    parts.join(" ")
}

fn determiner(count: usize, rng: &mut ChaCha8Rng) -> &'static str {
    match count {
        1 => one_of(rng, &["a", "one", "the"]),
        2 => "two",
        _ => "three",
    }
}

/// As a person would write it.
fn plural_of(shape: &str) -> String {
    if shape.ends_with('s') { format!("{shape}es") } else { format!("{shape}s") }
}

fn size_words(size: Size) -> &'static [&'static str] {
    match size {
        Size::Small => SMALL,
        Size::Medium => MEDIUM,
        Size::Big => BIG,
    }
}

fn position_words(position: Position, rng: &mut ChaCha8Rng) -> String {
    let place = match position {
        Position::Top => "top",
        Position::Middle => one_of(rng, MIDDLE),
        Position::Bottom => "bottom",
    };
    format!("{} the {place}", one_of(rng, PLACE))
}

fn background_words(scene: &Scene, rng: &mut ChaCha8Rng) -> String {
    let texture = match scene.texture {
        Texture::Plain => "plain",
        Texture::Striped => "striped",
        Texture::Dotted => "dotted",
        Texture::Checkered => "checkered",
        Texture::Gradient => "gradient",
        Texture::Noisy => "noisy",
    };
    let tone = match scene.tone {
        _ if !rng.random_bool(TONE_NAMED) => "",
        Tone::Dark => "dark ",
        Tone::Pale => "pale ",
        Tone::Gray => "gray ",
    };
    format!("{} a {tone}{texture} {}", one_of(rng, BEHIND), one_of(rng, BACKGROUND))
}

fn extra_words(extra: Extra) -> &'static str {
    match extra {
        Extra::Dot => "with a dot",
        Extra::Line => "with a line",
        Extra::Frame => "with a frame",
        Extra::Shadow => "with a shadow",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn captions_name_the_class_once_and_vary() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut distinct = HashSet::new();
        for _ in 0..2000 {
            let scene = Scene::draw(&mut rng, 6, 5);
            let caption = caption(&scene, &mut rng);
            let words: Vec<_> = caption.split(' ').collect();
            let count = |known: &dyn Fn(&str) -> bool| words.iter().filter(|w| known(w)).count();
            let named = |word: &str| SHAPES.iter().any(|s| *s == word || plural_of(s) == word);
            let shape = SHAPES[scene.shape];
            let expected =
                if scene.objects.len() > 1 { plural_of(shape) } else { shape.to_owned() };
            assert!(words.contains(&expected.as_str()), "{caption}");
            assert_eq!(count(&named), 1, "{caption}");
            assert_eq!(count(&|word| COLORS.iter().any(|(name, _)| *name == word)), 1, "{caption}");
            assert!(caption.chars().all(|c| c == ' ' || c.is_ascii_lowercase()), "{caption}");
            assert!(words.len() <= 20, "{caption}");
            distinct.insert(caption);
        }
        assert!(distinct.len() > 1500, "{} distinct captions", distinct.len());
    }
}
