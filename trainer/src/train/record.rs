//! What a run writes down of its steps and epochs.

use clip::{Encoder, Rate};
use serde::Serialize;
use serde_json::json;

use super::{Run, Watch};
use crate::{
    checkpoint::Place,
    error::Result,
    evaluate::Evaluation,
    journal::Journal,
    monitor::{Alarms, Similarity},
    step::{StepReport, Trainer},
    survey::Survey,
};

impl Run<'_> {
    /// Goes on where `journal` and the checkpoint end.
    pub(super) fn open_alarms(&mut self, journal: &Journal) -> Result<Alarms> {
        let poisons = self.monitor.as_ref().and_then(|monitor| monitor.poisons(self.config));
        let (limits, tally) = (&self.config.monitor.alarms, std::mem::take(&mut self.tally));
        let scale_max = self.trainer.logit_scale_max;
        Ok(Alarms::new(limits, scale_max, poisons, &journal.entries()?, tally))
    }

    /// How near the pairs are, in an experiment whose epoch is evaluated.
    pub(super) fn similarity(&mut self, epoch: u32) -> Result<Option<Similarity>> {
        let poisons = self.alarms.as_ref().and_then(Alarms::poisons);
        let Some(poisons) = poisons.filter(|_| self.is_due(epoch)) else { return Ok(None) };
        let Trainer { model, micro_batch, .. } = &mut self.trainer;
        let survey = &mut Survey::new(&self.loader, model, epoch, *micro_batch);
        Similarity::of(poisons, self.config.seed, survey)
    }

    /// The last line of an epoch, its alarms, and what people are told.
    pub(super) fn record_epoch(
        &mut self,
        epoch: u32,
        loss: f64,
        evaluation: Option<&Evaluation>,
        similarity: Option<Similarity>,
        watch: &dyn Watch,
    ) -> Result<()> {
        let mut entry = json!({
            "step": self.place.step,
            "epoch": epoch,
            "epoch_loss": loss,
            "logit_scale": Encoder::logit_scale(&self.trainer.model),
            "evaluation": evaluation,
            "seconds": self.place.seconds,
        });
        if let Some(similarity) = similarity {
            entry["similarity"] = json!(similarity);
        }
        let mut alarms = Vec::new();
        if let Some(watched) = &mut self.alarms {
            let (matches, count) = watched.epoch(epoch, evaluation);
            if let Some(matches) = matches {
                entry["matches"] = matches;
            }
            alarms.extend_from_slice(&watched.raised[watched.raised.len() - count..]);
        }
        if let Some(journal) = &mut self.journal {
            journal.plot("epoch", &entry)?;
            let Place { step, seconds, .. } = self.place;
            for alarm in &alarms {
                let entry =
                    json!({ "step": step, "epoch": epoch, "alarm": alarm, "seconds": seconds });
                journal.record(&entry)?;
            }
        }
        watch.note(self.epoch_line(epoch, loss, evaluation));
        alarms.iter().for_each(|alarm| watch.warn(alarm.line()));
        Ok(())
    }

    fn epoch_line(&self, epoch: u32, loss: f64, evaluation: Option<&Evaluation>) -> String {
        let rates = evaluation.map(rates).unwrap_or_default();
        let rows = self.loader.store.rows();
        let doubted = self.trainer.method.doubted(rows);
        let mut doubts = doubted
            .map(|pairs| format!(", in doubt {} of {} pairs", pairs.len(), rows.len()))
            .unwrap_or_default();
        let recaptioned = self.trainer.method.selected(epoch).recaptioned.len();
        if recaptioned > 0 {
            doubts += &format!(", {recaptioned} of them with other captions");
        }
        let epochs = self.config.parts().all();
        format!("epoch {epoch}/{epochs}: loss {loss:.3}{rates}{doubts}")
    }
}

/// How accurate a model is, and what of an attack on it succeeds.
fn rates(evaluation: &Evaluation) -> String {
    let Evaluation { zero_shot_top1, backdoor_asr, targeted_psr, .. } = evaluation;
    let all = [("top-1", Some(*zero_shot_top1)), ("ASR", *backdoor_asr), ("PSR", *targeted_psr)];
    let told = |(name, rate): (&str, Option<Rate>)| {
        Some(format!(", {name} {:.1}%", 100.0 * rate?.value()))
    };
    all.into_iter().filter_map(told).collect()
}

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
pub(super) struct StepRecord<'a> {
    step: u64,
    epoch: u32,
    #[serde(flatten)]
    report: &'a StepReport,
    images_per_second: f64,
    seconds: f64,
}

pub(super) fn step<'a>(
    place: &Place,
    report: &'a StepReport,
    images_per_second: f64,
) -> StepRecord<'a> {
    let Place { step, epoch, seconds, .. } = *place;
    StepRecord { step, epoch, report, images_per_second, seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_were_not_counted_are_not_told() {
        let rate = |hits| Rate { hits, trials: 1000 };
        let mut evaluation = Evaluation { zero_shot_top1: rate(652), ..Default::default() };
        assert_eq!(rates(&evaluation), ", top-1 65.2%");
        (evaluation.backdoor_asr, evaluation.asr_floor) = (Some(rate(999)), Some(rate(20)));
        assert_eq!(rates(&evaluation), ", top-1 65.2%, ASR 99.9%");
        evaluation.targeted_psr = Some(rate(5));
        assert_eq!(rates(&evaluation), ", top-1 65.2%, ASR 99.9%, PSR 0.5%");
    }
}
