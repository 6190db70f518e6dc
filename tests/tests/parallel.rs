//! Ranks that train together end with the weights of one process, and end together.
//!
//! What needs MPI is skipped by name where `cargo xtask test` found none.

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use clip::{folder::ModelFolder, weights::Weights};
use tempfile::TempDir;
use tests::{
    mpi,
    pictures::write_data,
    program::{Ended, program, run, run_until},
};

const BATCH: usize = 16;
/// Of each weight: ranks add in another order than one process. After 10 steps the ResNet's are 1.7e-6
/// apart, the ViT's 1.2e-7.
const TOLERANCE: f32 = 1e-5;
/// Within which all ranks end with one of them.
const END: Duration = Duration::from_secs(30);

/// A data set and the runs on it.
struct Place(TempDir);

impl Place {
    fn new(epochs: usize) -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        write_data(&place.path("data"), 5 * BATCH, 8, 3);
        // AdamW divides by the root of the square and epsilon. With the usual 1e-8 a gradient that
        // is zero but for rounding would move its weight as far as any other.
        let config = format!(
            "seed = 5\n\
             [data]\nmanifest = 'data/train.csv'\nbatch_size = {BATCH}\nworkers = 1\n\
             [model]\npreset = 'vit-micro'\n\
             [method]\nname = 'clip'\n\
             [optim]\nepochs = {epochs}\nepsilon = 1e-3\n\
             [monitor]\ntest = 'data/test.csv'\nclasses = 'data/classes.txt'\n\
             [output]\ncheckpoint_every_steps = 2\nrecord_every_steps = 1\n"
        );
        fs::write(place.path("run.toml"), config).expect("a file can be written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn words<'a>(&self, command: &'a mut Command, out: &str, words: &str) -> &'a mut Command {
        command.args(["run", "--config", "run.toml", "--no-progress", "--out", out]);
        command.args(words.split_whitespace()).current_dir(self.0.path())
    }

    /// A run of the ordinary program.
    fn alone(&self, out: &str, words: &str) -> Ended {
        let mut command = Command::new(program("roclip-train"));
        run(self.words(&mut command, out, words))
    }

    /// A job of as many ranks as `words`, one for each.
    fn job(&self, mpi: &OsString, out: &str, words: &[&str]) -> Command {
        let mut job = mpi::job(1, mpi);
        for (rank, words) in words.iter().enumerate() {
            if rank > 0 {
                job.args([":", "-n", "1"]).arg(mpi);
            }
            self.words(&mut job, out, &format!("--set parallel=mpi {words}"));
        }
        job
    }

    fn two(&self, mpi: &OsString, out: &str, words: &str) -> Ended {
        run(&mut self.job(mpi, out, &[words; 2]))
    }

    fn steps(&self, out: &str) -> usize {
        let text = fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"loss\"")).count()
    }

    fn weights(&self, out: &str) -> Weights {
        let folder = ModelFolder::open(self.path(out).join("model")).expect("a finished run");
        folder.weights().expect("weights")
    }

    /// Refuses models of which a weight differs by more than the tolerance.
    #[track_caller]
    fn check_near(&self, out: &str, whole: &str) {
        let (ours, whole) = (self.weights(out), self.weights(whole));
        assert!(ours.keys().eq(whole.keys()));
        let mut worst = (0.0, String::new());
        for (name, array) in &ours {
            for (a, b) in array.values.iter().zip(&whole[name].values) {
                if (a - b).abs() > worst.0 {
                    worst = ((a - b).abs(), name.clone());
                }
            }
        }
        assert!(worst.0 < TOLERANCE, "{out}: `{}` is off by {:.1e}", worst.1, worst.0);
    }
}

#[track_caller]
fn check_done(ended: Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// One error line, with all `parts` in what was said.
#[track_caller]
fn check_refused(ended: &Ended, parts: &[&str]) {
    let Ended { code, stdout, stderr } = ended;
    assert_eq!((*code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "`{part}`: {stderr}");
    }
}

#[test]
fn two_ranks_end_with_the_weights_of_one_process() {
    let Some(mpi) = mpi::program("two_ranks_end_with_the_weights_of_one_process") else { return };
    let place = Place::new(2);
    let roclip = "--set method.name=roclip --set method.roclip.pool_share=0.4";
    let sieve = "--set method.name=sieve --set method.sieve.from_epoch=2";
    for preset in ["vit-micro", "rn-micro"] {
        for (method, words) in [("clip", ""), ("roclip", roclip), ("sieve", sieve)] {
            // Of two ranks each surveys batches of half the size, whose statistics are others.
            if (preset, method) == ("rn-micro", "sieve") {
                continue;
            }
            let words = format!("--set model.preset={preset} {words}");
            let name = format!("{preset}-{method}");
            let whole = format!("{name}-whole");
            check_done(place.alone(&whole, &words));
            check_done(place.two(&mpi, &name, &words));
            let steps = if method == "sieve" { 30 } else { 10 }; // pairs are few
            assert_eq!((place.steps(&whole), place.steps(&name)), (steps, steps));
            place.check_near(&name, &whole);
        }
    }
    check_done(place.two(&mpi, "again", "--set model.preset=rn-micro"));
    assert!(place.weights("again") == place.weights("rn-micro-clip"), "two ranks do it alike");
    check_done(run(&mut place.job(&mpi, "world-of-1", &["--set model.preset=rn-micro"])));
    assert!(place.weights("world-of-1") == place.weights("rn-micro-clip-whole"));
}

#[test]
fn a_killed_rank_ends_all_and_the_run_goes_on() {
    let Some(mpi) = mpi::program("a_killed_rank_ends_all_and_the_run_goes_on") else { return };
    let place = Place::new(6);
    check_done(place.two(&mpi, "whole", ""));
    let mut killed = None;
    let mark = place.path("killed").display().to_string();
    let ended = run_until(&mut place.job(&mpi, &mark, &[""; 2]), || {
        if killed.is_none() && place.steps("killed") > 3 && mpi::kill_rank(1, &mark) {
            killed = Some(Instant::now());
        }
        false
    });
    let took = killed.expect("the run was long enough").elapsed();
    assert!(took < END, "{took:?}");
    assert!(!matches!(ended.code, Some(0)), "{ended:?}");
    assert!((ended.stdout + &ended.stderr).contains("rank 1"), "the rank is named");
    assert!(!place.path("killed/model").exists());
    fs::create_dir(place.path("fewer")).expect("a folder can be made");
    let checkpoint = "checkpoint.safetensors";
    fs::copy(place.path("killed").join(checkpoint), place.path("fewer").join(checkpoint))
        .expect("a checkpoint is there");
    check_done(place.two(&mpi, "killed", "--resume"));
    assert!(place.weights("killed") == place.weights("whole"), "as if nobody had touched it");
    check_done(place.alone("fewer", "--resume")); // as one process
    place.check_near("fewer", "whole");
}

#[test]
fn a_rank_that_fails_says_so_and_ends_all() {
    let Some(mpi) = mpi::program("a_rank_that_fails_says_so_and_ends_all") else { return };
    let place = Place::new(6);
    write_data(&place.path("own"), 5 * BATCH, 8, 3); // the same once more
    write_data(&place.path("other"), 5 * BATCH, 8, 4);
    let second = |manifest: &str| run(&mut place.job(&mpi, "out", &["", manifest]));
    let ended = second("--set data.manifest=gone.csv");
    check_refused(&ended, &["rank 1 of 2 cannot go on", "cannot read `", "gone.csv"]);
    let ended = second("--set data.manifest=other/train.csv");
    check_refused(
        &ended,
        &["rank 1 has other data, configuration, weights or selected pairs than rank 0"],
    );
    let ended = second("--set seed=6");
    check_refused(
        &ended,
        &["rank 1 has other data, configuration, weights or selected pairs than rank 0"],
    );
    let ended = run(&mut place.job(&mpi, "out", &[""; 3]));
    check_refused(&ended, &["`data.batch_size` must be a multiple of the 3 ranks, got 16"]);
    assert!(!place.path("out").exists(), "nothing was written");

    // Its pictures go away while it trains.
    let mut gone = None;
    let words = "--set data.manifest=own/train.csv --set data.cache_mib=0";
    let ended = run_until(&mut place.job(&mpi, "out", &["", words]), || {
        if gone.is_none() && place.steps("out") > 3 {
            fs::remove_dir_all(place.path("own/images")).expect("pictures are there");
            gone = Some(Instant::now());
        }
        false
    });
    let took = gone.expect("the run was long enough").elapsed();
    assert!(took < END, "{took:?}");
    check_refused(&ended, &["rank 1 of 2 cannot go on", "own/train.csv`, row "]);
    check_done(place.alone("out", "--resume"));
}

#[test]
fn processes_that_do_not_find_each_other_are_refused() {
    let place = Place::new(1);
    let ended = place.alone("out", "--set parallel=mpi");
    check_refused(&ended, &["`parallel` is `mpi`, which this build does not have"]);
    for (variable, part) in
        [("WORLD_SIZE", "`parallel = \"nccl\"`"), ("OMPI_COMM_WORLD_SIZE", "`parallel = \"mpi\"`")]
    {
        let mut command = Command::new(program("roclip-train"));
        let ended = run(place.words(&mut command, "out", "").env(variable, "2"));
        check_refused(&ended, &[variable, "2 processes", part]);
    }
    assert!(!place.path("out").exists(), "nothing was written");
    check_refused(&place.alone("out", "--set parallel=gloo"), &["gloo", "single"]);
    let cpu = place.alone("out", "--set parallel=nccl");
    check_refused(&cpu, &["`device` must be `cuda` when `parallel` is `nccl`"]);
    let cuda = place.alone("out", "--set parallel=nccl --set device=cuda");
    check_refused(&cuda, &["`parallel` is `nccl`, which this build does not have"]);
}
