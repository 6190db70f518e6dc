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
    cuda::convolution::{Convolution, Wanted},
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

#[test]
fn a_card_convolves_by_its_own_library() -> Result<()> {
    if !subject::is_real() {
        return Ok(()); // the emulator's way is its own
    }
    let subject = Subject::new(false).expect("a GPU is asked for");
    let Subject::Real(card) = &*subject else { panic!("a GPU is asked for") };
    if !card.has_cudnn() {
        writeln!(io::stderr(), "skipped: no `libcudnn.so.9`").expect("stderr is open");
        return Ok(());
    }
    let window = Window { side: 3, stride: 1, padding: 1 };
    for (inputs, outputs) in [(3, 8), (64, 64)] {
        let sizes = Convolution::new([2, 7, 7, inputs], outputs, window);
        let arrays = sizes.counts().map(|count| card.upload(&vec![0u16; count]));
        let [x, kernel, y] = arrays;
        let arrays = [x?, kernel?, y?];
        let addresses = arrays.each_ref().map(Card::address);
        for wanted in [Wanted::Output, Wanted::InputGradient, Wanted::KernelGradient] {
            assert!(card.convolve(Precision::Bf16, &sizes, wanted, addresses)?, "{wanted:?}");
        }
    }
    Ok(())
}
