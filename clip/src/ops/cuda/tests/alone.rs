//! A card by itself: joined with nobody, by the library that joins many, and the library that it
//! convolves with.

use std::{
    env,
    io::{self, Write},
    path::Path,
};

use super::*;
use crate::ops::{
    Peers, Seat,
    cuda::convolution::{Convolution, Sizes, Wanted},
};

/// Nobody else.
#[derive(Debug)]
struct Nobody;

impl Peers for Nobody {
    fn ranks(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut [f32]) {
        panic!("a card sums by itself");
    }
}

#[test]
fn a_card_alone_has_its_own_sums() -> Result<()> {
    if !subject::is_real() {
        return Ok(()); // NCCL asks for a GPU
    }
    let folder = env::var_os("ROCLIP_CUDA_LIBRARIES").filter(|folder| !folder.is_empty());
    let seat = Seat { rank: 0, ranks: 1, meeting: None };
    let card = match Card::open(folder.as_deref().map(Path::new), 0, Some(&seat)) {
        Ok(card) => card,
        Err(problem) if problem.contains("`libnccl.so.2` is not found") => {
            writeln!(io::stderr(), "skipped: {problem}").expect("stderr is open");
            return Ok(());
        }
        Err(problem) => panic!("{problem}"),
    };
    let mut values = [1.5f32, -2.0, 0.25];
    card.sum_over_ranks(&mut values)?;
    assert_eq!(values, [1.5, -2.0, 0.25]);
    assert_eq!(card.gather(&[3, 1, 4, 1, 5])?, [3, 1, 4, 1, 5]);
    let memory = card.upload(&values)?;
    card.sum(&memory, 1..3, &Nobody)?;
    assert_eq!(floats(&*card, &memory, 0, 3)?, values);
    Ok(())
}

/// What a machine has a way of its own for is what the sum's terms come to, one after the other.
#[test]
fn a_card_convolves_by_its_own_library() -> Result<()> {
    let Some(subject) = Subject::new(false) else { return Ok(()) };
    if let Subject::Real(card) = &*subject
        && !card.has_cudnn()
    {
        writeln!(io::stderr(), "skipped: no `libcudnn.so.9`").expect("stderr is open");
        return Ok(());
    }
    for (stride, inputs, outputs) in [(1, 3, 8), (2, 3, 8), (1, 64, 64), (1, 2, 3)] {
        let window = Window { side: 3, stride, padding: 1 };
        let sizes = Sizes::new([2, 7, 6, inputs], outputs, window);
        let mut seeds = 0..;
        let arrays = sizes.counts().map(|count| {
            let values = numbers(count, seeds.next().expect("without end"));
            values.iter().map(|value| ((*value as f32).to_bits() >> 16) as u16).collect::<Vec<_>>()
        });
        for (at, wanted) in
            [(0, Wanted::InputGradient), (1, Wanted::KernelGradient), (2, Wanted::Output)]
        {
            let mut exact = arrays.clone();
            let addresses = exact.each_mut().map(|array| array.as_mut_ptr() as u64);
            emulator::convolution::convolve(&Convolution { sizes, wanted, arrays: addresses });
            let sent = [0, 1, 2].map(|array| match array == at {
                true => subject.upload(&vec![u16::MAX; arrays[array].len()]),
                false => subject.upload(&arrays[array]),
            });
            let [x, kernel, y] = sent;
            let sent = [x?, kernel?, y?];
            let asked =
                Convolution { sizes, wanted, arrays: sent.each_ref().map(Subject::address) };
            let is_done = subject.convolve(Precision::Bf16, &asked)?;
            assert_eq!(is_done, subject::is_real() || stride == 1, "{asked}");
            if !is_done {
                continue;
            }
            let wide = |half: &u16| f64::from(f32::from_bits(u32::from(*half) << 16));
            let exact: Vec<f64> = exact[at].iter().map(wide).collect();
            let most = exact.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            for (found, exact) in values(&subject, &sent[at], Precision::Bf16)?.iter().zip(exact) {
                assert!((found - exact).abs() <= BF16_OFF_MAX * most, "{asked}");
            }
        }
    }
    Ok(())
}
