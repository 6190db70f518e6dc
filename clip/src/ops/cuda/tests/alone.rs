//! A card that has joined a job of one, by the library that joins those of many.

use std::{
    env,
    io::{self, Write},
    path::Path,
};

use super::*;
use crate::ops::{Peers, Seat};

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
