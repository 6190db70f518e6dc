//! Values, nodes and initialisers of one ONNX graph.

use std::collections::HashMap;

use candle_onnx::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType, tensor_shape_proto, type_proto,
};
use clip::weights::{Array, Weights};

/// What every runtime in use reads; LayerNormalization appeared in it.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;
/// Epsilon of every LayerNorm.
const EPSILON: f32 = 1e-5;

/// An input, an initialiser or the output of a node.
#[derive(Debug, Clone)]
pub(super) struct Value(String);

/// Element type of an input.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    Float,
    Integer,
}

/// Length of an axis of an input or output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Axis {
    Fixed(usize),
    /// Chosen at run time; axes of one name are equal.
    Open(&'static str),
}

/// What a node does beside its inputs.
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
}

/// A graph under construction, and the weights it takes its constants from.
pub(super) struct Graph<'a> {
    proto: GraphProto,
    weights: &'a Weights,
    /// Prefix of the nodes' names: the part of the tower that is being built.
    scope: String,
    /// Nodes so far, by name without number.
    named: HashMap<String, usize>,
    constants: HashMap<String, Value>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(name: &str, weights: &'a Weights) -> Self {
        let proto = GraphProto { name: name.to_owned(), ..Default::default() };
        let (named, constants) = Default::default();
        Self { proto, weights, scope: String::new(), named, constants }
    }

    pub(super) fn input(&mut self, name: &str, element: Element, shape: &[Axis]) -> Value {
        self.proto.input.push(port(name, element, shape));
        Value(name.to_owned())
    }

    /// Gives the result of the last node its name.
    pub(super) fn output(&mut self, name: &str, value: Value, shape: &[Axis]) {
        let last = self.proto.node.last_mut().expect("a tower has nodes");
        assert_eq!(last.output, [value.0], "the last node makes the output");
        last.output = vec![name.to_owned()];
        self.proto.output.push(port(name, Element::Float, shape));
    }

    pub(super) fn finish(self) -> ModelProto {
        ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: "roclip-export".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.proto),
            ..Default::default()
        }
    }

    /// Nodes that follow belong to this part of the tower.
    pub(super) fn enter(&mut self, scope: &str) {
        self.scope = scope.to_owned();
    }

    /// The array under OpenAI's name.
    pub(super) fn array(&self, name: &str) -> &'a Array {
        self.weights.get(name).expect("`weights::check` has found every parameter")
    }

    /// A parameter as it is.
    pub(super) fn parameter(&mut self, name: &str) -> Value {
        let array = self.array(name);
        self.floats(name, &array.shape, array.values.iter().copied())
    }

    /// A constant of `shape`; the same name is the same constant.
    pub(super) fn floats(
        &mut self,
        name: &str,
        shape: &[usize],
        values: impl Iterator<Item = f32>,
    ) -> Value {
        let bytes = || values.flat_map(f32::to_le_bytes).collect();
        self.constant(name, DataType::Float, shape, bytes)
    }

    fn scalar(&mut self, value: f32) -> Value {
        self.floats(&format!("scalar/{value}"), &[], std::iter::once(value))
    }

    /// A list of integers, as shapes and axes are.
    fn integers(&mut self, values: &[i64]) -> Value {
        let words: Vec<_> = values.iter().map(i64::to_string).collect();
        let bytes = || values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = format!("integers/{}", words.join("_"));
        self.constant(&name, DataType::Int64, &[values.len()], bytes)
    }

    fn constant(
        &mut self,
        name: &str,
        kind: DataType,
        shape: &[usize],
        bytes: impl FnOnce() -> Vec<u8>,
    ) -> Value {
        if let Some(value) = self.constants.get(name) {
            return value.clone();
        }
        self.proto.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: shape.iter().map(|&length| length as i64).collect(),
            data_type: kind as i32,
            raw_data: bytes(),
            ..Default::default()
        });
        let value = Value(name.to_owned());
        self.constants.insert(name.to_owned(), value.clone());
        value
    }

    /// Adds a node with one output.
    pub(super) fn node(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Value {
        self.node_of(operator, inputs, attributes, 1).remove(0)
    }

    fn node_of(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute<'_>)],
        outputs: usize,
    ) -> Vec<Value> {
        let base = format!("{}/{operator}", self.scope);
        let number = self.named.entry(base.clone()).and_modify(|n| *n += 1).or_insert(0);
        let name = format!("{base}_{number}");
        let outputs: Vec<_> = (0..outputs).map(|index| format!("{name}:{index}")).collect();
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: outputs.clone(),
            name,
            op_type: operator.to_owned(),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..Default::default()
        });
        outputs.into_iter().map(Value).collect()
    }

    pub(super) fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], &[])
    }

    pub(super) fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", &[a, b], &[])
    }

    pub(super) fn scale(&mut self, x: &Value, factor: f32) -> Value {
        let factor = self.scalar(factor);
        self.mul(x, &factor)
    }

    pub(super) fn add_scalar(&mut self, x: &Value, term: f32) -> Value {
        let term = self.scalar(term);
        self.add(x, &term)
    }

    pub(super) fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("MatMul", &[a, b], &[])
    }

    pub(super) fn relu(&mut self, x: &Value) -> Value {
        self.node("Relu", &[x], &[])
    }

    /// Along the last axis.
    pub(super) fn softmax(&mut self, x: &Value) -> Value {
        self.node("Softmax", &[x], &[("axis", Attribute::Int(-1))])
    }

    pub(super) fn concat(&mut self, parts: &[&Value], axis: i64) -> Value {
        self.node("Concat", parts, &[("axis", Attribute::Int(axis))])
    }

    pub(super) fn transpose(&mut self, x: &Value, order: &[i64]) -> Value {
        self.node("Transpose", &[x], &[("perm", Attribute::Ints(order))])
    }

    /// 0 keeps the length of that axis, -1 takes what is left.
    pub(super) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.integers(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// Equal parts of the last axis.
    pub(super) fn split<const PARTS: usize>(&mut self, x: &Value) -> [Value; PARTS] {
        let parts = self.node_of("Split", &[x], &[("axis", Attribute::Int(-1))], PARTS);
        parts.try_into().expect("a node has the outputs that were asked for")
    }

    /// Elements `from` up to `to` of `axis`.
    pub(super) fn slice(&mut self, x: &Value, axis: i64, from: i64, to: i64) -> Value {
        let [starts, ends, axes] = [from, to, axis].map(|value| self.integers(&[value]));
        self.node("Slice", &[x, &starts, &ends, &axes], &[])
    }

    /// The first `lengths[i]` elements of axis i, for lengths known at run time, `[1]` each.
    pub(super) fn first(&mut self, x: &Value, lengths: &[&Value]) -> Value {
        let axes: Vec<_> = (0..lengths.len() as i64).collect();
        let starts = self.integers(&vec![0; lengths.len()]);
        let axes = self.integers(&axes);
        let ends = match lengths {
            [length] => (*length).clone(),
            several => self.concat(several, 0),
        };
        self.node("Slice", &[x, &starts, &ends, &axes], &[])
    }

    /// Length of `axis`, `[1]`.
    pub(super) fn length(&mut self, x: &Value, axis: i64) -> Value {
        let shape = self.node("Shape", &[x], &[]);
        let axis = self.integers(&[axis]);
        self.node("Gather", &[&shape, &axis], &[("axis", Attribute::Int(0))])
    }

    /// Room for one zero row in front: `[B, N, W]` -> `[B, 1 + N, W]`.
    pub(super) fn pad_row(&mut self, x: &Value) -> Value {
        let pads = self.integers(&[0, 1, 0, 0, 0, 0]);
        self.node("Pad", &[x, &pads], &[])
    }

    /// `[B, T, W]` -> `[B, W]`, the first row.
    pub(super) fn first_row(&mut self, x: &Value) -> Value {
        let first = self.constant("index/0", DataType::Int64, &[], || vec![0; 8]);
        self.node("Gather", &[x, &first], &[("axis", Attribute::Int(1))])
    }

    /// Rows of a table: `[V, W]`, `[B, T]` -> `[B, T, W]`.
    pub(super) fn lookup(&mut self, table: &Value, ids: &Value) -> Value {
        self.node("Gather", &[table, ids], &[("axis", Attribute::Int(0))])
    }

    /// The row of `x` where `ids` is greatest, the first of equals: `[B, T, W]`, `[B, T]` ->
    /// `[B, W]`.
    pub(super) fn row_of_greatest(&mut self, x: &Value, ids: &Value) -> Value {
        let keep = [("axis", Attribute::Int(1)), ("keepdims", Attribute::Int(1))];
        let at = self.node("ArgMax", &[ids], &keep); // [B, 1]
        self.node("GatherND", &[x, &at], &[("batch_dims", Attribute::Int(1))])
    }

    /// Mean along `axis`, which stays with length 1.
    pub(super) fn mean(&mut self, x: &Value, axis: i64) -> Value {
        let axes = [axis];
        let keep = [("axes", Attribute::Ints(&axes)), ("keepdims", Attribute::Int(1))];
        self.node("ReduceMean", &[x], &keep)
    }

    /// Along the last axis, with the parameters `name.weight` and `name.bias`.
    pub(super) fn layer_norm(&mut self, x: &Value, name: &str) -> Value {
        let weight = self.parameter(&format!("{name}.weight"));
        let bias = self.parameter(&format!("{name}.bias"));
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(EPSILON))];
        self.node("LayerNormalization", &[x, &weight, &bias], &attributes)
    }

    /// `x Wᵀ + b` with the parameters `weight` `[O, I]` and `bias`: `[.., I]` -> `[.., O]`.
    ///
    /// The constant is stored transposed, so that nothing stands between it and the MatMul.
    pub(super) fn linear(&mut self, x: &Value, weight: &str, bias: &str) -> Value {
        let array = self.array(weight);
        let (outputs, inputs) = (array.shape[0], array.shape[1]);
        let order = (0..inputs).flat_map(|i| (0..outputs).map(move |o| o * inputs + i));
        let values = order.map(|index| array.values[index]);
        let matrix = self.floats(weight, &[inputs, outputs], values);
        let product = self.matmul(x, &matrix);
        let bias = self.parameter(bias);
        self.add(&product, &bias)
    }
}

fn attribute(name: &str, value: &Attribute<'_>) -> AttributeProto {
    let mut proto = AttributeProto { name: name.to_owned(), ..Default::default() };
    match value {
        Attribute::Int(value) => {
            (proto.r#type, proto.i) = (AttributeType::Int as i32, *value);
        }
        Attribute::Ints(values) => {
            (proto.r#type, proto.ints) = (AttributeType::Ints as i32, values.to_vec());
        }
        Attribute::Float(value) => {
            (proto.r#type, proto.f) = (AttributeType::Float as i32, *value);
        }
    }
    proto
}

fn port(name: &str, element: Element, shape: &[Axis]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let kind = match element {
        Element::Float => DataType::Float,
        Element::Integer => DataType::Int64,
    };
    let dimension = |axis: &Axis| {
        let value = match *axis {
            Axis::Fixed(length) => Value::DimValue(length as i64),
            Axis::Open(name) => Value::DimParam(name.to_owned()),
        };
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dimension).collect() };
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..Default::default() });
    ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() }
}
