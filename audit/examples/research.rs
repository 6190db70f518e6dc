#![allow(clippy::print_stdout, clippy::unwrap_used)]
use audit::detector::victim::{Classifier, Victim, tops};
use audit::endpoint::{
    self, catalog,
    client::{Answers, Endpoint},
};
use clip::{
    folder::ModelFolder,
    image::{PixelBatch, RgbImage},
    text::{read_labels, read_templates},
};
struct Local {
    victim: Classifier,
    config: clip::ClipConfig,
}
impl Endpoint for Local {
    fn classify(&mut self, images: &[RgbImage]) -> audit::Result<Answers> {
        let batch = PixelBatch::of(images, &self.config);
        let scores = self.victim.scores(batch.values().to_vec())?;
        Ok(Answers::Labels(tops(&scores, self.victim.labels())))
    }
}
fn main() {
    let mut args = std::env::args().skip(1);
    let (images, labels, templates) =
        (args.next().unwrap(), args.next().unwrap(), args.next().unwrap());
    for model in args {
        let folder = ModelFolder::open(std::path::Path::new(&model)).unwrap();
        let labels = read_labels(std::path::Path::new(&labels)).unwrap();
        let templates = read_templates(std::path::Path::new(&templates)).unwrap();
        let victim = Classifier::open(&folder, &labels, &templates).unwrap();
        let side = victim.side() as u32;
        let mut local = Local { victim, config: folder.config.clone() };
        let images =
            audit::images::read(std::path::Path::new(&images), side, endpoint::IMAGES_MAX, 0)
                .unwrap();
        let catalog = catalog::default(side).unwrap();
        let seen =
            endpoint::run(&mut local, &images, labels.len(), &catalog, 20_000, 0, &mut |_| ())
                .unwrap();
        let (verdict, reason) = audit::verdict::of_endpoint(&seen, images.len());
        println!("{model}: {verdict:?} {reason} sent {} ", seen.sent);
        let mut entries = seen.entries.clone();
        entries.sort_by(|a, b| b.pilot.total_cmp(&a.pilot));
        entries.retain(|e| e.race.is_some());
        for e in
            entries.iter().take(std::env::var("TOP").ok().and_then(|v| v.parse().ok()).unwrap_or(6))
        {
            let r = e.race.as_ref().unwrap();
            println!(
                "   {:50} -> {:15} pilot {:.2} asr {:.2} of {} control {:.2} log_e {:.1} {}",
                e.spec.to_string(),
                labels[e.target],
                e.pilot,
                r.trigger.value(),
                r.trigger.trials,
                r.control.value(),
                r.log_e,
                e.rejected
            );
        }
        println!("   raced {}", entries.len());
    }
}
