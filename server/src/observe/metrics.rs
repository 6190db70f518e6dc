//! Every metric of the server, once. No label, caption, id or path is ever a label value.

use std::time::{Duration, Instant};

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Why work was refused or dropped: the values of `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// A queue had no place.
    QueueFull,
    /// Too many requests, or too many bytes of them, were in flight.
    InFlight,
    /// The client had left before its work began.
    Gone,
    /// The deadline had passed before its work began.
    Deadline,
}

impl Shed {
    fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::InFlight => "in_flight",
            Self::Gone => "gone",
            Self::Deadline => "deadline",
        }
    }
}

/// The stations of a request, in the order of the data path: the values of `stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the body.
    Receive,
    /// JSON, and the checks of its content.
    Parse,
    /// Base64, picture, resize, normalisation: one image.
    Decode,
    /// Texts to token ids.
    Tokenize,
    /// Label embeddings, from the cache or the text tower.
    Labels,
    /// Waiting for a worker: one row.
    Queue,
    /// One batch in ONNX Runtime.
    Infer,
    /// Scores of a classification.
    Score,
    /// Search in an index, metadata included.
    Search,
    /// A group of changes made durable.
    Write,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Parse => "parse",
            Self::Decode => "decode",
            Self::Tokenize => "tokenize",
            Self::Labels => "labels",
            Self::Queue => "queue",
            Self::Infer => "infer",
            Self::Score => "score",
            Self::Search => "search",
            Self::Write => "write",
        }
    }
}

/// Buckets of durations, in seconds.
const SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets of batch sizes, in rows.
const ROWS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The registry and a handle on each metric.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    stage_seconds: HistogramVec,
    shed: IntCounterVec,
    /// Requests with a body that have a place.
    pub requests_in_flight: IntGauge,
    /// Images per batch of the image tower.
    pub batch_images: Histogram,
    /// Texts per batch of the text tower.
    pub batch_texts: Histogram,
    queue_depth: IntGaugeVec,
    /// Labels whose embedding was at hand.
    pub label_cache_hits: IntCounter,
    /// Labels whose embedding had to be computed.
    pub label_cache_misses: IntCounter,
    /// Workers that can take a batch.
    pub workers_alive: IntGauge,
    index_items: IntGaugeVec,
    index_tombstones: IntGaugeVec,
    index_recall: GaugeVec,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let made = IntCounter::new(name, help).expect("a valid metric name");
            registered(&registry, made)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels);
            registered(&registry, made.expect("a valid metric name"))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let made = IntGaugeVec::new(Opts::new(name, help), labels);
            registered(&registry, made.expect("a valid metric name"))
        };
        let seconds = |name: &str, help: &str, label: &str| {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let made = HistogramVec::new(opts, &[label]).expect("a valid metric name");
            registered(&registry, made)
        };
        let sizes = |name: &str, help: &str| {
            let opts = HistogramOpts::new(name, help).buckets(ROWS.to_vec());
            let made = Histogram::with_opts(opts).expect("a valid metric name");
            registered(&registry, made)
        };
        let labels = &["route", "method", "status"];
        let gauge = |name: &str, help: &str| {
            let made = IntGauge::new(name, help).expect("a valid metric name");
            registered(&registry, made)
        };
        let recall_opts = Opts::new(
            "roclip_index_recall_ratio",
            "Share of the exact answers that the graph found, over sampled searches.",
        );
        let recall = GaugeVec::new(recall_opts, &["index"]).expect("a valid metric name");
        Self {
            requests: counters("roclip_http_requests_total", "Requests answered.", labels),
            request_seconds: seconds(
                "roclip_http_request_duration_seconds",
                "From the head of a request to its answer.",
                "route",
            ),
            stage_seconds: seconds(
                "roclip_stage_duration_seconds",
                "Time spent in one station of the data path.",
                "stage",
            ),
            shed: counters(
                "roclip_requests_shed_total",
                "Work that was refused, or dropped before a worker took it.",
                &["reason"],
            ),
            requests_in_flight: gauge(
                "roclip_requests_in_flight",
                "Requests with a body that are being read or answered.",
            ),
            batch_images: sizes("roclip_batch_images", "Images per batch."),
            batch_texts: sizes("roclip_batch_texts", "Texts per batch."),
            queue_depth: gauges("roclip_queue_depth", "Rows that wait for a worker.", &["tower"]),
            label_cache_hits: counter(
                "roclip_label_cache_hits_total",
                "Labels whose embedding was at hand.",
            ),
            label_cache_misses: counter(
                "roclip_label_cache_misses_total",
                "Labels whose embedding had to be computed.",
            ),
            workers_alive: gauge("roclip_workers_alive", "Workers that can take a batch."),
            index_items: gauges("roclip_index_items", "Items of an index.", &["index"]),
            index_tombstones: gauges(
                "roclip_index_tombstones",
                "Deleted items that still take memory.",
                &["index"],
            ),
            index_recall: registered(&registry, recall),
            registry,
        }
    }

    /// States which model answers; once, at start.
    pub fn model(&self, model: &str, sha256: &str) {
        let opts = Opts::new("roclip_model_info", "The model that answers; always 1.");
        let made = IntGaugeVec::new(opts, &["model", "sha256"]).expect("a valid metric name");
        registered(&self.registry, made).with_label_values(&[model, sha256]).set(1);
    }

    /// One request was answered.
    pub fn answered(&self, route: &str, method: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[route, method, &status.to_string()]).inc();
        self.request_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// `stage` took the time since `begin`.
    pub fn stage(&self, stage: Stage, begin: Instant) {
        let seconds = begin.elapsed().as_secs_f64();
        self.stage_seconds.with_label_values(&[stage.word()]).observe(seconds);
    }

    /// `count` pieces of work were refused or dropped.
    pub fn shed(&self, reason: Shed, count: usize) {
        if count > 0 {
            self.shed.with_label_values(&[reason.word()]).inc_by(count as u64);
        }
    }

    /// Rows that wait for `tower`.
    pub fn queue_depth(&self, tower: &str, rows: usize) {
        self.queue_depth.with_label_values(&[tower]).set(rows as i64);
    }

    /// Size of one index.
    pub fn index(&self, index: &str, items: usize, tombstones: usize) {
        self.index_items.with_label_values(&[index]).set(items as i64);
        self.index_tombstones.with_label_values(&[index]).set(tombstones as i64);
    }

    /// Mean recall of the sampled searches of one index.
    pub fn index_recall(&self, index: &str, ratio: f64) {
        self.index_recall.with_label_values(&[index]).set(ratio);
    }

    /// An index is no more.
    pub fn forget_index(&self, index: &str) {
        let _ = self.index_items.remove_label_values(&[index]); // absent: nothing to forget
        let _ = self.index_tombstones.remove_label_values(&[index]);
        let _ = self.index_recall.remove_label_values(&[index]);
    }

    /// Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        let families = self.registry.gather();
        TextEncoder::new().encode(&families, &mut text).expect("writing into memory");
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, made: C) -> C {
    registry.register(Box::new(made.clone())).expect("every name is registered once");
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_documentation() {
        let metrics = Metrics::new();
        metrics.model("micro", "00ff");
        metrics.answered("/v1/classify", "POST", 200, Duration::from_millis(3));
        metrics.stage(Stage::Decode, Instant::now());
        metrics.shed(Shed::QueueFull, 2);
        metrics.queue_depth("image", 3);
        metrics.index("cats", 5, 1);
        metrics.index_recall("cats", 0.99);
        let text = metrics.render();
        for line in [
            r#"roclip_http_requests_total{method="POST",route="/v1/classify",status="200"} 1"#,
            r#"roclip_requests_shed_total{reason="queue_full"} 2"#,
            r#"roclip_queue_depth{tower="image"} 3"#,
            r#"roclip_index_items{index="cats"} 5"#,
            r#"roclip_index_tombstones{index="cats"} 1"#,
            r#"roclip_index_recall_ratio{index="cats"} 0.99"#,
            r#"roclip_model_info{model="micro",sha256="00ff"} 1"#,
            r#"roclip_stage_duration_seconds_count{stage="decode"} 1"#,
            "roclip_batch_images_count 0",
            "roclip_requests_in_flight 0",
            "roclip_label_cache_hits_total 0",
            "roclip_label_cache_misses_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        metrics.forget_index("cats");
        assert!(!metrics.render().contains("cats"));
    }
}
