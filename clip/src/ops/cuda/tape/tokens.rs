//! From pixels and ids to sequences of tokens, and from sequences to one row each.

use candle_core::{Result, Tensor, bail};

use super::{CudaTape, CudaValue};
use crate::ops::cuda::{Launch, Machine};

/// Places of one token that are summed at a time.
const STRETCH: usize = 64;

impl<M: Machine> CudaTape<M> {
    pub(super) fn image(&self, pixels: &Tensor) -> Result<CudaValue<M>> {
        let (batch, channels, height, width) = pixels.dims4()?;
        self.pixels(pixels, "image", vec![batch, height, width, channels], |launch| {
            launch.count(channels).count(height * width)
        })
    }

    pub(super) fn patches(&self, pixels: &Tensor, side: usize) -> Result<CudaValue<M>> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let dims = vec![batch, (height / side) * (width / side), channels * side * side];
        self.pixels(pixels, "patches", dims, |launch| {
            launch.count(channels).count(height).count(width).count(side)
        })
    }

    fn pixels(
        &self,
        pixels: &Tensor,
        kernel: &'static str,
        dims: Vec<usize>,
        sizes: impl FnOnce(Launch) -> Launch,
    ) -> Result<CudaValue<M>> {
        let (bench, count) = (self.bench(), pixels.elem_count());
        let values = match self.store.received(pixels)? {
            Some(values) => values,
            None => bench.tensor(pixels)?,
        };
        let y = bench.values(count)?;
        let launch = Launch::packs(kernel, count, self.precision).pointer(M::address(&values));
        bench.launch(sizes(launch.pointer(M::address(&y)).count(count)))?;
        Ok(CudaValue { data: y.into(), dims: dims.into(), step: None })
    }

    /// `first`, or the mean, before all tokens, and positions on top.
    pub(super) fn with_first(
        &self,
        x: &CudaValue<M>,
        first: Option<&Tensor>,
        positions: &Tensor,
    ) -> Result<CudaValue<M>> {
        let &[batch, tokens, columns] = &*x.dims else { panic!("`[B, N, C]`") };
        let known = positions.dim(0)?;
        if known != 1 + tokens {
            bail!("{} tokens, but there are positions for {known}", 1 + tokens);
        }
        let (bench, room) = (self.bench(), (1 + tokens) * columns);
        let y = bench.values(batch * room)?;
        let class = first.map_or(Ok(0), |first| self.store.master(first))?;
        let launch = Launch::each("with_first", batch * room).pointer(x.address()).pointer(class);
        let launch = launch.pointer(self.store.master(positions)?).pointer(M::address(&y));
        bench.launch(launch.count(batch * room).count(tokens).count(columns))?;
        let (step, count) = (x.step, x.count());
        let (first, positions) = (first.cloned(), positions.clone());
        let (first_again, positions_again) = (first.clone(), positions.clone());
        let trained: Vec<_> =
            [first_again.as_ref(), Some(&positions_again)].into_iter().flatten().collect();
        let dims = [batch, 1 + tokens, columns];
        Ok(self.output(y, dims, &[x], &trained, move |gradient, gradients| {
            let (bench, dy) = (&gradients.bench, M::address(&gradient));
            let parts = bench.column_sums(dy, batch, room)?;
            if let Some(sum) = bench.store.gradient(&positions)? {
                bench.fold(&parts, 0..room, 1.0, sum)?;
            }
            if let Some(first) = &first
                && let Some(sum) = bench.store.gradient(first)?
            {
                bench.fold(&parts, 0..columns, 1.0, sum)?;
            }
            let dx = bench.values(count)?;
            let launch = Launch::each("with_first_back", count).pointer(dy);
            let launch = launch.pointer(M::address(&dx)).count(count).count(tokens).count(columns);
            bench.launch(launch.count(usize::from(first.is_none())))?;
            gradients.give(step, count, dx)
        }))
    }

    pub(super) fn embed(
        &self,
        ids: &Tensor,
        table: &Tensor,
        positions: &Tensor,
    ) -> Result<CudaValue<M>> {
        let (batch, length) = ids.dims2()?;
        let (vocabulary, columns) = table.dims2()?;
        let ids = ids.flatten_all()?.to_vec1::<u32>()?;
        let known = positions.dim(0)?;
        if length > known {
            bail!("{length} tokens, but there are positions for {known}");
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            bail!("token {id}, but the vocabulary has {vocabulary}");
        }
        let (bench, count) = (self.bench(), batch * length * columns);
        let (rows, y) = (bench.machine().upload(&ids)?, bench.values(count)?);
        let launch = Launch::each("embed", count).pointer(M::address(&rows));
        let launch = launch.pointer(self.store.master(table)?);
        let launch = launch.pointer(self.store.master(positions)?).pointer(M::address(&y));
        bench.launch(launch.count(count).count(length).count(columns))?;
        let parameters = (table.clone(), positions.clone());
        let (dims, trained) = ([batch, length, columns], [table, positions]);
        Ok(self.output(y, dims, &[], &trained, move |gradient, gradients| {
            let ((table, positions), bench) = (parameters, &gradients.bench);
            let dy = M::address(&gradient);
            bench.add_columns(&positions, 0, dy, batch, length * columns)?;
            let Some(sum) = bench.store.gradient(&table)? else { return Ok(()) };
            let Stretches { places, starts, ids, firsts } = Stretches::new(&ids);
            let stretches = starts.len() - 1;
            let parts = bench.floats(stretches * columns)?;
            let (places, starts) =
                (bench.machine().upload(&places)?, bench.machine().upload(&starts)?);
            let launch = Launch::new("embed_sums", [stretches, 1, 1], 256).pointer(dy);
            let launch = launch.pointer(M::address(&places)).pointer(M::address(&starts));
            bench.launch(launch.pointer(M::address(&parts)).count(columns))?;
            let (rows, firsts) = (bench.machine().upload(&ids)?, bench.machine().upload(&firsts)?);
            let launch = Launch::new("embed_fold", [ids.len(), 1, 1], 256);
            let launch = launch.pointer(M::address(&parts)).pointer(M::address(&rows));
            bench.launch(launch.pointer(M::address(&firsts)).pointer(sum).count(columns))
        }))
    }

    pub(super) fn pick(&self, x: &CudaValue<M>, tokens: &[u32]) -> Result<CudaValue<M>> {
        let &[batch, length, columns] = &*x.dims else { panic!("`[B, T, C]`") };
        let (bench, count) = (self.bench(), batch * columns);
        let (tokens, y) = (bench.machine().upload(tokens)?, bench.values(count)?);
        let launch = Launch::each("pick", count).pointer(x.address()).pointer(M::address(&tokens));
        bench.launch(launch.pointer(M::address(&y)).count(count).count(length).count(columns))?;
        let (step, all) = (x.step, x.count());
        Ok(self.output(y, [batch, columns], &[x], &[], move |gradient, gradients| {
            let dx = gradients.bench.values(all)?;
            let launch = Launch::each("pick_back", all).pointer(M::address(&gradient));
            let launch = launch.pointer(M::address(&tokens)).pointer(M::address(&dx));
            gradients.bench.launch(launch.count(all).count(length).count(columns))?;
            gradients.give(step, all, dx)
        }))
    }
}

/// Where each token of a batch stands: a token that stands at many places has several stretches, so
/// that no block of a card sums for long.
struct Stretches {
    /// Ordered by token.
    places: Vec<u32>,
    /// First of the places of each stretch, and their number.
    starts: Vec<u32>,
    /// Each token once.
    ids: Vec<u32>,
    /// First of the stretches of each token, and their number.
    firsts: Vec<u32>,
}

impl Stretches {
    fn new(tokens: &[u32]) -> Self {
        let mut places: Vec<u32> = (0..tokens.len() as u32).collect();
        places.sort_by_key(|&place| tokens[place as usize]); // stable: places of a token stay in order
        let (mut starts, mut ids, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
        let mut begun = 0;
        for run in places.chunk_by(|a, b| tokens[*a as usize] == tokens[*b as usize]) {
            ids.push(tokens[run[0] as usize]);
            firsts.push(starts.len() as u32);
            starts.extend((0..run.len()).step_by(STRETCH).map(|at| begun + at as u32));
            begun += run.len() as u32;
        }
        firsts.push(starts.len() as u32);
        starts.push(begun);
        Self { places, starts, ids, firsts }
    }
}
