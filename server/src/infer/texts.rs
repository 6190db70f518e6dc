//! Texts and labels to unit rows.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use clip::{
    UnitRows,
    text::{PromptTemplate, TokenBatch, Tokenizer},
};
use tokio::sync::oneshot;

use super::{
    Engine, Failure, Fault, Tower, collect,
    label_cache::LabelKey,
    queue::{Entry, Input, Places},
    receive,
};
use crate::observe::metrics::{Shed, Stage};

/// What to do with a text that has more tokens than the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlong {
    /// Say so.
    Refuse,
    /// Drop its last tokens.
    Truncate,
}

/// Embedded texts.
#[derive(Debug)]
pub struct Embedded {
    /// `[B, D]`.
    pub rows: UnitRows,
    /// Tokens that the model read, both marks included.
    pub tokens: usize,
}

/// A part of a request that is in the queue at one time.
struct Chunk {
    /// Place of its first text in the request.
    first: usize,
    overlong: Overlong,
    deadline: Instant,
    places: Arc<Places>,
}

/// Texts that are tokenised in one go: below what would wake other threads.
const TEXTS_AT_ONCE: usize = 32;

impl Engine {
    /// `[B, D]`, in the order of `texts`, of which there is at least one.
    pub async fn embed_texts(
        &self,
        texts: Vec<String>,
        overlong: Overlong,
        deadline: Instant,
    ) -> Result<Embedded, Failure> {
        let places = self.queues.admit(Tower::Text, texts.len())?;
        self.embed_admitted(texts, overlong, deadline, &places).await
    }

    /// [`Engine::embed_texts`] in places that the request has already.
    async fn embed_admitted(
        &self,
        texts: Vec<String>,
        overlong: Overlong,
        deadline: Instant,
        places: &Arc<Places>,
    ) -> Result<Embedded, Failure> {
        let mut values = Vec::with_capacity(texts.len() * self.config.dim);
        let (count, mut tokens, mut first) = (texts.len(), 0, 0);
        let mut rest = texts.into_iter();
        while first < count {
            let chunk: Vec<String> = rest.by_ref().take(places.rows).collect();
            let batch = Chunk { first, overlong, deadline, places: Arc::clone(places) };
            first += chunk.len();
            tokens += self.embed_chunk(chunk, batch, &mut values).await?;
        }
        Ok(Embedded { rows: UnitRows::normalize(values, self.config.dim), tokens })
    }

    /// Tokenises and queues `texts`, whose places are taken; gives their number of tokens.
    async fn embed_chunk(
        &self,
        texts: Vec<String>,
        chunk: Chunk,
        values: &mut Vec<f32>,
    ) -> Result<usize, Failure> {
        let Chunk { first, overlong, deadline, places } = chunk;
        let (replies, rows): (Vec<_>, Vec<_>) = texts.iter().map(|_| oneshot::channel()).unzip();
        let (queues, tokenizer) = (Arc::clone(&self.queues), Arc::clone(&self.tokenizer));
        let metrics = Arc::clone(&self.metrics);
        let tokenize = move || -> Result<usize, Failure> {
            let begin = Instant::now();
            let batch = tokenize(&tokenizer, &texts, overlong)?;
            metrics.stage(Stage::Tokenize, begin);
            let used = |row: &[u32]| row.iter().position(|&id| id == tokenizer.end());
            let tokens = batch.rows().map(|row| used(row).map_or(row.len(), |last| last + 1)).sum();
            for (row, reply) in replies.into_iter().enumerate() {
                let input = Input::Text(batch.select(row..row + 1));
                let (queued, places) = (Instant::now(), Arc::clone(&places));
                queues.push(Entry { input, reply, deadline, queued, places });
            }
            Ok(tokens)
        };
        let result = self.short.run(tokenize).map_err(|full| {
            self.metrics.shed(Shed::QueueFull, 1);
            Fault::from(full)
        })?;
        let tokens = receive(result, deadline).await?.map_err(|failure| Failure {
            item: failure.item.map(|item| first + item),
            ..failure
        })?;
        collect(rows, first, deadline, values).await?;
        Ok(tokens)
    }

    /// `[L, D]`: the unit mean of each label's filled templates, from the cache where it is there.
    /// There is at least one label and one template; a failure names the label.
    pub async fn label_rows(
        &self,
        labels: &[String],
        templates: &[PromptTemplate],
        deadline: Instant,
    ) -> Result<UnitRows, Failure> {
        let begin = Instant::now();
        let keys = LabelKey::of(labels, templates);
        let mut found: Vec<Option<Arc<[f32]>>> = {
            let mut cache = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
            keys.iter().map(|key| cache.get(key)).collect()
        };
        let missing: Vec<usize> =
            (0..labels.len()).filter(|&label| found[label].is_none()).collect();
        self.metrics.label_cache_hits.inc_by((labels.len() - missing.len()) as u64);
        self.metrics.label_cache_misses.inc_by(missing.len() as u64);
        // Some labels at a time: what was computed before a deadline is kept for the next attempt.
        let places = match missing.len() * templates.len() {
            0 => None,
            captions => Some(self.queues.admit(Tower::Text, captions)?),
        };
        let at_once = |places: &Arc<Places>| (places.rows / templates.len()).max(1);
        for group in missing.chunks(places.as_ref().map_or(1, at_once)) {
            let Some(places) = &places else { break };
            let captions = |&label: &usize| templates.iter().map(move |t| t.fill(&labels[label]));
            let captions: Vec<String> = group.iter().flat_map(captions).collect();
            let embedded = self.embed_admitted(captions, Overlong::Refuse, deadline, places).await;
            let rows = embedded.map_err(|failure| Failure {
                item: failure.item.map(|caption| group[caption / templates.len()]),
                ..failure
            })?;
            let dim = self.config.dim;
            let ensembles = rows.rows.values().chunks_exact(templates.len() * dim);
            let mut cache = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
            for (&label, captions) in group.iter().zip(ensembles) {
                let row = UnitRows::normalize(captions.to_vec(), dim);
                let row = if templates.len() == 1 { row } else { row.ensemble() };
                let row: Arc<[f32]> = Arc::from(row.values());
                cache.insert(keys[label], Arc::clone(&row));
                found[label] = Some(row);
            }
        }
        self.metrics.stage(Stage::Labels, begin);
        let values = found.iter().flatten().flat_map(|row| row.iter().copied()).collect();
        Ok(UnitRows::normalize(values, self.config.dim))
    }
}

/// `[B, T]`; a failure names the text.
fn tokenize(
    tokenizer: &Tokenizer,
    texts: &[String],
    overlong: Overlong,
) -> Result<TokenBatch, Failure> {
    let refuse = |error: clip::Error| Failure::from(Fault::Text(error.to_string()));
    let mut batch: Option<TokenBatch> = None;
    for texts in texts.chunks(TEXTS_AT_ONCE) {
        let tokens = tokenizer.encode(texts).map_err(refuse)?;
        match &mut batch {
            Some(batch) => batch.extend(&tokens),
            None => batch = Some(tokens),
        }
    }
    let batch = batch.ok_or_else(|| Failure::from(Fault::Text("there are no texts".into())))?;
    if overlong == Overlong::Refuse {
        let max = tokenizer.context_length();
        for (item, (row, text)) in batch.rows().zip(texts).enumerate() {
            // Only a row without padding can have lost something.
            if row.last() == Some(&tokenizer.end()) {
                let tokens = tokenizer.length(text).map_err(refuse)?;
                if tokens > max {
                    let fault = Fault::TextTooLong { tokens, max };
                    return Err(Failure { item: Some(item), fault });
                }
            }
        }
    }
    Ok(batch)
}
