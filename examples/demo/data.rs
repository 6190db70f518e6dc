//! Manifests, labels and pictures of one run.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use clip::{
    atomic_write::{atomic_folder, atomic_write},
    image::{self, Limits, RgbImage},
    text::read_labels,
};
use terminal::{Exit, Report};

use crate::{cli, shapes};

/// Pictures that the audits see; the audit's null statistics are made with as many.
const PROBE_IMAGES: usize = 512;

/// Files of one data set, and what the demo itself reads of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    pub(crate) train: PathBuf,
    pub(crate) test: PathBuf,
    pub(crate) classes: PathBuf,
    pub(crate) templates: Option<PathBuf>,
    pub(crate) thesaurus: Option<PathBuf>,
    /// Side of the square pictures that the model sees.
    pub(crate) image_size: u32,
    pub(crate) labels: Vec<String>,
    pub(crate) train_rows: Vec<Row>,
    pub(crate) test_rows: Vec<Row>,
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) path: PathBuf,
    pub(crate) caption: String,
    pub(crate) class: Option<usize>,
}

/// `demo shapes`; a mistyped `--out` must not cost somebody a folder.
pub(crate) fn generate_only(args: &cli::Shapes) -> Result<Exit, Report> {
    let entries = fs::read_dir(&args.out).into_iter().flatten().flatten();
    let is_ours = |name: &OsStr| shapes::NAMES.iter().any(|ours| name == *ours);
    if let Some(entry) = entries.map(|entry| entry.file_name()).find(|name| !is_ours(name)) {
        let cause = format!("it holds `{}`, which is no generated data", entry.display());
        return Err(Report::new(format!("cannot replace `{}`", args.out.display()))
            .cause(cause)
            .hint("`--out FOLDER` names a new one, or an earlier result"));
    }
    let (train, test) = (args.train, args.test);
    let size = shapes::Size { shapes: args.shapes, colors: args.colors, train, test };
    shapes::write(&args.out, &size, args.seed)?;
    Ok(Exit::Done)
}

impl Data {
    /// The user's files, if any were given.
    pub(crate) fn users(args: &cli::Road) -> Result<Option<Self>, Report> {
        let (Some(train), Some(test), Some(classes)) = (&args.data, &args.test, &args.classes)
        else {
            return Ok(None);
        };
        let (templates, side) = (args.templates.as_deref(), args.image_size.unwrap_or(64));
        Self::open(train, test, classes, templates, None, side).map(Some)
    }

    /// Draws 16 classes, 5,000 pairs and 1,200 test pictures into `folder`.
    pub(crate) fn generate(
        folder: &Path,
        seed: u64,
        image_size: Option<u32>,
    ) -> Result<Self, Report> {
        let size = shapes::Size { shapes: 4, colors: 4, train: 5000, test: 1200 };
        shapes::write(folder, &size, seed)?;
        let file = |name: &str| folder.join(name);
        let (templates, thesaurus) = (file("templates.txt"), file("thesaurus.txt"));
        let (train, test, classes) = (file("train.csv"), file("test.csv"), file("classes.txt"));
        let side = image_size.unwrap_or(shapes::SIDE as u32);
        Self::open(&train, &test, &classes, Some(&templates), Some(&thesaurus), side)
    }

    fn open(
        train: &Path,
        test: &Path,
        classes: &Path,
        templates: Option<&Path>,
        thesaurus: Option<&Path>,
        image_size: u32,
    ) -> Result<Self, Report> {
        let labels = read_labels(classes)?;
        let train_rows = read_manifest(train, &labels)?;
        let test_rows = read_manifest(test, &labels)?;
        if let Some(row) = test_rows.iter().position(|row| row.class.is_none()) {
            let problem = format!("`{}`, row {}: no class", test.display(), row + 2);
            return Err(Report::new(problem)
                .hint("test pictures need the column `class`: a class name or its index"));
        }
        Ok(Self {
            train: absolute(train)?,
            test: absolute(test)?,
            classes: absolute(classes)?,
            templates: templates.map(absolute).transpose()?,
            thesaurus: thesaurus.map(absolute).transpose()?,
            image_size,
            labels,
            train_rows,
            test_rows,
        })
    }

    /// Every file that a run reads.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let rows = self.train_rows.iter().chain(&self.test_rows).map(|row| &row.path);
        let lists = [&self.train, &self.test, &self.classes].into_iter();
        lists.chain(&self.templates).chain(rows).map(PathBuf::as_path)
    }

    /// The same data with the pairs of another manifest.
    pub(crate) fn with_train(&self, manifest: &Path) -> Result<Self, Report> {
        let train_rows = read_manifest(manifest, &self.labels)?;
        Ok(Self { train: absolute(manifest)?, train_rows, ..self.clone() })
    }

    /// A picture as the model sees it, before normalization.
    pub(crate) fn picture(&self, row: &Row) -> Result<RgbImage, Report> {
        Ok(image::fit(&image::open(&row.path, &Limits::default())?, self.image_size))
    }

    /// Name of the row's class.
    pub(crate) fn label(&self, row: &Row) -> &str {
        row.class.and_then(|class| self.labels.get(class)).map_or("", String::as_str)
    }

    /// Puts test pictures, spread evenly over the manifest, into `folder` for the audits.
    pub(crate) fn write_probe(&self, folder: &Path) -> Result<(), Report> {
        let count = self.test_rows.len().min(PROBE_IMAGES);
        atomic_folder(folder, |folder| {
            for index in 0..count {
                let row = &self.test_rows[index * self.test_rows.len() / count];
                let picture = image::open(&row.path, &Limits::default())?;
                let png = image::encode_png(&image::fit(&picture, self.image_size));
                let path = folder.join(format!("{index:04}.png"));
                fs::write(&path, png).map_err(|source| clip::Error::Write { path, source })?;
            }
            Ok::<_, clip::Error>(())
        })?;
        Ok(())
    }
}

/// Rows of `path,caption[,class]`; paths are relative to the manifest, a class is a name or an index.
fn read_manifest(path: &Path, labels: &[String]) -> Result<Vec<Row>, Report> {
    let refuse = |problem: String| Report::new(format!("`{}`: {problem}", path.display()));
    let file = fs::File::open(path)
        .map_err(|source| clip::Error::Read { path: path.to_owned(), source })?;
    let mut reader = csv::Reader::from_reader(file);
    let header = reader.headers().map_err(|error| refuse(error.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|field| field.trim() == name);
    let missing = |name: &str| refuse(format!("no column `{name}` in its first line"));
    let path_column = column("path").ok_or_else(|| missing("path"))?;
    let caption_column = column("caption").ok_or_else(|| missing("caption"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| refuse(error.to_string()))?;
        let field = |column: usize| record.get(column).unwrap_or_default();
        let class =
            match column("class").map(field).unwrap_or_default().trim() {
                "" => None,
                text => Some(class_of(text, labels).ok_or_else(|| {
                    refuse(format!("row {}: `{text}` is no class", rows.len() + 2))
                })?),
            };
        let caption = field(caption_column).to_owned();
        rows.push(Row { path: folder.join(field(path_column)), caption, class });
    }
    match rows.is_empty() {
        true => Err(refuse("it lists no picture".into())),
        false => Ok(rows),
    }
}

fn class_of(text: &str, labels: &[String]) -> Option<usize> {
    let by_name = labels.iter().position(|label| label == text);
    by_name.or_else(|| text.parse().ok().filter(|&index| index < labels.len()))
}

fn absolute(path: &Path) -> Result<PathBuf, Report> {
    let refuse = |source| clip::Error::Read { path: path.to_owned(), source };
    Ok(fs::canonicalize(path).map_err(refuse)?)
}

/// Name of the file that says a folder is the demo's own.
const MARK: &str = ".roclip-demo";

/// Makes `out`, or empties it if an earlier demo made it; refuses any other folder with content,
/// and one that holds the data to be used.
pub(crate) fn clear(out: &Path, data: Option<&Data>) -> Result<(), Report> {
    let refuse = |source| clip::Error::Write { path: out.to_owned(), source };
    fs::create_dir_all(out).map_err(refuse)?;
    let inside = absolute(out)?;
    let used = data.into_iter().flat_map(Data::files);
    let mut used = used.map(|file| absolute(file).unwrap_or_else(|_| file.to_owned()));
    if let Some(file) = used.find(|file| file.starts_with(&inside)) {
        return Err(Report::new(format!("cannot use `{}`", out.display()))
            .cause(format!("it would be emptied, and holds `{}`", file.display()))
            .hint("`--out FOLDER` names a new or an empty one"));
    }
    let mark = out.join(MARK);
    let entries: Vec<_> = fs::read_dir(out).map_err(refuse)?.flatten().collect();
    if !entries.is_empty() && !mark.exists() {
        return Err(Report::new(format!("cannot use `{}`", out.display()))
            .cause("the folder has content that no demo made")
            .hint("`--out FOLDER` names a new or an empty one"));
    }
    atomic_write(&mark, b"made by the demo, emptied by the next one\n")?;
    for entry in entries.iter().filter(|entry| entry.file_name() != MARK) {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|source| clip::Error::Write { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        (folder, path)
    }

    #[test]
    fn a_class_is_a_name_or_an_index() {
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let (folder, path) =
            written("a.csv", "path,caption,class\nx.png,\"a, cat\",cat\ny,b,1\nz,c,\n");
        let rows = read_manifest(&path, &labels).expect("a manifest");
        assert_eq!(rows[0].caption, "a, cat");
        assert_eq!(rows[0].path, folder.path().join("x.png"));
        assert_eq!([rows[0].class, rows[1].class, rows[2].class], [Some(0), Some(1), None]);
        let (_folder, path) = written("b.csv", "path,caption,class\nx,y,2\n");
        assert!(read_manifest(&path, &labels).is_err());
    }

    #[test]
    fn a_folder_of_someone_else_is_left_alone() {
        let (folder, path) = written("letter.txt", "dear");
        assert!(clear(folder.path(), None).is_err());
        assert!(path.exists());
        let own = folder.path().join("own");
        clear(&own, None).expect("a new folder");
        fs::write(own.join("old"), "").expect("written");
        let old = own.canonicalize().expect("it is there").join("old");
        let data = Data { train: old.clone(), ..Data::default() };
        assert!(clear(&own, Some(&data)).is_err() && old.exists());
        clear(&own, None).expect("our own folder");
        assert!(!old.exists() && own.join(MARK).exists());
    }
}
