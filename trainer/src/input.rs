//! What a run reads before it begins.

use clip::text::Tokenizer;

use crate::{
    augment::Augment,
    config::{self, Config},
    data::{Classes, Keys, Listing, Loader, Reading, Skipped, Store},
    error::{Error, Result},
    parallel::Collective,
    skipped,
    train::Watch,
};

/// Skipped rows that a warning names.
const NAMED_MAX: usize = 3;

/// How `[data]` says that manifests are read, that of `[monitor]`, too.
pub(crate) fn reading<'a>(config: &'a Config, classes: Classes<'a>) -> Reading<'a> {
    let config::Data { image_key, caption_key, class_key, .. } = &config.data;
    let keys = Keys {
        image: image_key.as_deref(),
        caption: caption_key.as_deref(),
        class: class_key.as_deref(),
    };
    Reading { keys, classes, cache_folder: Some(config.cache_folder()) }
}

/// What is trained on, before a picture is read.
pub(crate) fn open_listing(config: &Config) -> Result<Listing> {
    Listing::open(&config.data.manifest, &reading(config, Classes::Unnamed))
}

/// Pictures, tokenizer, augmentation; batches have the part of this rank.
pub(crate) fn open_loader(
    config: &Config,
    listing: Listing,
    collective: &dyn Collective,
    watch: &mut dyn Watch,
) -> Result<Loader> {
    let config::Data { manifest, batch_size, workers, bad_rows_max, cache_mib, .. } = &config.data;
    let mut clip = config.clip().expect("`check` refused an unknown preset");
    let augment = Augment::open(&config.augment, config.seed)?;
    let context = clip.text.context_length;
    let known = match config.model.tokenizer_source() {
        Some(source) => Some(source.open()?.with_context_length(context)?),
        None => None,
    };
    watch.begin("reading images", listing.all() as u64, 0);
    let side = clip.image.image_size();
    let mut store = Store::open(listing, side, *cache_mib, *bad_rows_max, || watch.advance(1))?;
    note_skipped(&store, watch);
    if let Some(max) = config.data.copies_max {
        store.cap_pictures(max)?;
    }
    if let Some(max) = config.data.same_captions_max {
        store.cap_captions(max);
    }
    let (all, rows) = (store.rows().len(), store.epoch_rows());
    let told = || format!("with copies capped, an epoch trains on {rows} of {all} pairs");
    match rows {
        _ if rows == all => {}
        _ if rows < all / 2 => {
            let keys = "`data.copies_max`, `data.same_captions_max`";
            watch.warn(format!("{} ({keys})", told()));
        }
        _ => watch.note(told()),
    }
    if rows < *batch_size {
        let (file, capped) = (manifest.clone(), rows < all);
        return Err(Error::SmallData { file, rows, capped, batch_size: *batch_size });
    }
    let captions = || store.rows().iter().map(|&row| store.caption(row));
    let tokenizer = match known {
        Some(tokenizer) => tokenizer,
        None => Tokenizer::train(captions(), config.model.vocab_size, context)?,
    };
    clip.text.vocab_size = tokenizer.vocab_size();
    note_cut_captions(&tokenizer, captions(), watch)?;
    let (seed, batch_size, workers) = (config.seed, *batch_size, *workers);
    let (rank, ranks) = (collective.rank(), collective.ranks());
    Ok(Loader {
        store,
        augment,
        tokenizer,
        clip,
        seed,
        batch_size,
        rank,
        ranks,
        workers,
        gpu: None,
    })
}

fn note_skipped(store: &Store, watch: &dyn Watch) {
    let bad: usize = store.skipped().iter().map(|skipped| skipped.rows).sum();
    if bad > 0 {
        let (all, file) = (store.rows().len() + bad, skipped::FILE);
        let first = Skipped::first(store.skipped(), NAMED_MAX);
        watch.warn(format!(
            "unreadable rows are left out: {bad} of {all} ({file}); the first: {first}"
        ));
    }
}

fn note_cut_captions<'a>(
    tokenizer: &Tokenizer,
    captions: impl Iterator<Item = &'a str>,
    watch: &dyn Watch,
) -> Result<()> {
    let (mut cut, mut all, context) = (0, 0, tokenizer.context_length());
    for caption in captions {
        all += 1;
        // A token is a byte at least, so most captions need no look.
        if caption.len() + 2 > context && tokenizer.length(caption)? > context {
            cut += 1;
        }
    }
    if cut > 0 {
        watch.warn(format!("captions of more than {context} tokens are cut: {cut} of {all}"));
    }
    Ok(())
}
