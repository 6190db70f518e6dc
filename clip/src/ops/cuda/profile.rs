//! How long a card takes over each kernel and each form of product and convolution.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use candle_core::{Error, Result};
use cudarc::driver::{CudaEvent, CudaStream, DriverError, sys::CUevent_flags};

/// What a card did under one name.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Of a kernel, or a product's or convolution's sizes
    pub name: String,
    /// How often
    pub calls: usize,
    /// All of them together, on the card
    pub seconds: f64,
}

/// Spans on the stream, while somebody asks for them.
#[derive(Debug, Default)]
pub(super) struct Profile(Mutex<Option<Vec<Span>>>);

/// What was asked for under a name, and the marks around it.
type Span = (String, [CudaEvent; 2]);

fn failed(error: DriverError) -> Error {
    Error::Msg(format!("the GPU says {:?}", error.0))
}

impl Profile {
    /// Asks the stream for something, between two marks if somebody wants to know.
    pub(super) fn around(
        &self,
        stream: &CudaStream,
        name: impl FnOnce() -> String,
        ask: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(spans) = &mut *spans else { return ask() };
        let mark = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed);
        let began = mark()?;
        ask()?;
        spans.push((name(), [began, mark()?]));
        Ok(())
    }

    /// From now on.
    pub(super) fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// Until now; waits for the card. The longest come first.
    pub(super) fn end(&self) -> Result<Vec<Timed>> {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut all = HashMap::<String, Timed>::new();
        for (name, [began, ended]) in spans.unwrap_or_default() {
            let seconds = f64::from(began.elapsed_ms(&ended).map_err(failed)?) / 1e3;
            let new = || Timed { name: name.clone(), calls: 0, seconds: 0.0 };
            let timed = all.entry(name.clone()).or_insert_with(new);
            timed.calls += 1;
            timed.seconds += seconds;
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.name.cmp(&b.name)));
        Ok(all)
    }
}
