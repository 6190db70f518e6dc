//! One tower's session.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ort::{
    session::{Session, builder::GraphOptimizationLevel},
    value::{Outlet, PrimitiveTensorElementType, TensorRef, ValueType},
};

use super::runtime::environment;
use crate::{Error, Result};

/// Name and shape of a model's only input or of the output that is used; -1 is any length.
type Port<'a> = (&'static str, &'a [i64]);

/// A model with one input and one output that matters.
pub(super) struct Tower {
    path: PathBuf,
    session: Session,
    output: &'static str,
}

impl Tower {
    pub(super) fn open(
        path: &Path,
        input: Port<'_>,
        output: Port<'_>,
        threads: usize,
    ) -> Result<Self> {
        std::fs::File::open(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let refuse = |problem: String| Error::File { path: path.to_owned(), problem };
        // By text, since a builder's error carries the builder.
        let session = Session::builder(environment()?)
            .map_err(|error| error.to_string())
            .and_then(|it| it.with_intra_threads(threads.max(1)).map_err(|e| e.to_string()))
            .and_then(|it| it.with_intra_op_spinning(false).map_err(|e| e.to_string()))
            .and_then(|it| {
                it.with_optimization_level(GraphOptimizationLevel::All).map_err(|e| e.to_string())
            })
            .and_then(|mut it| it.commit_from_file(path).map_err(|e| e.to_string()))
            .map_err(|reason| refuse(format!("ONNX Runtime refused it: {reason}")))?;
        let only = |inputs: &[Outlet]| inputs.iter().all(|outlet| outlet.name() == input.0);
        if !only(session.inputs()) {
            return Err(refuse(format!("has inputs beside `{}`", input.0)));
        }
        check(session.inputs(), input).map_err(refuse)?;
        check(session.outputs(), output).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), session, output: output.0 })
    }

    /// `values` of `shape`, whose first axis is the batch -> `[B, dim]`, row-major.
    pub(super) fn run<T: PrimitiveTensorElementType + fmt::Debug + Clone + 'static>(
        &mut self,
        shape: &[usize],
        values: &[T],
        dim: usize,
    ) -> Result<Vec<f32>> {
        if shape[0] == 0 {
            return Ok(Vec::new());
        }
        let failed = |error: ort::Error| {
            Error::Runtime(format!("ONNX Runtime failed in `{}`: {error}", self.path.display()))
        };
        let input = TensorRef::from_array_view((shape, values)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![input]).map_err(failed)?;
        let (found, rows) = outputs[self.output].try_extract_tensor::<f32>().map_err(failed)?;
        let expected = [shape[0] as i64, dim as i64];
        if **found != expected {
            let problem = format!("`{}` has shape {found:?}, not {expected:?}", self.output);
            return Err(Error::Runtime(problem));
        }
        Ok(rows.to_vec())
    }
}

impl fmt::Debug for Tower {
    fn fmt(&self, form: &mut fmt::Formatter<'_>) -> fmt::Result {
        form.debug_struct("Tower").field("path", &self.path).finish_non_exhaustive()
    }
}

fn check(outlets: &[Outlet], (name, expected): Port<'_>) -> Result<(), String> {
    let outlet = outlets.iter().find(|outlet| outlet.name() == name);
    let outlet = outlet.ok_or_else(|| format!("has no input or output `{name}`"))?;
    let ValueType::Tensor { shape, .. } = outlet.dtype() else {
        return Err(format!("`{name}` is not a tensor"));
    };
    let fits = |(&found, &expected): (&i64, &i64)| found == expected || found < 0 || expected < 0;
    if shape.len() != expected.len() || !shape.iter().zip(expected).all(fits) {
        return Err(format!("`{name}` has shape {shape:?}, expected {expected:?}"));
    }
    Ok(())
}
