use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use clip::image::{RgbImage, encode_png};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::{
    Result,
    data::{Classes, Keys, Listing, Manifest, Reading, Row, Skipped},
};

type Tar = Builder<Vec<u8>>;

fn picture(shade: u8) -> Vec<u8> {
    encode_png(&RgbImage::from_pixel(8, 8, [shade, 1, 2].into()))
}

fn add(tar: &mut Tar, name: &str, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes).expect("memory takes all");
}

/// As [`add`], with a name that the writer would refuse.
fn add_raw(tar: &mut Tar, name: &str, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(&header, bytes).expect("memory takes all");
}

/// A tar of these members.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Tar::new(Vec::new());
    for (name, bytes) in members {
        add(&mut tar, name, bytes);
    }
    tar.into_inner().expect("memory takes all")
}

/// Two samples and what is of no use.
fn two(first: u8) -> Vec<u8> {
    let (a, b) = (picture(first), picture(first + 1));
    tar(&[
        ("a/0.cls", b" 1\n"),
        ("a/0.png", &a),
        ("notes.md", b"#"),
        ("a/0.txt", b" one, \"two\"\n"),
        ("a/0.seg.png", b"x"),
        (".hidden.jpg", b"x"),
        ("a/1.json", br#"{"caption": "three", "width": [8]}"#),
        ("a/1.JPG", &b),
    ])
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).expect("a writable folder");
        self.path(name)
    }

    fn unpacked(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("cache")).into_iter().flatten();
        entries.map(|entry| entry.expect("readable").path()).collect()
    }

    fn open(&self, name: &str) -> Result<Vec<Row>> {
        let cache_folder = Some(self.path("cache"));
        let reading = Reading { cache_folder, ..Reading::default() };
        Ok(Manifest::open_as(&self.path(name), &reading)?.rows)
    }

    /// The one error about `name`, its own path left out.
    fn error(&self, name: &str) -> String {
        let error = self.open(name).expect_err(name).to_string();
        let start = format!("`{}`", self.path(name).display());
        error.strip_prefix(&start).unwrap_or(&error).to_owned()
    }
}

#[track_caller]
fn check_two(rows: &[Row], shard: &Path, first: u8) {
    let texts: Vec<&str> = rows.iter().map(|row| row.caption.as_str()).collect();
    assert_eq!(texts, ["one, \"two\"", "three"]);
    assert_eq!([rows[0].class, rows[1].class], [Some(1), None]);
    let expected = ["a/0.png", "a/1.JPG"].map(|name| format!("{}/{name}", shard.display()));
    let names: Vec<String> = rows.iter().map(|row| row.image.to_string()).collect();
    assert_eq!(names, expected);
    for (row, shade) in rows.iter().zip(first..) {
        let image = row.image.fitted(8).expect("a picture");
        assert!(image.pixels().all(|pixel| pixel.0 == [shade, 1, 2]), "{row:?}");
    }
}

#[test]
fn a_sample_is_the_members_of_one_key() -> Result<()> {
    let place = Place::new();
    for number in [8, 9, 10] {
        place.write(&format!("a-{number:03}.tar"), &two(10 * number));
    }
    let rows = place.open("a-{008..010}.tar")?;
    assert_eq!(rows.len(), 6);
    for (rows, number) in rows.chunks(2).zip([8, 9, 10]) {
        check_two(rows, &place.path(&format!("a-{number:03}.tar")), 10 * number);
    }
    let itself = place.write("{b}.tar", &two(1));
    check_two(&place.open("{b}.tar")?, &itself, 1);
    Ok(())
}

#[test]
fn classes_and_captions_are_where_they_are_looked_for() -> Result<()> {
    let place = Place::new();
    let path = place.write("a.tar", &two(0));
    let labels = ["red".to_owned(), "blue".to_owned()];
    let check = |needed, caption, expected: &str| {
        let classes = Classes::Named { labels: &labels, needed };
        let keys = Keys { caption, ..Keys::default() };
        let found = Manifest::open_as(&path, &Reading { keys, classes, ..Reading::default() });
        let found = found.map(|_| String::new()).unwrap_or_else(|error| error.to_string());
        assert!(found.ends_with(expected), "{found}");
    };
    check(false, None, "");
    check(true, None, "member `a/1.JPG`: there is no class beside it (.cls), which is needed here");
    check(false, Some("text"), "member `a/1.json`: it has no text `text`, and there is no .txt");
    Ok(())
}

#[test]
fn long_names_of_both_kinds_are_read() -> Result<()> {
    let place = Place::new();
    let long = format!("{}/{}", "folder".repeat(20), "name".repeat(30));
    let mut tar = Tar::new(Vec::new());
    add(&mut tar, &format!("{long}.png"), &picture(0)); // GNU's way
    let name = format!("{long}.txt");
    tar.append_pax_extensions([("path", name.as_bytes())]).expect("memory takes all");
    add(&mut tar, "cut.txt", b"a caption");
    place.write("a.tar", &tar.into_inner().expect("memory takes all"));
    let rows = place.open("a.tar")?;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].caption, "a caption");
    assert!(rows[0].image.to_string().ends_with(&format!("a.tar/{long}.png")));
    Ok(())
}

#[test]
fn each_bad_shard_is_one_clear_error() {
    let place = Place::new();
    let image = picture(0);
    let check = |members: &[(&str, &[u8])], expected: &str| {
        place.write("a.tar", &tar(members));
        assert_eq!(place.error("a.tar"), expected);
    };
    check(&[], ": there are no samples in it");
    check(&[("a.md", b"x")], ": there are no samples in it");
    let alone = ", member `0.png`: there is no caption beside it (.txt, .json)";
    check(&[("0.png", &image)], alone);
    let alone = ", member `0.txt`: there is no picture beside it (.jpg, .jpeg, .png, .webp)";
    check(&[("0.txt", b"a"), ("1.png", &image), ("1.txt", b"b")], alone);
    let twice = ", member `0.txt`: the same sample has `0.txt` already";
    check(&[("0.png", &image), ("0.txt", b"a"), ("1.png", &image), ("0.txt", b"b")], twice);
    let twice = ", member `0.jpg`: the same sample has `0.png` already";
    check(&[("0.png", &image), ("0.jpg", &image), ("0.txt", b"a")], twice);
    let with = |name: &str, bytes: &[u8], expected: &str| {
        check(&[("0.png", &image), (name, bytes)], &format!(", member `{name}`: {expected}"));
    };
    with("0.txt", b"\xff", "it is not UTF-8");
    with("0.txt", b" \n", "the caption is empty");
    let long = "the caption has 10001 bytes, the limit is 10000";
    with("0.txt", &[b'a'; 10_001], long);
    with("0.txt", &[b'a'; 70_000], "it has more than 65536 bytes");
    with("0.json", b"{}", "it has no text `caption`, and there is no .txt");
    with(
        "0.json",
        b"[1",
        "it is no JSON object: invalid type: sequence, expected a map at line 1 column 0",
    );
}

#[test]
fn each_bad_sample_is_skipped_and_the_others_keep_their_numbers() -> Result<()> {
    let place = Place::new();
    let image = picture(0);
    place.write("a-0.tar", &two(0));
    let members: [(&str, &[u8]); 20] = [
        ("0.png", &image),
        ("1.txt", b"a"),
        ("2.png", &image),
        ("2.txt", b"good"),
        ("3.png", &image),
        ("3.json", b"{"),
        ("4.png", &image),
        ("4.txt", b"\xff"),
        ("5.png", &image),
        ("5.txt", b" "),
        ("6.png", &image),
        ("6.txt", b"a"),
        ("6.jpg", &image),
        ("7.png", &image),
        ("7.json", b"{}"),
        ("8.png", &image),
        ("8.txt", &[b'a'; 10_001]),
        ("9.png", &image),
        ("9.txt", b"good"),
        ("9.txt", b"again"),
    ];
    let shard = place.write("a-1.tar", &tar(&members));
    place.write("a-2.tar", &two(2));
    let listing = Listing::open(&place.path("a-{0..2}.tar"), &Reading::default())?;
    assert_eq!((listing.all(), listing.usable()), (14, 5));
    let mut found = Vec::new();
    let start = format!("`{}`, member ", shard.display());
    for (number, row) in (0..).zip(&listing.rows) {
        let Err(skipped) = row else { continue };
        let Skipped { row, file, path, rows, .. } = &**skipped;
        assert_eq!((*row, file, *rows), (number, &shard, 1));
        let text = skipped.to_string();
        let member = path.strip_prefix(&format!("{}/", shard.display())).expect("SHARD/MEMBER");
        assert!(text.starts_with(&format!("row {number}: {start}`{member}`: ")), "{text}");
        found.push(text.replace(&start, ""));
    }
    let expected = [
        "row 2: `0.png`: there is no caption beside it (.txt, .json)",
        "row 3: `1.txt`: there is no picture beside it (.jpg, .jpeg, .png, .webp)",
        "row 5: `3.json`: it is no JSON object: EOF while parsing an object at line 1 column 1",
        "row 6: `4.txt`: it is not UTF-8",
        "row 7: `5.txt`: the caption is empty",
        "row 8: `6.jpg`: the same sample has `6.png` already",
        "row 9: `7.json`: it has no text `caption`, and there is no .txt",
        "row 10: `8.txt`: the caption has 10001 bytes, the limit is 10000",
        "row 11: `9.txt`: the same sample has `9.txt` already",
    ];
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn what_is_no_tar_or_no_file_is_refused() {
    let place = Place::new();
    place.write("a.tar", &b"path,caption\n".repeat(100));
    let error = place.error("a.tar");
    assert!(error.starts_with(": it is no tar: "), "{error}");
    let mut joined = two(0);
    joined.extend(two(1));
    place.write("a.tar", &joined);
    let follows = "something follows a tar's end mark: tars cannot be joined end to end";
    assert_eq!(place.error("a.tar"), format!(": {follows} (behind `a/1.JPG`)"));

    let mut tar = Tar::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "0.jpg", "/etc/passwd").expect("memory takes all");
    place.write("a.tar", &tar.into_inner().expect("memory takes all"));
    assert_eq!(place.error("a.tar"), ", member `0.jpg`: it is a folder or a link, expected a file");

    let mut tar = Tar::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_path("0.jpg").expect("short");
    header.set_size(1 << 60);
    header.set_cksum();
    tar.append(&header, Cursor::new(b"few")).expect("memory takes all");
    place.write("a.tar", &tar.into_inner().expect("memory takes all"));
    assert_eq!(place.error("a.tar"), ": it is cut short in the middle of `0.jpg`");

    assert_eq!(
        place.error("b-{0..3}.tar"),
        format!("cannot read `{}`", place.path("b-0.tar").display())
    );
    assert_eq!(place.error("b-{3..0}.tar"), ": the range `{3..0}` is empty");
}

#[test]
fn a_tar_that_is_cut_anywhere_is_refused() {
    let place = Place::new();
    let whole = two(0);
    let end = whole.len() - 512; // half of the end mark is enough
    for length in (0..end).step_by(67) {
        place.write("a.tar", &whole[..length]);
        let error = place.error("a.tar");
        assert!(error.starts_with(": it is "), "{length}: {error}");
    }
    place.write("a.tar", &whole[..end]);
    assert!(place.open("a.tar").is_ok());
}

/// No bytes make it panic, take much memory or answer with anything but an error or rows.
#[test]
fn a_tar_with_any_byte_changed_is_read_or_refused() {
    let place = Place::new();
    let whole = two(0);
    for at in (0..whole.len()).step_by(29) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let path = place.write("a.tar", &bytes);
        match place.open("a.tar") {
            Ok(rows) => assert!(!rows.is_empty() && rows.len() <= 3),
            Err(error) => {
                assert!(error.to_string().starts_with(&format!("`{}`", path.display())), "{error}");
            }
        }
    }
}

#[test]
fn an_unreadable_picture_is_named_when_it_is_asked_for() -> Result<()> {
    let place = Place::new();
    let mut tar = Tar::new(Vec::new());
    add_raw(&mut tar, "../../0.jpg", b"<html>");
    add_raw(&mut tar, "../../0.txt", b"a");
    place.write("a.tar", &tar.into_inner().expect("memory takes all"));
    let rows = place.open("a.tar")?;
    let refused = |expected: &str| {
        let error = rows[0].image.fitted(8).expect_err("no picture").to_string();
        let start = format!("`{}`, member `../../0.jpg`: ", place.path("a.tar").display());
        assert_eq!(error, start + expected);
    };
    refused("not an image: expected PNG, JPEG or WebP, starts with \"<html>\"");
    place.write("a.tar", b"");
    refused("the shard was cut short since it was opened");
    Ok(())
}

#[test]
fn a_compressed_shard_is_unpacked_once() -> Result<()> {
    let place = Place::new();
    let shard = place.write("a.tar.gz", &compressed(&two(5)));
    check_two(&place.open("a.tar.gz")?, &shard, 5);
    let unpacked = place.unpacked();
    assert_eq!(unpacked.len(), 1);
    assert_eq!(fs::read(&unpacked[0]).expect("readable"), two(5));
    fs::write(&unpacked[0], two(6)).expect("writable"); // it is taken as it is
    check_two(&place.open("a.tar.gz")?, &shard, 6);
    let longer = [compressed(&two(7)), compressed(&[0; 512])].concat(); // two parts are one file
    place.write("a.tar.gz", &longer);
    check_two(&place.open("a.tar.gz")?, &shard, 7);
    assert_eq!(place.unpacked().len(), 2);
    Ok(())
}

#[test]
fn what_cannot_be_unpacked_leaves_nothing() {
    let place = Place::new();
    let whole = compressed(&two(5));
    let check = |bytes: &[u8], expected: &str| {
        place.write("a.tgz", bytes);
        let error = place.error("a.tgz");
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(place.unpacked(), [] as [PathBuf; 0]);
    };
    check(&whole[..whole.len() / 2], ": it cannot be unpacked: ");
    check(b"no gzip", ": it cannot be unpacked: it is no gzip");
    check(b"", ": it cannot be unpacked: it is no gzip");
    let error = Manifest::open(&place.write("a.tgz", &whole)).expect_err("no folder").to_string();
    assert!(
        error.contains("a.tgz`: it is compressed, and there is no `--cache-folder`"),
        "{error}"
    );
}
