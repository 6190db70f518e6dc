use super::*;

fn resolved(text: &str, settings: &[&str]) -> Result<Config> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("run.toml");
    fs::write(&file, text).expect("writable");
    open(&file, &settings.iter().map(ToString::to_string).collect::<Vec<_>>(), None)
}

#[test]
fn settings_win_over_the_file_and_may_make_tables() -> Result<()> {
    let text = "[data]\nmanifest = '/a.csv'\n[optim]\nlr = 0.5";
    let config = resolved(text, &["optim.lr=1e-3", "method.name=roclip", "seed=7"])?;
    assert_eq!((config.optim.lr, config.seed), (1e-3, 7));
    assert_eq!(config.method.name, super::super::MethodName::Roclip);
    Ok(())
}

#[test]
fn a_typo_in_file_or_setting_is_one_line() {
    let check = |text: &str, settings: &[&str], expected: &str| {
        let (Error::Config { problems, .. } | Error::Setting { problems }) =
            resolved(text, settings).expect_err("refused")
        else {
            panic!("of another kind")
        };
        let all = problems.join("; ");
        let (start, rest) = expected.split_once("..").unwrap_or((expected, ""));
        assert!(all.starts_with(start) && all.contains(rest), "{all}");
        assert!(expected.contains("..") || all == start, "{all}");
        assert!(!all.contains('\n'), "{all}");
    };
    let good = "[data]\nmanifest = '/a.csv'\n";
    check("[data]\nmanifst = 'a'\n", &[], "line 2, column 1: unknown field `manifst`..");
    let optim = |line: &str| format!("{good}[optim]\n{line}\n");
    let word = "line 4, column 6: `fast` is no value: text stands in quotes";
    check(&optim("lr = fast"), &[], word);
    check(&optim("lr = 2 fast"), &[], "line 4, column 6: ..");
    let found = "line 4, column 6: expected a number, found string \"fast\"";
    check(&optim("lr = 'fast'"), &[], found);

    check(good, &["lr"], "`--set lr`: expected `key=value`");
    check(good, &["=1"], "`--set =1`: expected `key=value`");
    check(good, &["seed.x=1"], "`--set seed.x=1`: expected a whole number from 0 on");
    check(&format!("seed = 1\n{good}"), &["seed.x=1"], "`--set seed.x=1`: `seed` is no table");
    check(good, &["optim.learning=1"], "`--set optim.learning=1`: unknown field..`lr`");
    check(good, &["seed=1", "optim.lr=fast"], "`--set optim.lr=fast`: expected a number");
    check(good, &["optim.lr = fast"], "`--set optim.lr = fast`: expected a number");
    let whole = "expected a whole number from 0 to 4294967295";
    check(good, &["optim.epochs=-1"], &format!("`--set optim.epochs=-1`: {whole}"));
    check(good, &["optim.epochs=0.5"], &format!("`--set optim.epochs=0.5`: {whole}"));
    check(good, &["augment.text=1"], "`--set augment.text=1`: expected `true` or `false`");
    check(good, &["optim=1"], "`--set optim=1`: expected a table");
    check(good, &["device=gpu"], "`--set device=gpu`: unknown variant `gpu`..`cuda`");
}

/// Who makes a value that parses and is out of its limits is told, file or setting.
#[test]
fn a_mistake_is_told_of_who_made_it() {
    let check = |text: &str, settings: &[&str], expected: &str| {
        let error = resolved(text, settings).expect_err("refused").to_string();
        let found = error.split_once("run.toml`: ").map_or(&*error, |(_, lines)| lines);
        assert_eq!(found, expected);
        assert_eq!(found == error, expected.starts_with("`--set"), "{error}");
    };
    let good = "[data]\nmanifest = '/a.csv'\n";
    let lr = "`optim.lr` must be above 0";
    let both = format!("`data.manifest` must be given; `--set optim.lr=0`: {lr}");
    check("", &["optim.lr=0"], &both);
    check(good, &["optim.lr=0", "seed=1"], &format!("`--set optim.lr=0`: {lr}"));
    let bad = format!("{good}[optim]\nlr = -1\n");
    check(&bad, &["seed=1"], lr);
    check(&bad, &["optim.lr=0"], &format!("`--set optim.lr=0`: {lr}"));
    let two = "`optim.epochs` must be at least 2 for RoCLIP: captions of the first fill the pool";
    let roclip = format!("{good}[method]\nname = 'roclip'\n");
    check(&roclip, &["optim.epochs=1"], &format!("`--set optim.epochs=1`: {two}"));
    let late = format!("{roclip}[method.roclip]\nmatch_from_epoch = 30\n");
    let from =
        "`method.roclip.match_from_epoch` must be at least 2, at most `optim.epochs`, which is";
    check(&late, &["optim.epochs=25"], &format!("{from} 25"));
    let first = ["optim.epochs=0", "optim.lr=0", "optim.epochs=2"];
    check(good, &first, &format!("`--set optim.lr=0`: {lr}"));
}

#[test]
fn the_resolved_configuration_is_valid_input() -> Result<()> {
    let config = resolved("[data]\nmanifest = '/a.csv'\n[method]\nname = 'roclip'", &[])?;
    let text = toml::to_string(&config).expect("TOML can hold it");
    assert_eq!(resolved(&text, &[])?, config);
    Ok(())
}

#[test]
fn defences_are_augmented_unless_told_otherwise() -> Result<()> {
    let check = |settings: &[&str], expected: [bool; 2]| -> Result<()> {
        let augment = resolved("[data]\nmanifest = 'a.csv'", settings)?.augment;
        assert_eq!([augment.image, augment.text], expected.map(Some));
        Ok(())
    };
    check(&["method.name=clip"], [false, false])?;
    check(&["method.name=clip", "augment.image=true"], [true, false])?;
    check(&[], [true, true])?;
    check(&["method.name=roclip"], [true, true])?;
    check(&["method.name=roclip", "augment.text=false"], [true, false])
}

#[test]
fn the_defaults_of_the_method_are_resolved() -> Result<()> {
    let check = |settings: &[&str], epochs: Option<u32>| -> Result<()> {
        let config = resolved("[data]\nmanifest = 'a.csv'", settings)?;
        let named = (config.method.roclip.is_some(), config.method.sieve.is_some());
        assert_eq!(named.0, config.method.name == MethodName::Roclip);
        assert_eq!(named.1, config.method.name == MethodName::Sieve);
        let named = (config.method.cleanclip.is_some(), config.method.safeclip.is_some());
        assert_eq!(named.0, config.method.name == MethodName::Cleanclip);
        assert_eq!(named.1, config.method.name == MethodName::Safeclip);
        assert_eq!(config.for_pairs(10_000).augment.epochs, epochs, "{settings:?}");
        Ok(())
    };
    check(&["method.name=clip"], None)?;
    check(&["method.name=roclip"], None)?;
    check(&["method.name=cleanclip"], None)?;
    check(&["method.name=safeclip"], None)?;
    check(&[], Some(10))?; // the sieve
    check(&["method.name=sieve"], Some(10))?;
    check(&["method.name=sieve", "optim.epochs=3"], Some(2))?;
    check(&["method.name=sieve", "method.sieve.scout_epochs=4"], Some(4))?;
    check(&["method.name=sieve", "method.sieve.scout_epochs=0"], Some(10))?;
    check(&["method.name=sieve", "augment.epochs=20"], Some(20))?;
    let from = |settings: &[&str], pairs| -> Result<Option<u32>> {
        let config = resolved("[data]\nmanifest = 'a.csv'", settings)?;
        Ok(config.for_pairs(pairs).augment.from_epoch)
    };
    let few = resolved("[data]\nmanifest = 'a.csv'", &["method.name=sieve"])?.for_pairs(9_999);
    assert_eq!(few.augment.epochs, Some(20)); // as the scout
    for (pairs, first) in [(10_000, 11), (9_999, 21)] {
        assert_eq!(from(&["method.name=sieve"], pairs)?, Some(first));
        assert_eq!(from(&["method.name=sieve", "augment.from_epoch=1"], pairs)?, Some(1));
        assert_eq!(from(&["method.name=sieve", "method.sieve.believer_epochs=0"], pairs)?, None);
        assert_eq!(from(&["method.name=clip"], pairs)?, None);
    }
    Ok(())
}

#[test]
fn the_sieve_blurs_and_caps_copies_unless_told_otherwise() -> Result<()> {
    let check = |settings: &[&str], kernel: Option<usize>, copies: Option<usize>| -> Result<_> {
        let settings = [&["model.image_size=32"], settings].concat();
        let config = resolved("[data]\nmanifest = 'a.csv'", &settings)?;
        assert_eq!(config.augment.blur_kernel, kernel, "{settings:?}");
        assert_eq!(config.data.copies_max, copies, "{settings:?}");
        Ok(config.augment.blur_sigma)
    };
    assert_eq!(check(&["method.name=sieve"], Some(5), Some(1))?, Some([1.0, 1.5]));
    let own = ["method.name=sieve", "augment.blur_share=0", "data.copies_max=9"];
    assert_eq!(check(&own, None, Some(9))?, None);
    assert_eq!(check(&["method.name=roclip"], None, None)?, None);
    Ok(())
}

#[test]
fn what_is_left_out_is_as_published_where_the_name_says_so() -> Result<()> {
    let published = Roclip::as_published();
    let check = |file: &str, settings: &[&str], expected: Roclip| -> Result<()> {
        let text = format!("[data]\nmanifest = 'a.csv'\n[method]\n{file}");
        assert_eq!(resolved(&text, settings)?.method.roclip, Some(expected));
        Ok(())
    };
    let augment = |text: &str| -> Result<crate::config::Augment> {
        let text = format!("[data]\nmanifest = 'a.csv'\n[method]\n{text}");
        Ok(resolved(&text, &[])?.augment)
    };
    let name = "name = 'roclip-as-published'\n";
    let as_published = augment(&format!("{name}[augment]\nimage = true"))?;
    assert_eq!((as_published.crop_area_min, as_published.hue), (0.08, 0.1));
    let written = toml::to_string(&as_published).expect("TOML");
    assert_eq!(augment(&format!("{name}[augment]\n{written}"))?, as_published);
    let said = augment(&format!("{name}[augment]\nhue = 0.0"))?;
    assert_eq!((said.crop_area_min, said.hue), (0.08, 0.0));
    let mild = augment(&format!("{name}[augment]\npreset = 'mild'"))?;
    assert_eq!((mild.crop_area_min, mild.hue), (0.6, 0.0));
    check(name, &[], published.clone())?;
    let every = Roclip { match_every_epochs: 3, match_from_epoch: 3, ..published.clone() };
    check(&format!("{name}[method.roclip]\nmatch_every_epochs = 3"), &[], every.clone())?;
    check(name, &["method.roclip.match_every_epochs=3"], every)?;
    let from = Roclip { match_from_epoch: 1, ..published };
    check(name, &["method.roclip.match_from_epoch=1"], from)?;
    let cleaned = Roclip { match_every_epochs: 3, ..Roclip::default() };
    check("name = 'roclip'\n[method.roclip]\nmatch_every_epochs = 3", &[], cleaned)
}

#[test]
fn paths_are_absolute_and_start_from_the_file() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("run.toml");
    fs::write(&file, "[data]\nmanifest = 'a.csv'\n[output]\nfolder = '.'").expect("writable");
    let config = open(&file, &[], None)?;
    assert_eq!(config.data.manifest, folder.path().join("a.csv"));
    assert_eq!(config.output.folder, folder.path());
    let config = open(&file, &[], Some(Path::new("out")))?;
    let here = std::env::current_dir().expect("there is one");
    assert_eq!(config.output.folder, here.join("out"));
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("run.toml");
    fs::write(&file, "[data]\nmanifest = 'a.csv'").expect("writable");
    let out = Path::new(OsStr::from_bytes(b"o\xff"));
    let error = open(&file, &[], Some(out)).expect_err("refused");
    assert!(matches!(error, Error::PathText { .. }), "{error}");
}
