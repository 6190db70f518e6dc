//! Every way in which ranks work together keeps the same promises, and ranks that share a batch
//! train as one process with the whole of it.

mod step;
mod threads;

use trainer::{
    Error,
    not_finite::NotFinite,
    parallel::{Collective, Single},
};

use threads::Threads;

/// More than one call of MPI sums.
const MANY: usize = (1 << 22) + 3;

/// What every [`Collective`] promises; to be called on all ranks.
fn conforms(collective: &dyn Collective) {
    let (rank, ranks) = (collective.rank(), collective.ranks());
    assert!(rank < ranks);
    let all: Vec<u32> = (0..ranks as u32).collect();
    assert_eq!(collective.gather_numbers(&[rank as u32]), all);
    let expected: Vec<f32> = (0..ranks).flat_map(|rank| [rank as f32, -0.5]).collect();
    assert_eq!(collective.gather(&[rank as f32, -0.5]), expected);
    assert_eq!(collective.gather(&[]), [0.0; 0]);

    let mut sums = [1.0, rank as f32, -2.0];
    collective.sum(&mut sums);
    let total = (ranks * (ranks - 1) / 2) as f32;
    assert_eq!(sums, [ranks as f32, total, -2.0 * ranks as f32]);
    let mut many: Vec<f32> = (0..MANY).map(|i| (i % 7) as f32).collect();
    collective.sum(&mut many);
    assert!(many.iter().enumerate().all(|(i, sum)| *sum == (i % 7 * ranks) as f32));

    // Numbers whose sum depends on the order: all ranks have the same bits.
    let mut sums: Vec<f32> = (1..100).map(|i| (rank as f32 + 0.1) / i as f32).collect();
    collective.sum(&mut sums);
    let bits: Vec<u32> = sums.iter().map(|sum| sum.to_bits()).collect();
    let all = collective.gather_numbers(&bits);
    assert!(all.chunks_exact(bits.len()).all(|other| other == bits));
    agrees(collective);
}

/// What is made of these operations tells of the one rank that is not as the others.
fn agrees(collective: &dyn Collective) {
    let (rank, ranks) = (collective.rank(), collective.ranks());
    assert_eq!(collective.is_first(), rank == 0);
    assert_eq!(collective.agree(Ok(rank)).ok(), Some(rank));
    let last = ranks - 1;
    assert!(collective.all(true) && !collective.all(false));
    assert!(!collective.all(rank != last), "the last rank says no");
    let outcome = if rank == last { Err(Error::NotFinite(NotFinite::Loss)) } else { Ok(()) };
    match collective.agree(outcome) {
        Err(Error::NotFinite(NotFinite::Loss)) => assert_eq!(rank, last),
        Err(Error::Elsewhere { rank: failed }) => assert_eq!((failed, rank < last), (last, true)),
        other => panic!("{other:?}"),
    }
    assert!(collective.check_same("rows", [7; 32]).is_ok());
    let mut sha256 = [7; 32];
    sha256[31] = u8::from(rank > 0 && rank == last);
    match collective.check_same("rows", sha256) {
        Ok(()) => assert_eq!(ranks, 1),
        Err(Error::Apart { rank: other, what: "rows" }) => assert_eq!((rank, other), (0, last)),
        Err(Error::Elsewhere { rank: 0 }) => assert!(rank > 0),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn one_process_conforms() {
    conforms(&Single);
}

#[test]
fn threads_conform() {
    for ranks in 1..=4 {
        Threads::run(ranks, |collective| conforms(&*collective));
    }
}

/// The ranks of an MPI job, if `mpirun` started this; without, a job of one.
#[cfg(feature = "mpi")]
#[test]
fn mpi_conforms() {
    conforms(&*trainer::parallel::Mpi::start().expect("MPI"));
}

/// The ranks that a launcher started, with a GPU each; without, a job of one. Only if
/// `ROCLIP_TEST_CARD` is set.
#[cfg(feature = "cuda")]
#[test]
fn nccl_conforms() {
    if std::env::var_os("ROCLIP_TEST_CARD").is_some_and(|value| !value.is_empty()) {
        let nccl = trainer::parallel::open(trainer::config::Parallel::Nccl);
        conforms(&*nccl.expect("a GPU and NCCL"));
    }
}

#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_says_so() {
    let error = trainer::parallel::Mpi::start().expect_err("no MPI in this build").to_string();
    assert!(error.starts_with("`parallel` is `mpi`, which this build does not have"), "{error}");
}
