//! Keys with several values, crossed.

use toml::{Table, Value};

/// A key of run.toml and the values that it takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) key: String,
    pub(super) values: Vec<Value>,
}

/// One value for each key of some axes, in their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Point(pub Vec<(String, Value)>);

impl Point {
    /// Does this point have every key of `other`, with the same value?
    pub(super) fn holds(&self, other: &Self) -> bool {
        other.0.iter().all(|pair| self.0.contains(pair))
    }

    /// `pool_share=0.2 epochs=8`: the last part of each key, text without quotes.
    pub fn short(&self) -> String {
        let pairs = self.0.iter().map(|(key, value)| {
            let name = key.rsplit('.').next().unwrap_or(key);
            match value {
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            }
        });
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// As it stands in `results.jsonl`.
    pub(super) fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        let value = |value: &Value| serde_json::to_value(value).unwrap_or_default(); // TOML's are
        self.0.iter().map(|(key, one)| (key.clone(), value(one))).collect()
    }
}

/// Keys and values of a table in the order of the keys, those of inner tables with dots: `optim.lr`.
pub(super) fn leaves(table: &Table) -> Vec<(String, &Value)> {
    table
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Table(inner) => leaves(inner)
                .into_iter()
                .map(|(key, value)| (format!("{name}.{key}"), value))
                .collect(),
            value => vec![(name.clone(), value)],
        })
        .collect()
}

/// The axes of a table; the complaint about a key that is none.
pub(super) fn axes(table: &Table) -> Result<Vec<Axis>, String> {
    let axis = |(key, value): (String, &Value)| match value {
        Value::Array(values) if !values.is_empty() => {
            if let Some(at) = (1..values.len()).find(|&at| values[..at].contains(&values[at])) {
                return Err(format!("`{key}` has `{}` twice", values[at]));
            }
            Ok(Axis { key, values: values.clone() })
        }
        _ => Err(format!("`{key}` must be a list of values, at least one")),
    };
    leaves(table).into_iter().map(axis).collect()
}

/// All points, the last axis moving fastest; one without keys if there are no axes.
pub(super) fn points(axes: &[Axis]) -> Vec<Point> {
    axes.iter().fold(vec![Point::default()], |points, Axis { key, values }| {
        let with = |point: &Point, value: &Value| {
            let mut pairs = point.0.clone();
            pairs.push((key.clone(), value.clone()));
            Point(pairs)
        };
        points.iter().flat_map(|point| values.iter().map(|value| with(point, value))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes_of(text: &str) -> Result<Vec<Axis>, String> {
        axes(&toml::from_str(text).expect("well-formed"))
    }

    #[test]
    fn axes_are_crossed_in_order() {
        let check = |text: &str, expected: &[&str]| {
            let points = points(&axes_of(text).expect("axes"));
            let found: Vec<_> = points.iter().map(Point::short).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("", &[""]);
        check("optim.lr = [1e-3, 0.1]", &["lr=0.001", "lr=0.1"]);
        check(
            "augment.image = [false, true]\n'augment.text' = [false, true]",
            &[
                "image=false text=false",
                "image=false text=true",
                "image=true text=false",
                "image=true text=true",
            ],
        );
        check("[model]\npreset = ['rn-micro']\n", &["preset=rn-micro"]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let check = |text: &str, expected: &str| {
            assert_eq!(axes_of(text).expect_err("refused"), expected);
        };
        check("optim.lr = 0.1", "`optim.lr` must be a list of values, at least one");
        check("optim.lr = []", "`optim.lr` must be a list of values, at least one");
        check("optim.lr = [1, 2, 1]", "`optim.lr` has `1` twice");
    }
}
