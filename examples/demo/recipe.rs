//! The methods of the demo and the `run.toml` of each: the one place where a setting is chosen.

use std::path::Path;

use crate::data::Data;

/// One way to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Method {
    /// In files, tables and folder names.
    pub(crate) name: &'static str,
    /// `[method] name` of `run.toml`.
    method: &'static str,
    augment: bool,
    /// Unless the user asks for others.
    epochs: u32,
}

/// In the order of the tables; each differs from its neighbor in one thing, but the sieve, which
/// has its own defaults: two networks that find the pairs in doubt, then a model that is not
/// augmented, and in each epoch one of the copies of a picture.
pub(crate) const METHODS: [Method; 4] = [
    Method { name: "clip", method: "clip", augment: false, epochs: 16 },
    Method { name: "clip-aug", method: "clip", augment: true, epochs: 16 },
    Method { name: "roclip", method: "roclip", augment: true, epochs: 16 },
    Method { name: "sieve", method: "sieve", augment: true, epochs: 16 },
];

const BATCH_SIZE: usize = 64;
const LEARNING_RATE: f64 = 2e-3;
/// Epochs between two points of the accuracy curves.
const MONITOR_EVERY_EPOCHS: u32 = 2;
const POOL_SHARE: f64 = 0.2;
const MATCH_EVERY_EPOCHS: u32 = 2;
/// Before the classes are known, matching costs accuracy; once the attack has begun, it no longer
/// undoes it.
const MATCH_FROM_EPOCH: u32 = 7;

/// Those of `asked`, each once and in the order of the tables; all if none is.
pub(crate) fn chosen(asked: &[Method]) -> Vec<Method> {
    let is_asked = |method: &Method| asked.is_empty() || asked.contains(method);
    METHODS.into_iter().filter(is_asked).collect()
}

impl Method {
    /// Epochs of this method, `asked` or its own.
    pub(crate) fn epochs(&self, asked: Option<u32>) -> u32 {
        asked.unwrap_or(self.epochs)
    }

    /// Epochs of its run, of which the model has [`Method::epochs`].
    pub(crate) fn run_epochs(&self, asked: Option<u32>) -> u32 {
        let epochs = self.epochs(asked);
        if self.method == "sieve" { epochs + 2 * given_up(epochs) } else { epochs }
    }

    /// Steps of one epoch over `rows` pairs.
    pub(crate) fn steps_per_epoch(rows: usize) -> usize {
        (rows / BATCH_SIZE).max(1)
    }

    /// Everything that is chosen here, in words.
    pub(crate) fn words(&self) -> String {
        let Self { name, epochs, augment, .. } = self;
        let mut words = format!("{name} ({epochs} epochs");
        if *augment {
            words += ", augmented";
        }
        if self.method == "roclip" {
            words += &format!(
                ", pool {POOL_SHARE}, matching every {MATCH_EVERY_EPOCHS} epochs from {MATCH_FROM_EPOCH}"
            );
        }
        if self.method == "sieve" {
            words += " and blurred to find the pairs in doubt, not without them";
        }
        words + &format!(", batch {BATCH_SIZE}, learning rate {LEARNING_RATE})")
    }

    /// The whole `run.toml`; the ledger only feeds the curves, the method never sees it.
    pub(crate) fn run_toml(
        &self,
        data: &Data,
        ledger: Option<&Path>,
        epochs: u32,
        seed: u64,
    ) -> String {
        let mut text = format!("seed = {seed}\n");
        let mut table = |name: &str, lines: &[Option<(&str, String)>]| {
            text += &format!("\n[{name}]\n");
            for (key, value) in lines.iter().flatten() {
                text += &format!("{key} = {value}\n");
            }
        };
        let batch_size = Some(("batch_size", BATCH_SIZE.to_string()));
        let workers = Some(("workers", "1".to_owned()));
        table("data", &[Some(("manifest", quoted(&data.train))), batch_size, workers]);
        let image_size = Some(("image_size", data.image_size.to_string()));
        table("model", &[Some(("preset", "\"rn-micro\"".to_owned())), image_size]);
        table("method", &[Some(("name", format!("\"{}\"", self.method)))]);
        // The windows scale with the length of the run.
        let scaled = |epoch: u32| (epoch * epochs).div_ceil(self.epochs).max(2).to_string();
        if self.method == "roclip" {
            table(
                "method.roclip",
                &[
                    Some(("pool_share", POOL_SHARE.to_string())),
                    Some(("match_every_epochs", MATCH_EVERY_EPOCHS.to_string())),
                    Some(("match_from_epoch", scaled(MATCH_FROM_EPOCH))),
                ],
            );
        }
        if self.method == "sieve" {
            let epochs = given_up(epochs).to_string();
            let scout = Some(("scout_epochs", epochs.clone()));
            table("method.sieve", &[Some(("believer_epochs", epochs)), scout]);
        }
        let augment = self.augment.to_string();
        let path = |key, path: Option<&Path>| path.map(|path| (key, quoted(path)));
        let thesaurus = path("thesaurus", data.thesaurus.as_deref());
        table("augment", &[Some(("image", augment.clone())), Some(("text", augment)), thesaurus]);
        let lr = Some(("lr", LEARNING_RATE.to_string()));
        table("optim", &[Some(("epochs", epochs.to_string())), lr]);
        table(
            "monitor",
            &[
                path("test", Some(&data.test)),
                path("classes", Some(&data.classes)),
                path("templates", data.templates.as_deref()),
                path("ledger", ledger),
                Some(("every_epochs", MONITOR_EVERY_EPOCHS.to_string())),
            ],
        );
        text
    }
}

/// Epochs of each of the two networks that the sieve gives up before a model of `epochs`: half, as
/// by default of 10,000 pairs and more, so that the demo ends sooner.
fn given_up(epochs: u32) -> u32 {
    epochs.div_ceil(2)
}

/// A TOML string; JSON's escapes are TOML's.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_chosen_once_and_in_order() {
        let names = |asked: &[Method]| -> Vec<_> {
            chosen(asked).iter().map(|method| method.name).collect()
        };
        let [clip, _, roclip, _] = METHODS;
        assert_eq!(names(&[roclip, clip, roclip]), ["clip", "roclip"]);
        assert_eq!(names(&[]).len(), METHODS.len());
    }

    #[test]
    fn methods_have_their_tables_and_paths_are_quoted() {
        let data = Data { train: "a \"b\".csv".into(), ..Data::default() };
        let [clip, _, roclip, sieve] = METHODS.map(|method| method.run_toml(&data, None, 16, 3));
        assert!(clip.contains(r#"manifest = "a \"b\".csv""#), "{clip}");
        assert!(clip.starts_with("seed = 3\n") && !clip.contains("ledger"));
        assert!(!clip.contains("[method.roclip]") && roclip.contains("match_from_epoch = 7\n"));
        let given_up = "believer_epochs = 8\nscout_epochs = 8\n";
        assert!(sieve.contains("name = \"sieve\"\n") && sieve.contains(given_up), "{sieve}");
    }
}
