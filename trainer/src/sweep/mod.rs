//! Grids of experiments from one file: attacks, methods, values and seeds crossed.
//!
//! sweep.toml → [`Recipe`] → [`Plan`], whose cells are all checked before anything is done → child
//! processes of this program (`poison`, `run`, `evaluate`), a thread each → `results.jsonl`, a line
//! for each cell, of which no cell is done twice → `summary.json` and `summary.md`.
//!
//! | file | holds |
//! |---|---|
//! | `recipe` · `grid` | what may stand in the file · keys with several values, crossed |
//! | `plan` · `cell` · `input` | all that is to be done · one cell's configuration · what it reads |
//! | `attack` | the words of `poison` that an attack of the file stands for |
//! | `place` · `child` | names of files in the sweep's folder · child processes and their locks |
//! | `execute` · `stop` | cells side by side · the control that ends early |
//! | `results` · `doubted` | what a cell came to, kept · pairs in doubt by what they are |
//! | `spread` · `summary` | means and their intervals over seeds · tables |

mod attack;
mod cell;
mod child;
mod doubted;
mod execute;
mod grid;
mod input;
mod place;
mod plan;
mod recipe;
mod results;
mod spread;
mod stop;
mod summary;

pub use self::{
    cell::{Cell, Work},
    doubted::Doubt,
    execute::{Failure, Watch, execute},
    grid::Point,
    place::Place,
    plan::Plan,
    recipe::Recipe,
    results::{CellResult, Stopped, Store},
    spread::Spread,
    summary::{Summary, label},
};
pub(crate) use self::{results::load, summary::table_rates};
