//! All that is to be done, checked before anything is.

use std::{collections::BTreeSet, path::Path};

use candle_core::Device;

use super::{
    attack::Poisoning,
    cell::{Cell, Training, Work, configuration, evaluate_words, watched},
    grid::{Point, points},
    input::{Input, Rows, told},
    place::{Place, file_name},
    recipe::{Attack, Method, Recipe},
};
use crate::{
    augment::Augment,
    config::{self, Config},
    error::{Error, Result, one_line},
    method::{self, Sizes},
};

/// Cells of one sweep.
const CELLS_MAX: usize = 100_000;
/// Bytes of the name of a cell's folder.
const NAME_MAX: usize = 200;

/// The cells of a sweep, in a fixed order: by seed, then attack, method, and point of the grid;
/// methods that begin with the models of others come after all that do not, and unpoisoned models
/// last of each seed.
#[derive(Debug)]
pub struct Plan {
    /// What the file says.
    pub recipe: Recipe,
    /// Where it is done.
    pub place: Place,
    /// What is to be done.
    pub cells: Vec<Cell>,
    pub(super) poisonings: Vec<Poisoning>,
    /// Attacks that were chosen, by name; all if there are none.
    attacks: Vec<String>,
}

impl Plan {
    /// Plans all cells; refuses the first that cannot be done, and has written nothing then.
    ///
    /// If some of `attacks` and `methods` are named, their cells and those that these look at are to
    /// be done, and the others wait for another time. Of an attack that waits no more is checked
    /// than the names and the form of its options.
    pub fn new(recipe: Recipe, out: &Path, attacks: &[String], methods: &[String]) -> Result<Self> {
        let place = Place { folder: config::absolute(out)? };
        let (cells, poisonings, attacks) = (Vec::new(), Vec::new(), attacks.to_vec());
        let mut plan = Self { recipe, place, cells, poisonings, attacks };
        let recipe = plan.recipe.clone();
        let mut rows = Rows::default();
        for &seed in &recipe.seeds {
            let input = Input::open(&recipe, seed)?;
            let first_of_seed = plan.cells.len();
            for attack in &recipe.attacks {
                let first = plan.cells.len();
                let mut trained: Vec<_> = recipe.methods.iter().filter(|m| m.trains()).collect();
                trained.sort_by_key(|method| method.pretrained_of.is_some());
                for method in trained {
                    for point in plan.points(method)? {
                        plan.train(&input, attack, method, point, first, &mut rows)?;
                    }
                }
                for method in recipe.methods.iter().filter(|m| m.stop_at_top1_of.is_some()) {
                    for point in plan.points(method)? {
                        plan.stop(seed, attack, method, point, first)?;
                    }
                }
            }
            for attack in recipe.attacks.iter().filter(|attack| attack.plants()) {
                for method in recipe.methods.iter().filter(|m| m.unpoisoned_of.is_some()) {
                    for point in plan.points(method)? {
                        plan.unpoisoned(&input, attack, method, point, first_of_seed)?;
                    }
                }
            }
        }
        plan.check_names()?;
        plan.choose(methods)?;
        Ok(plan)
    }

    /// Lets all cells wait but those of the chosen attacks and of these methods (none named are
    /// all), and those that they look at.
    fn choose(&mut self, methods: &[String]) -> Result<()> {
        type Name = fn(&Cell) -> &String;
        let chosen: [(&str, &[String], Name); 2] = [
            ("attack", &self.attacks, |cell| &cell.attack),
            ("method", methods, |cell| &cell.method),
        ];
        for (option, names, of) in chosen {
            let known: BTreeSet<_> = self.cells.iter().map(of).collect();
            if let Some(name) = names.iter().find(|name| !known.contains(name)) {
                let known = known.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::SweepChoice { option, name: name.clone(), known });
            }
            let waits = |cell: &Cell| !names.is_empty() && !names.contains(of(cell));
            self.cells.iter_mut().for_each(|cell| cell.waits |= waits(cell));
        }
        let looked_at = |cell: &Cell| match &cell.work {
            Work::Train(training) => Vec::from_iter(training.start),
            Work::Stop { target, epochs } => vec![*target, *epochs],
            Work::Unpoisoned { run, .. } => vec![*run],
        };
        // A cell looks at earlier ones.
        for index in (0..self.cells.len()).rev() {
            if !self.cells[index].waits {
                let needed = looked_at(&self.cells[index]);
                needed.into_iter().for_each(|index| self.cells[index].waits = false);
            }
        }
        Ok(())
    }

    /// Attacks that wait, and of which little is known, by name.
    pub fn unchecked(&self) -> Vec<&str> {
        let unchecked = self.recipe.attacks.iter().filter(|attack| !self.checks(attack));
        unchecked.map(|attack| &*attack.name).collect()
    }

    fn checks(&self, attack: &Attack) -> bool {
        let is_chosen = self.attacks.is_empty() || self.attacks.contains(&attack.name);
        is_chosen || !attack.plants()
    }

    /// Cells that need not wait.
    pub fn chosen(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| !cell.waits)
    }

    /// Cells in which a GPU is asked for.
    pub fn needs_gpu(&self) -> bool {
        self.chosen().any(|cell| match &cell.work {
            Work::Train(training) => training.config.device == config::Device::Cuda,
            Work::Stop { .. } | Work::Unpoisoned { .. } => false,
        })
    }

    fn points(&self, method: &Method) -> Result<Vec<Point>> {
        let axes = self.recipe.axes(method).map_err(|problem| self.recipe.refuse(problem))?;
        let count =
            axes.iter().fold(1, |count: usize, axis| count.saturating_mul(axis.values.len()));
        if self.cells.len().saturating_add(count) > CELLS_MAX {
            return Err(self.recipe.refuse(format!("the grid has more than {CELLS_MAX} cells")));
        }
        Ok(points(&axes))
    }

    /// `first`: of the cells of this seed and attack.
    fn train(
        &mut self,
        input: &Input,
        attack: &Attack,
        method: &Method,
        point: Point,
        first: usize,
        rows: &mut Rows,
    ) -> Result<()> {
        let start = match &method.pretrained_of {
            Some(name) => Some(self.look(method, first, |cell| cell.is_of(name, &point))?),
            None => None,
        };
        let mut config = configuration(&self.recipe, method, &point, input.seed)?;
        let opened = rows.of(&config.data.manifest);
        let clean = told(&self.recipe, "run.data.manifest", opened)?;
        let shown = match attack.plants() {
            true => Some(self.poisoning(attack, input, &config)?),
            false => None,
        };
        let trained_on = shown.filter(|_| start.is_none()); // clean pairs are what tunes
        let rows = trained_on.map_or(Some(clean), |index| self.poisonings[index].rows);
        rows.map_or(Ok(()), |rows| check_run(&config, rows)).map_err(|error| {
            let (attack, method) = (&attack.name, &method.name);
            let problem = one_line(&error);
            self.recipe.refuse(format!("method `{method}`, attack `{attack}`: {problem}"))
        })?;
        let name = name(attack, method, &point, input.seed);
        if let Some(run) = start {
            config.model.begin_with(self.place.model(&self.cells[run].name));
        }
        if let Some(index) = trained_on {
            let set = &self.poisonings[index].name;
            config.data.manifest = self.place.manifest(set, &config.data.manifest);
        }
        let ledger = shown.map(|index| self.place.ledger(&self.poisonings[index].name));
        let evaluate = watched(&self.recipe, &self.place, input, &name, &mut config, ledger);
        let training = Training { config, start, trained_on, shown, evaluate };
        let work = Work::Train(Box::new(training));
        self.push(name, attack, method, input.seed, point, work);
        Ok(())
    }

    /// The poisoned set of a configuration: planned once for all that share it.
    fn poisoning(&mut self, attack: &Attack, input: &Input, config: &Config) -> Result<usize> {
        let clip = config.clip().expect("`check` refused an unknown preset");
        let (manifest, side) = (config.data.manifest.clone(), clip.image.image_size());
        let name = Poisoning::name(attack, input.seed, side);
        if let Some(index) = self.poisonings.iter().position(|known| known.name == name) {
            return Ok(index);
        }
        let (recipe, place, checks) = (&self.recipe, &self.place, self.checks(attack));
        let planned = Poisoning::new(recipe, place, attack, input, manifest, side, checks)?;
        self.poisonings.push(planned);
        Ok(self.poisonings.len() - 1)
    }

    /// `first`: of the cells of this seed and attack.
    fn stop(
        &mut self,
        seed: u64,
        attack: &Attack,
        method: &Method,
        point: Point,
        first: usize,
    ) -> Result<()> {
        let run = |name: &Option<String>| {
            let is_it = |cell: &Cell| name.as_ref().is_some_and(|name| cell.is_of(name, &point));
            self.look(method, first, is_it)
        };
        let (target, epochs) = (run(&method.stop_at_top1_of)?, run(&method.epochs_of)?);
        let name = name(attack, method, &point, seed);
        self.push(name, attack, method, seed, point, Work::Stop { target, epochs });
        Ok(())
    }

    /// The cell that `method` looks at, from the cell `first` on.
    fn look(&self, method: &Method, first: usize, is_it: impl Fn(&Cell) -> bool) -> Result<usize> {
        let found = self.cells[first..].iter().position(is_it);
        found.map(|index| first + index).ok_or_else(|| {
            self.recipe.refuse(format!("method `{}`: there is no such run", method.name))
        })
    }

    /// `first`: of the cells of this seed.
    fn unpoisoned(
        &mut self,
        input: &Input,
        attack: &Attack,
        method: &Method,
        point: Point,
        first: usize,
    ) -> Result<()> {
        let is_clean = |cell: &Cell| match &cell.work {
            Work::Train(training) => training.shown.is_none(),
            Work::Stop { .. } | Work::Unpoisoned { .. } => false,
        };
        let of = method.unpoisoned_of.as_ref();
        let is_it = |cell: &Cell| is_clean(cell) && of.is_some_and(|name| cell.is_of(name, &point));
        let run = self.look(method, first, is_it)?;
        let Work::Train(training) = &self.cells[run].work else { unreachable!("found as such") };
        let poisoning = self.poisoning(attack, input, &training.config.clone())?;
        let model = self.place.model(&self.cells[run].name);
        let ledger = self.place.ledger(&self.poisonings[poisoning].name);
        let evaluate = evaluate_words(&self.recipe, input, model, Some(ledger));
        let name = name(attack, method, &point, input.seed);
        let work = Work::Unpoisoned { run, poisoning, evaluate };
        self.push(name, attack, method, input.seed, point, work);
        Ok(())
    }

    fn push(
        &mut self,
        name: String,
        attack: &Attack,
        method: &Method,
        seed: u64,
        point: Point,
        work: Work,
    ) {
        let (attack, method) = (attack.name.clone(), method.name.clone());
        self.cells.push(Cell { name, attack, method, seed, point, waits: false, work });
    }

    fn check_names(&self) -> Result<()> {
        let mut known = BTreeSet::new();
        for Cell { name, .. } in &self.cells {
            if name.len() > NAME_MAX {
                let problem =
                    format!("the folder `{name}` would have a name of more than {NAME_MAX} bytes");
                return Err(self.recipe.refuse(problem));
            }
            if !known.insert(name) {
                return Err(self
                    .recipe
                    .refuse(format!("two cells would have the folder `{name}`")));
            }
        }
        Ok(())
    }
}

fn name(attack: &Attack, method: &Method, point: &Point, seed: u64) -> String {
    file_name(&[attack.name.clone(), method.name.clone(), point.short(), seed.to_string()])
}

/// Refuses what a run would refuse, as far as that goes without its pictures, and column names,
/// which poison and evaluation of a sweep do not know.
fn check_run(config: &Config, rows: usize) -> Result<()> {
    let config = &config.for_pairs(rows);
    let config::Data { image_key, caption_key, class_key, .. } = &config.data;
    for (key, name) in
        [(image_key, "image_key"), (caption_key, "caption_key"), (class_key, "class_key")]
    {
        if key.is_some() {
            return Err(Error::SweepKey { key: format!("data.{name}") });
        }
    }
    let batch_size = config.data.batch_size;
    if rows < batch_size {
        let (file, capped) = (config.data.manifest.clone(), false);
        return Err(Error::SmallData { file, rows, capped, batch_size });
    }
    Augment::open(&config.augment, config.seed)?;
    let clip = config.clip().expect("`check` refused an unknown preset");
    if let Some(source) = config.model.tokenizer_source() {
        source.open()?.with_context_length(clip.text.context_length)?;
    }
    method::new(config, Sizes::whole(rows, clip.dim), &Device::Cpu).map(drop)
}
