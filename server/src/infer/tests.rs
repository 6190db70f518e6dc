use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use clip::{
    Result,
    image::{PixelBatch, RgbImage, encode_png},
    text::TokenBatch,
};

use super::*;

/// What a test wants the next encoders to do.
#[derive(Debug, Default)]
struct Orders {
    opened: AtomicU32,
    refuse_opening: AtomicBool,
    refuse_all: AtomicBool,
}

/// Rows made of the input by arithmetic. A picture without red is refused, one without green
/// makes it panic, one without blue gets no finite row.
struct Arithmetic {
    config: ClipConfig,
    orders: Arc<Orders>,
}

impl Encoder for Arithmetic {
    fn config(&self) -> &ClipConfig {
        &self.config
    }

    fn embed_images(&mut self, pixels: &PixelBatch) -> Result<UnitRows> {
        let plane = pixels.side() * pixels.side();
        let mut values = Vec::new();
        for picture in pixels.values().chunks_exact(3 * plane) {
            let mean = |channel: usize| {
                let sum: f32 = picture[channel * plane..][..plane].iter().sum();
                (sum / plane as f32) * self.config.std[channel] + self.config.mean[channel]
            };
            let [red, green, blue] = [0, 1, 2].map(mean);
            if red < 1e-3 || self.orders.refuse_all.load(Ordering::SeqCst) {
                return Err(clip::Error::Runtime("refused by the test".into()));
            }
            assert!(green >= 1e-3, "a panic that the test wants");
            let last = if blue < 1e-3 { f32::NAN } else { 1.0 };
            values.extend([red, green, blue, last]);
        }
        Ok(UnitRows::normalize(values, 4))
    }

    fn embed_texts(&mut self, tokens: &TokenBatch) -> Result<UnitRows> {
        let row = |ids: &[u32]| -> [f32; 4] {
            let used = ids.iter().position(|&id| id == self.config.text.end()).expect("an end");
            let sum: u32 = ids[..used].iter().sum();
            [1.0, sum as f32, used as f32, 2.0]
        };
        Ok(UnitRows::normalize(tokens.rows().flat_map(row).collect(), 4))
    }

    fn logit_scale(&self) -> f32 {
        2.0
    }
}

fn limits() -> Limits {
    Limits { image_queue_max: 16, image_batch_max: 4, text_queue_max: 16, ..Limits::default() }
}

fn engine(orders: &Arc<Orders>, limits: &Limits) -> Engine {
    let tokenizer = Tokenizer::train(["a red circle", "a blue square"].into_iter(), 600, 16);
    let tokenizer = tokenizer.expect("a tokenizer");
    let mut config = ClipConfig::preset("rn-micro").expect("a preset");
    config.dim = 4;
    config.text.vocab_size = tokenizer.vocab_size();
    config.text.context_length = 16;
    let orders = Arc::clone(orders);
    let open: OpenEncoder = Arc::new(move || {
        orders.opened.fetch_add(1, Ordering::SeqCst);
        if orders.refuse_opening.load(Ordering::SeqCst) {
            return Err(clip::Error::Runtime("not again".into()));
        }
        Ok(Box::new(Arithmetic { config: config.clone(), orders: Arc::clone(&orders) }))
    });
    let threads = Threads { workers: 1, decoders: 2 };
    let metrics = Arc::new(Metrics::new());
    Engine::start(open, tokenizer, threads, limits, metrics).expect("an engine")
}

fn picture(rgb: [u8; 3]) -> Picture {
    let mut image = RgbImage::new(8, 8);
    image.pixels_mut().for_each(|pixel| pixel.0 = rgb);
    Picture::Bytes(Arc::from(encode_png(&image)))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn block<T>(future: impl Future<Output = T>) -> T {
    actix_web::rt::System::new().block_on(future)
}

#[test]
fn rows_come_back_in_the_order_of_their_pictures() {
    let engine = engine(&Arc::default(), &limits());
    block(async {
        // More than may be in the queue at one time.
        let reds: Vec<u8> = (0..41).map(|n| 10 + 6 * n).collect();
        let pictures: Vec<Picture> = reds.iter().map(|&red| picture([red, 100, 100])).collect();
        let rows = engine.embed_images(&pictures, soon()).await.expect("rows");
        let ratios: Vec<f32> = rows.rows().map(|row| row[0] / row[1]).collect();
        for (ratio, red) in ratios.iter().zip(reds) {
            assert!((ratio - f32::from(red) / 100.0).abs() < 1e-3, "{ratio} for {red}");
        }
    });
}

#[test]
fn one_bad_row_costs_itself_only() {
    let orders = Arc::<Orders>::default();
    let engine = engine(&orders, &limits());
    block(async {
        let good = [picture([50, 60, 70])];
        let alone = engine.embed_images(&good, soon()).await.expect("a row");
        for bad in [[0, 60, 70], [50, 0, 70], [50, 60, 0]] {
            let bad_one = [picture(bad)];
            let both = futures_join(engine.embed_images(&bad_one, soon()), async {
                let pair = [picture([50, 60, 70]), picture([50, 60, 70])];
                engine.embed_images(&pair, soon()).await
            });
            let (refused, served) = both.await;
            let failure = refused.expect_err("a bad row");
            assert!(matches!(failure.fault, Fault::Broken(_)), "{failure:?}");
            assert_eq!(served.expect("rows").row(1), alone.row(0));
        }
    });
    assert!(orders.opened.load(Ordering::SeqCst) >= 2, "a panic costs the encoder");
    assert_eq!(engine.health().well(), 1);
}

#[test]
fn a_worker_that_cannot_go_on_shows_and_leaves_nobody_waiting() {
    let orders = Arc::<Orders>::default();
    let engine = engine(&orders, &limits());
    orders.refuse_opening.store(true, Ordering::SeqCst);
    block(async {
        for colors in [[50, 0, 70], [50, 60, 70], [50, 60, 70]] {
            let failure = engine.embed_images(&[picture(colors)], soon()).await;
            let failure = failure.expect_err("the only worker is lost");
            assert!(matches!(failure.fault, Fault::Broken(_) | Fault::Stopping), "{failure:?}");
        }
    });
    assert_eq!((engine.health().well(), engine.health().wanted()), (0, 1));
}

#[test]
fn a_worker_that_fails_again_and_again_is_ill_until_it_succeeds() {
    let orders = Arc::<Orders>::default();
    let engine = engine(&orders, &limits());
    block(async {
        orders.refuse_all.store(true, Ordering::SeqCst);
        for _ in 0..10 {
            let refused = engine.embed_images(&[picture([50, 60, 70])], soon()).await;
            assert!(refused.is_err());
        }
        assert_eq!(engine.health().well(), 0);
        orders.refuse_all.store(false, Ordering::SeqCst);
        assert!(engine.embed_images(&[picture([50, 60, 70])], soon()).await.is_ok());
        assert_eq!(engine.health().well(), 1);
    });
}

#[test]
fn a_broken_picture_is_named_and_a_late_request_is_told_so() {
    let engine = engine(&Arc::default(), &limits());
    block(async {
        let broken = Picture::parse("bm90IGFuIGltYWdl").expect("base64");
        let pictures = [picture([9, 9, 9]), broken, picture([9, 9, 9])];
        let failure = engine.embed_images(&pictures, soon()).await.expect_err("the second");
        assert_eq!(failure.item, Some(1));
        assert!(matches!(failure.fault, Fault::Picture(_)), "{failure:?}");
        let late = engine.embed_images(&pictures[..1], Instant::now()).await;
        assert!(matches!(late.expect_err("late").fault, Fault::Deadline));
    });
}

#[test]
fn labels_are_ensembles_and_come_from_the_cache_the_second_time() {
    let engine = engine(&Arc::default(), &limits());
    let labels: Vec<String> = (0..30).map(|n| format!("label {n}")).collect();
    let templates = ["a {}", "the {} of it"].map(|text| text.parse().expect("one `{}`"));
    block(async {
        let first = engine.label_rows(&labels, &templates, soon()).await.expect("rows");
        let again = engine.label_rows(&labels, &templates, soon()).await.expect("rows");
        assert_eq!(first, again);
        let captions = templates.iter().map(|template| template.fill(&labels[7])).collect();
        let two = engine.embed_texts(captions, Overlong::Refuse, soon()).await.expect("rows");
        let expected = two.rows.ensemble();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(first.row(7).iter().zip(expected.values()).all(close));
        let metrics = &engine.metrics;
        assert_eq!(metrics.label_cache_misses.get(), 30);
        assert_eq!(metrics.label_cache_hits.get(), 30);
    });
}

#[test]
fn a_text_of_too_many_tokens_is_named_or_cut() {
    let engine = engine(&Arc::default(), &limits());
    let texts = vec!["a red circle".to_owned(), "square ".repeat(40)];
    block(async {
        let refused = engine.embed_texts(texts.clone(), Overlong::Refuse, soon()).await;
        let failure = refused.expect_err("the second is too long");
        assert_eq!(failure.item, Some(1));
        assert!(matches!(failure.fault, Fault::TextTooLong { max: 16, .. }), "{failure:?}");
        let cut = engine.embed_texts(texts, Overlong::Truncate, soon()).await.expect("rows");
        assert_eq!(cut.rows.count(), 2);
        assert!(cut.tokens > 16 && cut.tokens < 32, "{}", cut.tokens);
        let labels = ["short".to_owned(), "square ".repeat(40)];
        let template = ["a {}".parse().expect("one `{}`")];
        let refused = engine.label_rows(&labels, &template, soon()).await;
        assert_eq!(refused.expect_err("too long").item, Some(1));
    });
}

#[test]
fn no_place_is_an_answer_at_once() {
    let engine = engine(&Arc::default(), &Limits { image_queue_max: 4, ..limits() });
    block(async {
        let taken = engine.queues.admit(Tower::Image, 4).expect("places");
        let refused = engine.embed_images(&[picture([9, 9, 9])], soon()).await;
        assert!(matches!(refused.expect_err("full").fault, Fault::Overloaded(Tower::Image)));
        drop(taken);
        assert!(engine.embed_images(&[picture([9, 9, 9])], soon()).await.is_ok());
    });
}

#[test]
fn an_engine_without_a_model_does_not_start() {
    let orders = Arc::<Orders>::default();
    let open: OpenEncoder = Arc::new(move || {
        orders.opened.fetch_add(1, Ordering::SeqCst);
        Err(clip::Error::Runtime("no such model".into()))
    });
    let tokenizer = Tokenizer::train(["a b"].into_iter(), 600, 16).expect("a tokenizer");
    let threads = Threads { workers: 2, decoders: 1 };
    let metrics = Arc::new(Metrics::new());
    let started = Engine::start(open, tokenizer, threads, &Limits::default(), metrics);
    assert_eq!(started.expect_err("no model").to_string(), "no such model");
}

/// Both results, computed side by side on this thread.
async fn futures_join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut left, mut right) = (None, None);
    std::future::poll_fn(move |context| {
        if left.is_none()
            && let std::task::Poll::Ready(value) = a.as_mut().poll(context)
        {
            left = Some(value);
        }
        if right.is_none()
            && let std::task::Poll::Ready(value) = b.as_mut().poll(context)
        {
            right = Some(value);
        }
        match (left.take(), right.take()) {
            (Some(left), Some(right)) => std::task::Poll::Ready((left, right)),
            (l, r) => {
                (left, right) = (l, r);
                std::task::Poll::Pending
            }
        }
    })
    .await
}
