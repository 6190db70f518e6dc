//! A card that has joined a job of one, by the library that joins those of many.

use std::{env, path::Path};

use super::*;
use crate::ops::Seat;

#[test]
fn a_card_alone_has_its_own_sums() -> Result<()> {
    if !subject::is_real() {
        return Ok(()); // NCCL asks for a GPU
    }
    let folder = env::var_os("ROCLIP_CUDA_LIBRARIES");
    let seat = Seat { rank: 0, ranks: 1, meeting: None };
    let card =
        Card::open(folder.as_deref().map(Path::new), 0, Some(&seat)).expect("a GPU and NCCL");
    let mut values = [1.5f32, -2.0, 0.25];
    card.sum_over_ranks(&mut values)?;
    assert_eq!(values, [1.5, -2.0, 0.25]);
    assert_eq!(card.gather(&[3, 1, 4, 1, 5])?, [3, 1, 4, 1, 5]);
    Ok(())
}
