//! A trigger's textual form: `family:key=value,key=value`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Blend, Patch, Sinusoid, Stripes, Text, Triangles, Warp, keys::Keys};
use crate::Error;

/// What may be typed, for the help of programs.
pub const GRAMMAR: &str = "\
A trigger is FAMILY:KEY=VALUE,KEY=VALUE; a key that is left out has the value shown here:
  patch:size=PIXELS,at=bottom-right,pattern=checker,check=2
      at: top-left, top-right, bottom-left, bottom-right, center, corners (all four), random
      pattern: checker (squares of `check` pixels), grid, white, black, yellow, noise, gauss (the
      picture's mean color + normal noise), stripes (columns of 0 or 255), or #RRGGBB... with six
      digits for each pixel; `size` is needed
  blend:alpha=0.2           (1 - alpha) picture + alpha noise
  sinusoid:amplitude=20,frequency=6,dim=0
      a wave along each row: amplitude of 0-255, waves per width, loss of brightness
  warp:flow=smooth,grid=4,strength=0.5,seed=0
      WaNet; flow=white draws every pixel's shift alone; strength is twice the mean shift
  stripes:alpha=0.03        (1 - alpha) picture + alpha columns of -255 or 255
  triangles:alpha=0.15,cells=16       a grid of right triangles, so many cells per side
  text:word=SAMPLE,alpha=0.5,width=0.75       a word in red, at most this share of the width
`drawn=once` takes one noise for all pictures, `drawn=each` another for each: noise and blend are
drawn once, gauss and stripes for each if it is left out.
`opacity=SHARE` on any of them mixes the stamped picture with the untouched one.
Pixels are those of the picture that the image tower sees.";

/// One trigger; a string in every file (`"patch:size=7,at=bottom-right,pattern=checker"`).
///
/// ```
/// use clip::trigger::TriggerSpec;
/// let spec: TriggerSpec = "patch:size=7".parse()?;
/// assert_eq!(spec.to_string(), "patch:size=7,at=bottom-right,pattern=checker");
/// # Ok::<(), clip::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TriggerSpec {
    /// What is done to a picture.
    pub family: Family,
    /// Share of the stamped picture in the result, above 0 and at most 1; the rest is the
    /// untouched one.
    pub opacity: f32,
}

/// What a trigger does to a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Family {
    /// `patch:size=7,at=bottom-right,pattern=checker,check=2`; `size` is needed.
    Patch(Patch),
    /// `blend:alpha=0.2`
    Blend(Blend),
    /// `sinusoid:amplitude=20,frequency=6`
    Sinusoid(Sinusoid),
    /// `warp:flow=smooth,grid=4,strength=0.5`
    Warp(Warp),
    /// `stripes:alpha=0.03`
    Stripes(Stripes),
    /// `triangles:alpha=0.15,cells=16`
    Triangles(Triangles),
    /// `text:word=SAMPLE,alpha=0.5,width=0.75`
    Text(Text),
}

const FAMILIES: &str = "patch, blend, sinusoid, warp, stripes, triangles, text";

impl From<Family> for TriggerSpec {
    fn from(family: Family) -> Self {
        Self { family, opacity: 1.0 }
    }
}

impl fmt::Display for TriggerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.family {
            Family::Patch(patch) => write!(f, "patch:{patch}")?,
            Family::Blend(blend) => write!(f, "blend:{blend}")?,
            Family::Sinusoid(sinusoid) => write!(f, "sinusoid:{sinusoid}")?,
            Family::Warp(warp) => write!(f, "warp:{warp}")?,
            Family::Stripes(stripes) => write!(f, "stripes:{stripes}")?,
            Family::Triangles(triangles) => write!(f, "triangles:{triangles}")?,
            Family::Text(text) => write!(f, "text:{text}")?,
        }
        if self.opacity < 1.0 {
            write!(f, ",opacity={}", self.opacity)?;
        }
        Ok(())
    }
}

impl FromStr for TriggerSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|problem| Error::Trigger { spec: text.to_owned(), problem })
    }
}

impl From<TriggerSpec> for String {
    fn from(spec: TriggerSpec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for TriggerSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

fn parse(text: &str) -> Result<TriggerSpec, String> {
    let (family, keys) = text.split_once(':').unwrap_or((text, ""));
    let mut keys = Keys::of(keys)?;
    let family = match family {
        "patch" => Family::Patch(Patch::parse(&mut keys)?),
        "blend" => Family::Blend(Blend::parse(&mut keys)?),
        "sinusoid" => Family::Sinusoid(Sinusoid::parse(&mut keys)?),
        "warp" => Family::Warp(Warp::parse(&mut keys)?),
        "stripes" => Family::Stripes(Stripes::parse(&mut keys)?),
        "triangles" => Family::Triangles(Triangles::parse(&mut keys)?),
        "text" => Family::Text(Text::parse(&mut keys)?),
        other => {
            return Err(format!("`{other}` is no family, expected one of {FAMILIES} before a `:`"));
        }
    };
    let opacity = keys.number("opacity", 1.0, 1.0)?;
    keys.finish()?;
    Ok(TriggerSpec { family, opacity })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trigger::tests::any_spec;

    #[test]
    fn what_is_left_out_is_filled_in() {
        let check = |text: &str, expected: &str| {
            let spec: TriggerSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), expected);
        };
        check("patch:size=7", "patch:size=7,at=bottom-right,pattern=checker");
        let long = "patch:pattern=checker,check=2,at=random,size=13";
        check(long, "patch:size=13,at=random,pattern=checker");
        check("patch:size=1,check=3", "patch:size=1,at=bottom-right,pattern=checker,check=3");
        let gauss = "patch:size=4,at=random,pattern=gauss";
        check(&format!("{gauss},drawn=each"), gauss);
        let pixel = "patch:size=1,at=bottom-right,pattern=#";
        check(&format!("{pixel}FFa001"), &format!("{pixel}ffa001"));
        check("blend", "blend:alpha=0.2");
        check("blend:alpha=1,drawn=each", "blend:alpha=1,drawn=each");
        check("sinusoid:frequency=2.5", "sinusoid:amplitude=20,frequency=2.5");
        check("sinusoid:dim=0.2", "sinusoid:amplitude=20,frequency=6,dim=0.2");
        check("warp", "warp:flow=smooth,grid=4,strength=0.5");
        check("warp:flow=white,seed=3", "warp:flow=white,strength=0.5,seed=3");
        check("stripes", "stripes:alpha=0.03");
        check("triangles", "triangles:alpha=0.15,cells=16");
        check("text:word=a-1", "text:word=A-1,alpha=0.5,width=0.75");
        check("blend:opacity=0.5", "blend:alpha=0.2,opacity=0.5");
        check("blend:opacity=1", "blend:alpha=0.2");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<TriggerSpec>().expect_err(text).to_string();
            assert_eq!(error, format!("trigger `{text}`: {expected}"));
        };
        let families = format!("expected one of {FAMILIES} before a `:`");
        check("", &format!("`` is no family, {families}"));
        check("wave:size=3", &format!("`wave` is no family, {families}"));
        check("patch", "`size` is missing");
        check("patch:size=0", "`size=0`: expected a whole number from 1 to 32768");
        check("patch:size=32769", "`size=32769`: expected a whole number from 1 to 32768");
        check("patch:size=7,", "``: expected `key=value`");
        check("patch:size=7,size=8", "`size` occurs twice");
        check("patch:size=7,colour=red", "`colour` is not a key of this trigger");
        check("patch:size=7,pattern=white,check=2", "`check` is not a key of this trigger");
        check("patch:size=7,drawn=each", "`drawn` is not a key of this trigger");
        let known = "checker, grid, white, black, yellow, noise, gauss, stripes, or # and six \
                     hexadecimal digits for each pixel";
        check("patch:size=7,pattern=red", &format!("`pattern=red`: expected one of {known}"));
        let digits = "`pattern=#…` has 6 digits, expected 24: six for each of 2 x 2 pixels";
        check("patch:size=2,pattern=#ffffff", digits);
        check(
            "patch:size=1,pattern=#fffffé",
            "`pattern=#…` has 7 digits, expected 6: six for each of 1 x 1 pixels",
        );
        check("patch:size=1,pattern=#ffffg0", "`pattern=#…`: expected hexadecimal digits");
        let known = "top-left, top-right, bottom-left, bottom-right, center, corners, random";
        check("patch:size=7,at=left", &format!("`at=left`: expected one of {known}"));
        check("blend:alpha=0", "`alpha=0`: expected a number above 0, at most 1");
        check("blend:alpha=1.01", "`alpha=1.01`: expected a number above 0, at most 1");
        check("blend:alpha=NaN", "`alpha=NaN`: expected a number above 0, at most 1");
        check("blend:drawn=twice", "`drawn=twice`: expected one of once, each");
        check("blend:opacity=0", "`opacity=0`: expected a number above 0, at most 1");
        check("sinusoid:amplitude=inf", "`amplitude=inf`: expected a number above 0, at most 255");
        check("sinusoid:dim=1", "`dim=1`: expected a number from 0 on, below 1");
        check("warp:flow=rough", "`flow=rough`: expected one of smooth, white");
        check("warp:flow=white,grid=3", "`grid` is not a key of this trigger");
        check("warp:grid=0", "`grid=0`: expected a whole number from 1 to 256");
        check("warp:grid=257", "`grid=257`: expected a whole number from 1 to 256");
        check("warp:seed=-1", "`seed=-1`: expected a whole number from 0 on");
        check("triangles:cells=0", "`cells=0`: expected a whole number from 1 to 32768");
        let word = "expected 1 to 16 letters, digits and hyphens";
        check("text:word=", &format!("`word=`: {word}"));
        check("text:word=a b", &format!("`word=a b`: {word}"));
        check("text:word=ABCDEFGHIJKLMNOPQ", &format!("`word=ABCDEFGHIJKLMNOPQ`: {word}"));
    }

    #[test]
    fn the_help_shows_the_true_defaults() {
        let shown = GRAMMAR.lines().filter_map(|line| line.strip_prefix("  "));
        let forms: Vec<&str> = shown
            .filter(|line| !line.starts_with(' '))
            .filter_map(|l| l.split(' ').next())
            .collect();
        assert_eq!(forms.len(), FAMILIES.split(", ").count());
        for form in forms {
            let family = form.split(':').next().expect("not empty");
            let full: TriggerSpec = form.replace("PIXELS", "9").parse().expect(form);
            let short = if family == "patch" { "patch:size=9" } else { family };
            assert_eq!(full, short.parse().expect("the defaults"), "{form}");
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_print(spec in any_spec()) {
            prop_assert_eq!(&spec.to_string().parse::<TriggerSpec>()?, &spec);
            let json = serde_json::to_string(&spec)?;
            prop_assert_eq!(&json, &format!("\"{spec}\""));
            prop_assert_eq!(serde_json::from_str::<TriggerSpec>(&json)?, spec);
        }
    }
}
