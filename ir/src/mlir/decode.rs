//! From MLIR to a decoded module. What the decoded form cannot hold is an error that names the op and its place.

use super::emit::{BUNDLE, DTYPES};
use super::ffi::{Attr, Cx, OpRef, Place, Ty, Val};
use super::table::{Fields, build};
use super::{NOT_NN, bare_run, json};
use crate::diag::{Diagnostic, SourceFile};
use crate::func::{Func, FuncResult, Init, Loc, Node, Param, Role, ValueId};
use crate::memory::Memory;
use crate::module::{Axis, Level, Mesh, Module};
use crate::op::{F64, Op};
use crate::run::RunSpec;
use crate::sharding::Sharding;
use crate::types::{DType, TensorType};
use rustc_hash::FxHashMap;
use std::collections::HashSet;
use std::sync::Arc;

/// Elements a tensor may have: byte counts and flops of any op on such tensors fit 64 bits.
const MOST_ELEMENTS: usize = 1 << 48;

/// An error in one operation: what, and where the operation says it comes from.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) text: String,
    pub(super) loc: Loc,
}

type Partly<T> = std::result::Result<T, Broken>;

struct Decoder<'c> {
    cx: Cx<'c>,
    dtypes: FxHashMap<usize, DType>,
    types: FxHashMap<usize, TensorType>,
    places: FxHashMap<usize, Loc>,
    texts: HashSet<Arc<str>>,
}

/// What the values of a function stand for.
#[derive(Default)]
struct Values {
    tensors: FxHashMap<usize, ValueId>,
    /// Tuples made of tensors.
    tuples: FxHashMap<usize, Vec<ValueId>>,
    /// Tuples that the node of this index returned and that are not taken apart yet.
    unopened: FxHashMap<usize, usize>,
}

/// Reads the builtin.module `root`.
pub(super) fn decode<'c>(cx: Cx<'c>, root: OpRef<'c>) -> std::result::Result<Module, Broken> {
    let dtypes = DTYPES.into_iter().map(|d| (cx.element(d).key(), d)).collect();
    let mut decoder =
        Decoder { cx, dtypes, types: FxHashMap::default(), places: FxHashMap::default(), texts: HashSet::new() };
    decoder.module(root)
}

impl Broken {
    /// The diagnostic, marked in `source` if the place is there.
    pub(super) fn diagnostic(self, source: Option<&Arc<SourceFile>>) -> Diagnostic {
        super::diag::located(&NOT_NN, &self.text, &self.loc, source)
            .help("compare with what `athanor opt --passes ''` prints for a module that it accepts")
    }
}

/// Refuses something at `loc`.
fn fail<T>(loc: Loc, text: impl Into<String>) -> Partly<T> {
    Err(Broken { text: text.into(), loc })
}

impl<'c> Decoder<'c> {
    fn module(&mut self, root: OpRef<'c>) -> Partly<Module> {
        let cx = self.cx;
        let at = Loc::default;
        let mut module =
            Module { name: String::new(), level: Level::Train, mesh: Mesh::default(), run: bare_run(), funcs: vec![] };
        for i in 0..root.attribute_count() {
            let name = root.attribute_name(i);
            let Some(value) = root.attribute(name) else { continue };
            match name {
                "nn.name" => match value.as_text() {
                    Some(text) => text.clone_into(&mut module.name),
                    None => return fail(at(), "nn.name of the module is not a string"),
                },
                "nn.level" => {
                    let level = value.as_text().and_then(|t| serde_json::from_value(t.into()).ok());
                    let Some(level) = level else { return fail(at(), "nn.level of the module is not a known level") };
                    module.level = level;
                }
                "nn.mesh" => match mesh(cx, value) {
                    Some(mesh) => module.mesh = mesh,
                    None => return fail(at(), "nn.mesh is not a list of axes such as [\"dp\", 2 : i64]"),
                },
                "nn.run" => module.run = run(cx, value).map_err(|e| Broken { text: e, loc: at() })?,
                _ => return fail(at(), format!("the module has an unknown attribute {name:?}")),
            }
        }
        for op in root.blocks().into_iter().flat_map(|b| b.operations().collect::<Vec<_>>()) {
            if op.name() != "func.func" {
                let loc = self.loc(op.place());
                return fail(loc, format!("the module holds a {:?}; it may hold functions only", op.name()));
            }
            module.funcs.push(self.func(op)?);
        }
        Ok(module)
    }

    fn func(&mut self, op: OpRef<'c>) -> Partly<Func> {
        let mut func = Func::new(op.attribute("sym_name").and_then(Attr::as_text).unwrap_or_default());
        let at = |me: &mut Self| me.loc(op.place());
        let [block] = op.blocks()[..] else {
            return fail(at(self), format!("@{} must have a body of one block", func.name));
        };
        let attrs = |name: &str| {
            op.attribute(name)
                .and_then(Attr::as_array)
                .unwrap_or_default()
                .into_iter()
                .map(|a| a.as_dict().unwrap_or_default())
                .collect::<Vec<_>>()
        };
        for i in 0..op.attribute_count() {
            let name = op.attribute_name(i);
            if !matches!(name, "sym_name" | "function_type" | "arg_attrs" | "res_attrs") {
                return fail(at(self), format!("@{} has an unknown attribute {name:?}", func.name));
            }
        }
        let mut values = Values::default();
        let mut arg_attrs = attrs("arg_attrs").into_iter();
        for (i, value) in block.arguments().enumerate() {
            let loc = self.loc(value.place());
            let id = func.new_value(self.ty(value.ty(), &loc)?);
            values.tensors.insert(value.key(), id);
            let mut name = format!("arg{i}");
            let mut attrs = arg_attrs.next().unwrap_or_default();
            let sharding = sharding(&mut attrs).map_err(|text| Broken { text, loc: loc.clone() })?;
            let memory = memory(&mut attrs).map_err(|text| Broken { text, loc: loc.clone() })?;
            let role = self.role(&attrs, &mut name, &loc)?;
            func.params.push(Param { name, value: id, role, sharding, memory, loc });
        }
        let mut returned = None;
        for inner in block.operations() {
            let place = inner.place();
            match inner.name() {
                "func.return" => returned = Some(self.inputs(inner, &values)?),
                BUNDLE => self.bundle(inner, &mut func, &mut values)?,
                _ => {
                    let loc = self.loc(place);
                    self.node(inner, loc, &mut func, &mut values)?;
                }
            }
        }
        let mut res_attrs = attrs("res_attrs").into_iter();
        for (i, value) in returned.unwrap_or_default().into_iter().enumerate() {
            let named = res_attrs.next().unwrap_or_default();
            let mut name = format!("result{i}");
            for (key, value) in named {
                match (key, value.as_text()) {
                    ("nn.name", Some(text)) => text.clone_into(&mut name),
                    _ => return fail(at(self), format!("a result of @{} has a strange attribute {key:?}", func.name)),
                }
            }
            func.results.push(FuncResult { name, value });
        }
        Ok(func)
    }

    fn role(&mut self, attrs: &[(&'c str, Attr<'c>)], name: &mut String, loc: &Loc) -> Partly<Role> {
        let (mut role, mut init, mut decay) = ("input", None, None);
        let (mut load, mut rate) = (None, None);
        for (key, value) in attrs {
            let known = match *key {
                "nn.name" => value.as_text().map(|t| t.clone_into(name)),
                "nn.role" => value.as_text().map(|t| role = t),
                "nn.decay" => value.as_bool().map(|d| decay = Some(d)),
                "nn.load" => value.as_text().map(|t| load = Some(t.to_owned())),
                "nn.rate" => value.as_float(self.cx).map(|r| rate = Some(r)),
                "nn.init" => value.as_dict().and_then(|d| match d[..] {
                    [("normal", v)] => v.as_float(self.cx).map(|std| init = Some(Init::Normal { std })),
                    [("constant", v)] => v.as_float(self.cx).map(|value| init = Some(Init::Constant { value })),
                    _ => None,
                }),
                _ => None,
            };
            if known.is_none() {
                return fail(loc.clone(), format!("attribute {key:?} of parameter {name} is unknown or ill-typed"));
            }
        }
        match (role, init, decay, load, rate) {
            ("input", None, None, None, None) => Ok(Role::Input),
            ("moment", None, None, None, None) => Ok(Role::Moment),
            ("grad", None, None, None, None) => Ok(Role::Grad),
            ("handed", None, None, None, None) => Ok(Role::Handed),
            ("cache", None, None, None, None) => Ok(Role::Cache),
            ("weight", Some(init), Some(decay), None, None) => Ok(Role::Weight { init, decay }),
            ("expert_bias", None, None, Some(load), Some(rate)) => Ok(Role::ExpertBias { load, rate }),
            ("weight", ..) => fail(loc.clone(), format!("weight {name} needs nn.init and nn.decay, and no more")),
            ("expert_bias", ..) => fail(loc.clone(), format!("bias {name} needs nn.load and nn.rate, and no more")),
            ("input" | "moment" | "grad" | "handed" | "cache", ..) => fail(
                loc.clone(),
                format!("parameter {name} is no weight and has no nn.init, nn.decay, nn.load or nn.rate"),
            ),
            _ => fail(loc.clone(), format!("parameter {name} has the unknown role {role:?}")),
        }
    }

    fn inputs(&mut self, op: OpRef<'c>, values: &Values) -> Partly<Vec<ValueId>> {
        let found: Option<Vec<ValueId>> = op.operands().map(|v| values.tensors.get(&v.key()).copied()).collect();
        match found {
            Some(ids) => Ok(ids),
            None => fail(self.loc(op.place()), format!("{:?} reads a tuple", op.name())),
        }
    }

    /// Tensors to a tuple, or a tuple to tensors.
    fn bundle(&mut self, op: OpRef<'c>, func: &mut Func, values: &mut Values) -> Partly<()> {
        let strange = |me: &mut Self| fail(me.loc(op.place()), "a conversion may only make or take apart a tuple");
        let results: Vec<Val<'c>> = op.results().collect();
        if let [tuple] = results[..]
            && tuple.ty().is_tuple()
        {
            let parts = self.inputs(op, values)?;
            let same = tuple.ty().key() == self.cx.tuple(&op.operands().map(Val::ty).collect::<Vec<_>>()).key();
            values.tuples.insert(tuple.key(), parts);
            return if same { Ok(()) } else { strange(self) };
        }
        // The parts of a tuple result were made with the op that returned the tuple: its types are known only here.
        let operands: Vec<Val<'c>> = op.operands().collect();
        let [tuple] = operands[..] else { return strange(self) };
        let Some(maker) = values.unopened.remove(&tuple.key()) else { return strange(self) };
        for result in results {
            let loc = self.loc(op.place());
            let ty = self.ty(result.ty(), &loc)?;
            let id = func.new_value(ty);
            values.tensors.insert(result.key(), id);
            func.nodes[maker].outputs.push(id);
        }
        Ok(())
    }

    fn node(&mut self, op: OpRef<'c>, loc: Loc, func: &mut Func, values: &mut Values) -> Partly<()> {
        let name = op.name();
        let mut reader = Reader { op, cx: self.cx, read: 0, name };
        let made = match name {
            "func.call" => reader.symbol("callee").map(|callee| Some(Op::Call { callee })),
            _ => match name.strip_prefix("nn.") {
                Some(short) => build(short, &mut reader),
                None => Ok(None),
            },
        };
        let read = reader.read;
        let made = match made {
            Ok(Some(made)) => made,
            Ok(None) => return fail(loc, format!("there is no op {name:?}")),
            Err(text) => return fail(loc, text),
        };
        if op.attribute_count() != read {
            let mut known = vec![];
            super::table::visit(&made, |name, _| known.push(name));
            let other = (0..op.attribute_count()).map(|i| op.attribute_name(i)).find(|n| !known.contains(n));
            return fail(loc, format!("{name} has an unknown attribute {:?}", other.unwrap_or_default()));
        }
        let operands: Vec<Val<'c>> = op.operands().collect();
        let inputs = match operands[..] {
            [one] if !values.tensors.contains_key(&one.key()) => match values.tuples.get(&one.key()) {
                Some(parts) => parts.clone(),
                None => return fail(loc, format!("{name} reads a tuple that it cannot take")),
            },
            _ => self.inputs(op, values)?,
        };
        let mut outputs = vec![];
        for result in op.results() {
            if result.ty().is_tuple() {
                values.unopened.insert(result.key(), func.nodes.len());
            } else {
                let id = func.new_value(self.ty(result.ty(), &loc)?);
                values.tensors.insert(result.key(), id);
                outputs.push(id);
            }
        }
        func.nodes.push(Node { op: made, inputs, outputs, loc });
        Ok(())
    }

    fn ty(&mut self, ty: Ty<'c>, loc: &Loc) -> Partly<TensorType> {
        if let Some(known) = self.types.get(&ty.key()) {
            return Ok(known.clone());
        }
        let Some((element, dims)) = ty.as_tensor() else {
            return fail(loc.clone(), "a value is not a tensor with dims and without encoding");
        };
        let Some(dtype) = self.dtypes.get(&element.key()) else {
            return fail(loc.clone(), "a tensor has an element type other than f64, f32, bf16, f16 and i32");
        };
        let dims: Option<Vec<usize>> = dims.into_iter().map(|d| usize::try_from(d).ok()).collect();
        let Some(dims) = dims else { return fail(loc.clone(), "a tensor has a dim that is not static") };
        let elements = dims.iter().try_fold(1_usize, |n, d| n.checked_mul(*d.max(&1)));
        if elements.is_none_or(|n| n > MOST_ELEMENTS) {
            return fail(loc.clone(), format!("a tensor of dims {dims:?} is larger than any machine"));
        }
        let made = TensorType { dtype: *dtype, dims };
        self.types.insert(ty.key(), made.clone());
        Ok(made)
    }

    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let made: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&made));
        made
    }

    fn loc(&mut self, place: Place<'c>) -> Loc {
        if let Some(known) = self.places.get(&place.key()) {
            return known.clone();
        }
        let loc = read_place(place, |text| self.share(text));
        self.places.insert(place.key(), loc.clone());
        loc
    }
}

/// The block and the file that a location names.
pub(super) fn read_place(place: Place<'_>, mut share: impl FnMut(&str) -> Arc<str>) -> Loc {
    let mut loc = Loc::default();
    let mut at = Some(place);
    while let Some(place) = at {
        at = None;
        if let Some((name, child)) = place.as_named() {
            if loc.block.is_empty() {
                loc.block = share(name);
            }
            at = Some(child);
        } else if let Some((file, line, col)) = place.as_file() {
            (loc.file, loc.line, loc.col) = (share(file), line, col);
        } else if let Some(part) = place.as_composed() {
            at = Some(part);
        }
    }
    loc
}

/// Takes the sharding of a parameter out of its attributes.
fn sharding(attrs: &mut Vec<(&str, Attr<'_>)>) -> Result<Sharding, String> {
    let axes =
        |a: Attr<'_>| a.as_array()?.into_iter().map(|t| Some(t.as_text()?.to_owned())).collect::<Option<Vec<_>>>();
    let mut take = |name: &str| attrs.iter().position(|(n, _)| *n == name).map(|i| attrs.remove(i).1);
    let dims = take("nn.cut").map_or(Some(vec![]), |a| a.as_array()?.into_iter().map(axes).collect());
    let partial = take("nn.partial").map_or(Some(vec![]), axes);
    match (dims, partial) {
        (Some(dims), Some(partial)) => Ok(Sharding { dims, partial }),
        _ => Err("nn.cut is no list of axes for each dim such as [[], [\"tp\"]], or nn.partial no list of axes".into()),
    }
}

/// Takes the memory of a parameter out of its attributes.
fn memory(attrs: &mut Vec<(&str, Attr<'_>)>) -> Result<Memory, String> {
    let Some(i) = attrs.iter().position(|(n, _)| *n == "nn.memory") else { return Ok(Memory::Device) };
    let found = attrs.remove(i).1.as_text().and_then(Memory::of_name);
    found.ok_or_else(|| "nn.memory is neither \"device\" nor \"host\"".into())
}

fn mesh<'c>(cx: Cx<'c>, value: Attr<'c>) -> Option<Mesh> {
    let axis = |a: Attr<'c>| match a.as_array()?[..] {
        [name, size] => Some(Axis { name: name.as_text()?.to_owned(), size: usize::try_from(size.as_int(cx)?).ok()? }),
        _ => None,
    };
    Some(Mesh { axes: value.as_array()?.into_iter().map(axis).collect::<Option<Vec<_>>>()? })
}

fn run<'c>(cx: Cx<'c>, value: Attr<'c>) -> std::result::Result<RunSpec, String> {
    let mut given = json::from_attribute(cx, value).map_err(|e| format!("nn.run: {e}"))?;
    // What a hand leaves out is as in a module without nn.run.
    if let (Some(given), Ok(serde_json::Value::Object(bare))) =
        (given.as_object_mut(), serde_json::to_value(bare_run()))
    {
        for (key, value) in bare {
            given.entry(key).or_insert(value);
        }
    }
    serde_json::from_value(given).map_err(|e| format!("nn.run is not a run specification: {e}"))
}

/// Reads the attributes of one op and counts them.
struct Reader<'c> {
    op: OpRef<'c>,
    cx: Cx<'c>,
    read: usize,
    name: &'c str,
}

impl<'c> Reader<'c> {
    fn get<T>(
        &mut self,
        name: &'static str,
        kind: &str,
        of: impl FnOnce(Attr<'c>, Cx<'c>) -> Option<T>,
    ) -> std::result::Result<T, String> {
        self.read += 1;
        let Some(attr) = self.op.attribute(name) else {
            return Err(format!("{} lacks its attribute {name:?} ({kind})", self.name));
        };
        of(attr, self.cx).ok_or_else(|| format!("attribute {name:?} of {} is not {kind}", self.name))
    }

    fn symbol(&mut self, name: &'static str) -> std::result::Result<String, String> {
        self.get(name, "the name of a function", |a, _| a.as_symbol().map(str::to_owned))
    }
}

impl Fields for Reader<'_> {
    type Error = String;

    fn float(&mut self, name: &'static str) -> std::result::Result<F64, String> {
        self.get(name, "an f64", |a, cx| a.as_float(cx).map(F64))
    }

    fn int(&mut self, name: &'static str) -> std::result::Result<usize, String> {
        self.get(name, "an i64 from 0", |a, cx| usize::try_from(a.as_int(cx)?).ok())
    }

    fn bool(&mut self, name: &'static str) -> std::result::Result<bool, String> {
        self.get(name, "true or false", |a, _| a.as_bool())
    }

    fn text(&mut self, name: &'static str) -> std::result::Result<String, String> {
        self.get(name, "a string", |a, _| a.as_text().map(str::to_owned))
    }

    fn word<T>(&mut self, name: &'static str, of: impl Fn(&str) -> Option<T>) -> std::result::Result<T, String> {
        self.get(name, "one of its words", |a, _| a.as_text().and_then(of))
    }

    fn ints(&mut self, name: &'static str) -> std::result::Result<Vec<usize>, String> {
        self.get(name, "an array of i64 from 0", |a, _| {
            a.as_ints()?.into_iter().map(|i| usize::try_from(i).ok()).collect()
        })
    }

    fn floats(&mut self, name: &'static str) -> std::result::Result<Vec<F64>, String> {
        self.get(name, "an array of f64", |a, _| Some(a.as_floats()?.into_iter().map(F64).collect()))
    }
}
