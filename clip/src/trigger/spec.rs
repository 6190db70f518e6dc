//! A trigger's textual form: `family:key=value,key=value`.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Blend, Patch, Pattern, Place, Sinusoid};
use crate::Error;

/// One trigger; a string in every file (`"patch:size=7,at=bottom-right,pattern=checker"`).
///
/// ```
/// use clip::trigger::TriggerSpec;
/// let spec: TriggerSpec = "patch:size=7".parse()?;
/// assert_eq!(spec.to_string(), "patch:size=7,at=bottom-right,pattern=checker");
/// # Ok::<(), clip::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum TriggerSpec {
    /// `patch:size=7,at=bottom-right,pattern=checker,check=2`; `size` is needed.
    Patch(Patch),
    /// `blend:alpha=0.2`
    Blend(Blend),
    /// `sinusoid:amplitude=20,frequency=6`
    Sinusoid(Sinusoid),
}

const SIDES: RangeInclusive<u32> = 1..=32_768;
const CHECK_DEFAULT: u32 = 2;
const ALPHA_DEFAULT: f32 = 0.2;
const AMPLITUDE_DEFAULT: f32 = 20.0;
const FREQUENCY_DEFAULT: f32 = 6.0;
const FREQUENCY_MAX: f32 = 16_384.0;

impl fmt::Display for TriggerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patch(Patch { size, at, pattern }) => {
                write!(f, "patch:size={size},at={at},pattern=")?;
                match pattern {
                    Pattern::Checker { check: CHECK_DEFAULT } => f.write_str("checker"),
                    Pattern::Checker { check } => write!(f, "checker,check={check}"),
                    Pattern::White => f.write_str("white"),
                    Pattern::Black => f.write_str("black"),
                    Pattern::Yellow => f.write_str("yellow"),
                    Pattern::Noise => f.write_str("noise"),
                }
            }
            Self::Blend(Blend { alpha }) => write!(f, "blend:alpha={alpha}"),
            Self::Sinusoid(Sinusoid { amplitude, frequency }) => {
                write!(f, "sinusoid:amplitude={amplitude},frequency={frequency}")
            }
        }
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
    let spec = match family {
        "patch" => {
            let size = keys.side("size")?.ok_or("`size` is missing")?;
            let at = keys.take("at").map_or(Ok(Place::BottomRight), str::parse)?;
            let pattern = match keys.take("pattern").unwrap_or("checker") {
                "checker" => {
                    Pattern::Checker { check: keys.side("check")?.unwrap_or(CHECK_DEFAULT) }
                }
                "white" => Pattern::White,
                "black" => Pattern::Black,
                "yellow" => Pattern::Yellow,
                "noise" => Pattern::Noise,
                other => {
                    let known = "checker, white, black, yellow, noise";
                    return Err(format!("`pattern={other}`: expected one of {known}"));
                }
            };
            TriggerSpec::Patch(Patch { size, at, pattern })
        }
        "blend" => TriggerSpec::Blend(Blend { alpha: keys.number("alpha", ALPHA_DEFAULT, 1.0)? }),
        "sinusoid" => TriggerSpec::Sinusoid(Sinusoid {
            amplitude: keys.number("amplitude", AMPLITUDE_DEFAULT, 255.0)?,
            frequency: keys.number("frequency", FREQUENCY_DEFAULT, FREQUENCY_MAX)?,
        }),
        _ => return Err("expected `patch:…`, `blend:…` or `sinusoid:…`".into()),
    };
    keys.finish()?;
    Ok(spec)
}

/// Keys that were typed and not asked for yet.
struct Keys<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Keys<'a> {
    fn of(text: &'a str) -> Result<Self, String> {
        let mut keys = BTreeMap::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("`{part}`: expected `key=value`"))?;
            if keys.insert(key, value).is_some() {
                return Err(format!("`{key}` occurs twice"));
            }
        }
        Ok(Self(keys))
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        self.0.remove(key)
    }

    fn side(&mut self, key: &str) -> Result<Option<u32>, String> {
        let Some(text) = self.take(key) else { return Ok(None) };
        match text.parse() {
            Ok(side) if SIDES.contains(&side) => Ok(Some(side)),
            _ => {
                let (least, most) = (SIDES.start(), SIDES.end());
                Err(format!("`{key}={text}`: expected a whole number from {least} to {most}"))
            }
        }
    }

    /// Above 0, at most `max`.
    fn number(&mut self, key: &str, default: f32, max: f32) -> Result<f32, String> {
        let Some(text) = self.take(key) else { return Ok(default) };
        match text.parse() {
            Ok(number) if 0.0 < number && number <= max => Ok(number),
            _ => Err(format!("`{key}={text}`: expected a number above 0, at most {max}")),
        }
    }

    fn finish(self) -> Result<(), String> {
        match self.0.keys().next() {
            Some(key) => Err(format!("`{key}` is not a key of this trigger")),
            None => Ok(()),
        }
    }
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
        check("blend", "blend:alpha=0.2");
        check("blend:alpha=1", "blend:alpha=1");
        check("sinusoid:frequency=2.5", "sinusoid:amplitude=20,frequency=2.5");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<TriggerSpec>().expect_err(text).to_string();
            assert_eq!(error, format!("trigger `{text}`: {expected}"));
        };
        check("", "expected `patch:…`, `blend:…` or `sinusoid:…`");
        check("warp:size=3", "expected `patch:…`, `blend:…` or `sinusoid:…`");
        check("patch", "`size` is missing");
        check("patch:size=0", "`size=0`: expected a whole number from 1 to 32768");
        check("patch:size=32769", "`size=32769`: expected a whole number from 1 to 32768");
        check("patch:size=7,", "``: expected `key=value`");
        check("patch:size=7,size=8", "`size` occurs twice");
        check("patch:size=7,colour=red", "`colour` is not a key of this trigger");
        check("patch:size=7,pattern=white,check=2", "`check` is not a key of this trigger");
        let known = "checker, white, black, yellow, noise";
        check("patch:size=7,pattern=red", &format!("`pattern=red`: expected one of {known}"));
        let known = "top-left, top-right, bottom-left, bottom-right, center, random";
        check("patch:size=7,at=left", &format!("`at=left`: expected one of {known}"));
        check("blend:alpha=0", "`alpha=0`: expected a number above 0, at most 1");
        check("blend:alpha=1.01", "`alpha=1.01`: expected a number above 0, at most 1");
        check("blend:alpha=NaN", "`alpha=NaN`: expected a number above 0, at most 1");
        check("sinusoid:amplitude=inf", "`amplitude=inf`: expected a number above 0, at most 255");
    }

    proptest! {
        #[test]
        fn parse_undoes_print(spec in any_spec()) {
            prop_assert_eq!(spec.to_string().parse::<TriggerSpec>()?, spec);
            let json = serde_json::to_string(&spec)?;
            prop_assert_eq!(&json, &format!("\"{spec}\""));
            prop_assert_eq!(serde_json::from_str::<TriggerSpec>(&json)?, spec);
        }
    }
}
